"""The page's style sheet and its only script: allowed by their hashes, and nothing else is."""

from __future__ import annotations

import base64
import hashlib

COLOURS = 8
DASHES = ("none", "7 3", "2 3", "9 3 2 3")  # for eyes, and printers, that do not tell colours

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --faint: #59636e; --rule: #d5dae0;
  --warn: #8a4b00; --warn-paper: #fff4e0;
  --s0: #0b66c3; --s1: #c44601; --s2: #1a7f37; --s3: #8250df;
  --s4: #9a6700; --s5: #bf3989; --s6: #117a7a; --s7: #57606a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12161c; --card: #1b2129; --ink: #e6e9ed; --faint: #a0aab5; --rule: #37404b;
    --warn: #ffc680; --warn-paper: #33260f;
    --s0: #6cb0ff; --s1: #ff9a62; --s2: #5fd07a; --s3: #c3a3ff;
    --s4: #e6bd4c; --s5: #ff8fc7; --s6: #5fd3d3; --s7: #b4bdc7;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1320px; padding: 20px 20px 60px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
h1 { font-size: 24px; margin: 0 0 4px; }
h2 {
  font-size: 19px; margin: 36px 0 10px; padding-bottom: 4px;
  border-bottom: 1px solid var(--rule);
}
h3 { font-size: 15px; margin: 0 0 6px; }
p { margin: 4px 0 10px; }
.faint, figcaption, .scale { color: var(--faint); font-size: 13px; }
bdi, td, th { overflow-wrap: anywhere; }
.cards {
  display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
}
.wide {
  align-items: start; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
}
.scale { white-space: nowrap; }
.card { background: var(--card); border-radius: 8px; padding: 12px 14px; min-width: 0; }
.missing {
  color: var(--warn); background: var(--warn-paper); border-radius: 6px;
  padding: 8px 12px 8px 28px; margin: 8px 0; font-size: 13px;
}
.mark { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px; }
.faint .mark { width: 9px; height: 9px; margin: 0 4px 0 6px; }
.legend {
  display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 12px; padding: 0; list-style: none;
}
svg.chart { width: 100%; height: auto; display: block; }
.strip svg.chart { max-width: 440px; }
svg text { fill: var(--faint); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.band { opacity: .2; stroke: none; }
.best { stroke: var(--ink); stroke-width: 2; }
svg.map {
  width: 100%; max-width: 260px; height: auto; display: block; shape-rendering: crispEdges;
  background: var(--rule);
}
svg.ramp { width: 70px; height: 10px; vertical-align: middle; }
.maps { display: flex; flex-wrap: wrap; gap: 14px; }
.maps > div { flex: 1 1 150px; max-width: 260px; }
.slider {
  display: none; position: sticky; top: 0; z-index: 1; gap: 12px; align-items: center;
  padding: 10px 0; background: var(--paper);
}
.js .slider { display: flex; }
.slider input { flex: 1; min-width: 0; accent-color: var(--s0); height: 28px; }
.slider output { min-width: 8em; text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 0 0 12px; }
figure[hidden] { display: none; }
figure img { width: 100%; height: auto; display: block; border-radius: 4px; background: #fff; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td {
  text-align: left; vertical-align: top; padding: 4px 12px 4px 0;
  border-bottom: 1px solid var(--rule); min-width: 7em;
}
tr.differs td, tr.differs th { font-weight: 600; }
summary { cursor: pointer; padding: 6px 0; }
""" + "".join(
    f".line.s{i} {{ stroke: var(--s{i}); stroke-dasharray: {DASHES[i % 4]}; }}\n"
    f".band.s{i}, .bar.s{i}, .dot.s{i} {{ fill: var(--s{i}); }}\n"
    f".mark.s{i} {{ background: var(--s{i}); }}\n"
    for i in range(COLOURS)
)

SCRIPT = """
"use strict";
const slider = document.getElementById("step");
if (slider) {
  document.documentElement.classList.add("js");
  const steps = slider.dataset.steps.split(" ").map(Number);
  const shown = document.getElementById("shown");
  const strips = [...document.querySelectorAll(".strip")].map((strip) => [...strip.children]);
  const show = () => {
    const step = steps[slider.value];
    shown.textContent = "step " + step;
    for (const figures of strips) {
      let chosen = figures[0];
      for (const figure of figures) if (Number(figure.dataset.step) <= step) chosen = figure;
      for (const figure of figures) figure.hidden = figure !== chosen;
    }
  };
  slider.addEventListener("input", show);
  show();
}
"""


def _hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


POLICY = (
    "default-src 'none'; img-src data:; "
    f"style-src 'sha256-{_hash(STYLE)}'; script-src 'sha256-{_hash(SCRIPT)}'; "
    "base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy: no network, no plug-ins, no script or style but ours."""
