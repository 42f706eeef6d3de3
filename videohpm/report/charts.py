"""Curves, bars and maps as inline SVG, coloured by the page's style sheet (classes s0 … s7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import matplotlib

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 30
MOST_POINTS = 240
SERIES = 8

Point = tuple[float, float | None]


def text(value: object) -> str:
    """Any text as HTML shows it and never runs it; what UTF-8 cannot say becomes '?'."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return escape("".join(c if c >= " " or c in "\t\n" else "\ufffd" for c in plain), quote=True)


def short(value: float | None) -> str:
    """A number in few letters."""
    return "–" if value is None else f"{value:.4g}"


def curve(title: str, series: Sequence[tuple[str, int, list[Point]]]) -> str:
    """Lines over steps; a band shows the spread where many points share a pixel.

    Args:
        title: what is drawn, for those who cannot see it.
        series: name, colour number and points (step, value; None where there is no number).
    """
    found = [(x, y) for _, _, points in series for x, y in points if y is not None]
    if not found:
        return '<p class="none">no numbers</p>'
    frame = _Frame.around([x for x, _ in found], [y for _, y in found])
    parts, labels = [frame.axes("step")], []
    for name, colour, points in series:
        known = [y for _, y in points if y is not None]
        if not known:
            continue
        labels.append(f"{name}: {short(known[0])} to {short(known[-1])}")
        parts += [_one_curve(frame, piece, colour % SERIES) for piece in _pieces(thinned(points))]
    return _svg(f"{title}; {'; '.join(labels)}", "".join(parts))


def thinned(points: list[Point], most: int = MOST_POINTS) -> list[tuple]:
    """At most ``most`` of (x, mean, lowest, highest); a gap (None) where no value is a number."""
    size = max(1, math.ceil(len(points) / most))
    rows = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        known = [y for _, y in part if y is not None]
        x = sum(x for x, _ in part) / len(part)
        mean = sum(y / len(known) for y in known) if known else None
        rows.append((x, mean, min(known, default=None), max(known, default=None)))
    return rows


def _pieces(rows: list[tuple]) -> list[list[tuple]]:
    """The rows, broken where there is no number."""
    pieces: list[list[tuple]] = [[]]
    for row in rows:
        if row[1] is None:
            pieces.append([])
        else:
            pieces[-1].append(row)
    return [piece for piece in pieces if piece]


def _one_curve(frame: _Frame, rows: list[tuple], colour: int) -> str:
    line = " ".join(f"{frame.x(x):.1f},{frame.y(mean):.1f}" for x, mean, _, _ in rows)
    if len(rows) == 1:
        x, y = line.split(",")
        return f'<circle class="dot s{colour}" cx="{x}" cy="{y}" r="2.5"/>'
    band = ""
    if any(low != high for _, _, low, high in rows):
        upper = [f"{frame.x(x):.1f},{frame.y(high):.1f}" for x, _, _, high in rows]
        lower = [f"{frame.x(x):.1f},{frame.y(low):.1f}" for x, _, low, _ in reversed(rows)]
        band = f'<polygon class="band s{colour}" points="{" ".join(upper + lower)}"/>'
    return f'{band}<polyline class="line s{colour}" points="{line}"/>'


def calibration(bins: dict, colour: int) -> str:
    """True loss of what was predicted easy … hard (bars), and what a right order would give."""
    pairs = list(zip(bins["loss"], bins["best"], strict=False))
    values = [value for pair in pairs for value in pair if value is not None]
    if not values:
        return '<p class="none">no numbers</p>'
    frame = _Frame.around([0.0, 1.0], [0.0, *values])
    parts = [frame.axes("predicted rank: easy to hard")]
    size = 1 / len(pairs)
    for index, (loss, best) in enumerate(pairs):
        left, right = frame.x(index * size) + 1, frame.x((index + 1) * size) - 1
        if loss is not None:
            top, bottom = sorted((frame.y(loss), frame.y(0)))
            parts.append(
                f'<rect class="bar s{colour % SERIES}" x="{left:.1f}" y="{top:.1f}" '
                f'width="{right - left:.1f}" height="{bottom - top:.1f}">'
                f"<title>{short(loss)}; in right order {short(best)}</title></rect>"
            )
        if best is not None:
            y = frame.y(best)
            parts.append(
                f'<line class="best" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
    losses = ", ".join(short(loss) for loss, _ in pairs)
    return _svg(f"mean true loss by predicted rank, easy to hard: {losses}", "".join(parts))


def heat_map(title: str, rows: list[list[float | None]], percent: bool) -> str:
    """A value for each position in the frame, dark low and light high, with its scale."""
    known = [cell for row in rows for cell in row if cell is not None]
    if not known:
        return '<p class="none">no numbers</p>'
    low, high = min(known), max(known)
    tall, wide = len(rows), len(rows[0])
    cells = []
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            if cell is None:
                continue
            share = (cell - low) / (high - low) if high > low else 0.0
            cells.append(
                f'<rect x="{x}" y="{y}" width="1.02" height="1.02" fill="{_colour(share)}">'
                f"<title>row {y + 1}, column {x + 1}: {_said(cell, percent)}</title></rect>"
            )
    scale = "".join(
        f'<rect x="{i}" y="0" width="1.05" height="1" fill="{_colour(i / 15)}"/>' for i in range(16)
    )
    ends = f"{_said(low, percent)}", f"{_said(high, percent)}"
    return (
        f'<svg class="map" viewBox="0 0 {wide} {tall}" role="img" '
        f'aria-label="{text(f"{title}, from {ends[0]} to {ends[1]}")}">{"".join(cells)}</svg>'
        f'<p class="scale">{ends[0]} <svg class="ramp" viewBox="0 0 16 1" aria-hidden="true" '
        f'preserveAspectRatio="none">{scale}</svg> {ends[1]}</p>'
    )


def _said(value: float, percent: bool) -> str:
    return f"{100 * value:.0f}%" if percent else f"{value:.3g}"


def _colour(share: float) -> str:
    red, green, blue, _ = matplotlib.colormaps["viridis"](share, bytes=True)
    return f"#{red:02x}{green:02x}{blue:02x}"


class _Frame:
    """From numbers to places in the picture, and the axes."""

    def __init__(self, xs: list[float], ys: list[float]):
        self.xs, self.ys = xs, ys

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float]) -> _Frame:
        return cls(_ends(min(xs), max(xs)), ticks(*_ends(min(ys), max(ys))))

    def x(self, value: float) -> float:
        return LEFT + _share(value, self.xs) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - _share(value, self.ys) * (HEIGHT - TOP - BOTTOM)

    def axes(self, below: str) -> str:
        parts = []
        for value in self.ys:
            y = self.y(value)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>'
            )
        low = HEIGHT - BOTTOM + 16
        if below == "step":
            for value in ticks(*self.xs):
                if self.xs[0] <= value <= self.xs[-1]:
                    anchor = "end" if self.x(value) > WIDTH - 30 else "middle"
                    parts.append(
                        f'<text x="{self.x(value):.1f}" y="{low}" text-anchor="{anchor}">'
                        f"{_tick(value)}</text>"
                    )
        else:
            middle = (LEFT + WIDTH - RIGHT) / 2
            parts.append(f'<text x="{middle}" y="{low}" text-anchor="middle">{text(below)}</text>')
        return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from at or below ``low`` to at or above ``high``."""
    raw = (high - low) / 4
    if not raw > 0 or not math.isfinite(raw):
        return [low, high]
    size = 10.0 ** math.floor(math.log10(raw))
    size = next((size * m for m in (1, 2, 2.5, 5, 10) if size * m >= raw * 0.999), size * 10)
    if size == 0:
        return [low, high]
    first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [round(i * size, 12) if abs(size) > 1e-9 else i * size for i in range(first, last + 1)]


def _ends(low: float, high: float) -> list[float]:
    """The ends of an axis, apart from each other even where all values are one."""
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return [low, high]
    if low == high == 0:
        return [0.0, 1.0]
    room = abs(low) * 0.1
    return [low - room, high + room]


def _share(value: float, ends: list[float]) -> float:
    span = ends[-1] - ends[0]
    return (value - ends[0]) / span if span and math.isfinite(span) else 0.5


def _tick(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return f"{value:.6g}"


def _svg(label: str, inside: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}">'
        f"{inside}</svg>"
    )
