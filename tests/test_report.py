"""The report: nothing is fetched, nothing foreign runs, and what is missing is said."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from chromium import Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from videohpm.cli import main
from videohpm.errors import UserError
from videohpm.evaluate.results import draw_confusion
from videohpm.report import charts, load_run, load_runs, page, report
from videohpm.report.runs import MOST_PICTURES, flatten, signature
from videohpm.report.style import POLICY

HOSTILE = "<script>document.title='run'</script>\"' onerror=x </style> видео 動画 &amp;"
SOLID = {100: (200, 30, 30), 200: (30, 200, 30), 300: (30, 30, 200)}


def make_run(folder, steps=300, hostile="plain", hpm=True):
    """A run folder such as training leaves."""
    for inner in ("pictures", "diagnostics", "checkpoints/step_00000300"):
        (folder / inner).mkdir(parents=True)
    rows = [
        {
            "step": step,
            "loss": 1 / step,
            "lr": 0.1,
            "clips_per_second": 50.0,
            "hard_ratio": step / 600,
        }
        for step in range(10, steps + 1, 10)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"run": {"steps": 300}, "data": {"root": f"/data/{hostile}"}, hostile: [1, 2]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": hostile}}))
    (folder / "evaluation.json").write_text(json.dumps({"top1": 71.25, "classes": {hostile: 1}}))
    (folder / "bad_files.jsonl").write_text(
        json.dumps({"path": f"{hostile}.mp4", "reason": f"no frames {hostile}"}) + "\n"
    )
    for step, colour in SOLID.items():
        if step <= steps:
            picture = Image.new("RGB", (40, 20), colour)
            picture.save(folder / "pictures" / f"reconstruction_{step:07d}.png")
            hard = [[0, step / 300], [0.25, 0]]
            said = {"clips": 2, "maps": {"loss": [[1, 2], [3, None]]}, "calibration": None}
            if hpm:
                said["maps"]["hard"] = hard
                said["calibration"] = {"loss": [1, 2, 4], "best": [1, 3, 3], "count": [5, 5, 5]}
            file = folder / "diagnostics" / f"step_{step:08d}.json"
            file.write_text(json.dumps(said))
    state = folder / "checkpoints" / "step_00000300" / "state.json"
    state.write_text(json.dumps({"step": 300, "steps": 300, "samples": 1234}))
    return folder


class Elements(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.attributes = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def page_of(*folders, **more):
    return page(load_runs([str(folder) for folder in folders]), **more)


def test_everything_of_a_run_is_in_the_page(tmp_path):
    html = page_of(make_run(tmp_path / "night"))
    for said in (
        "night", "step 300 of 300 (done)", "1,234 samples", "training loss",
        "learning rate", "clips a second", "share of the mask", "71.25", "1 files could not",
        "plain.mp4", "run.steps", "packages.torch",
    ):  # fmt: skip
        assert said in html, said
    assert html.count("data:image/png;base64,") == 3
    assert "not there" not in html and 'class="missing"' not in html


def test_the_page_asks_for_nothing_and_runs_only_its_script(tmp_path):
    html = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", hpm=False))
    found = Elements(html)
    assert found.tags.count("script") == 1
    for tag, name, value in found.attributes:
        assert not name.startswith("on") and name != "style", (tag, name)
        if name in ("src", "href", "action", "data", "poster", "srcset", "background"):
            assert value.startswith("data:"), (tag, name, value[:50])
    for forbidden in ("link", "iframe", "object", "embed", "form", "base"):
        assert found.tags.count(forbidden) == (forbidden == "link")
    assert not re.search(r"url\(|@import|https?:|//[a-z]", html.replace("data:", ""))
    assert "default-src 'none'" in html and "unsafe" not in POLICY


def test_hostile_names_are_shown_and_not_run(tmp_path):
    folder = make_run(tmp_path / "<img src=x onerror=alert(1)>'\"", hostile=HOSTILE)
    (folder / "pictures" / "reconstruction_0000100.png").rename(
        folder / "pictures" / "<b onclick='x'>\"_0000100.png"
    )
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 301, HOSTILE: 1.0, "loss": 0.1}) + "\n")
    html = page_of(folder)
    found = Elements(html)
    assert found.tags.count("script") == 1 and found.tags.count("style") == 1
    assert "b" not in found.tags
    assert {name for tag, name, _ in found.attributes if tag == "img"} == {"src", "alt"}
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    shown = "".join(found.texts)
    assert shown.count(HOSTILE) >= 5
    assert "<img src=x onerror=alert(1)>'\"" in shown


def test_names_that_no_encoding_can_say(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "bad_files.jsonl").write_text(
        '{"path": "a\\udcff\\u0000b.mp4", "reason": "\\u0007"}\n'
    )
    report([str(folder)], str(tmp_path / "out" / "report.html"))
    html = (tmp_path / "out" / "report.html").read_bytes().decode("utf-8")
    assert "a?\ufffdb.mp4" in html and "\x00" not in html and "\x07" not in html
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_text_is_text(value):
    assert not set("<>\"'") & set(charts.text(value))
    charts.text(value).encode("utf-8")


def test_a_nearly_empty_folder_says_what_is_missing(tmp_path, capsys):
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "bad_files.jsonl").touch()
    html = page_of(folder)
    for name in ("metrics.jsonl", "config.yaml", "environment.json", "pictures", "diagnostics"):
        assert f"<li>{name}: no" in html
    with pytest.raises(UserError, match="no such folder"):
        load_runs([str(tmp_path / "absent")])
    report([str(folder)], str(tmp_path / "report.html"))
    said = "not shown, or only in part: 5 (the top of the page says what and why)"
    assert said in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_refused_and_runs_below_it_are_named(tmp_path):
    (tmp_path / "vids").mkdir()
    (tmp_path / "vids/a.mp4").touch()
    with pytest.raises(UserError, match=r"vids: holds no run \(no .*\); give a run folder$"):
        load_runs([str(tmp_path / "vids")])
    for name in "dcba":
        make_run(tmp_path / name)
    with pytest.raises(UserError, match="give a run folder, such as ") as error:
        load_runs([str(tmp_path)])
    named = str(error.value).partition("such as ")[2].split(", ")
    assert named == [str(tmp_path / name) for name in "abc"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("vids", "vids is a folder; name a file, such as vids/report.html"),
        ("rep.pdf", "rep.pdf must end in .html or .htm"),
        ("notes.txt/rep.html", "notes.txt is no folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_first(tmp_path, monkeypatch, capsys, output, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vids").mkdir()
    (tmp_path / "notes.txt").touch()
    assert main(["report", "no-run-is-read", "-o", output]) == 2
    line = capsys.readouterr().err.strip()
    assert "output: " in line and said in line and "\n" not in line
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "vids"]


def test_a_fine_tuning_lacks_no_pictures(tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/config.yaml").write_text("augment: {mixup: 0.0}\n")
    html = page_of(tmp_path / "tuned")
    assert "<li>metrics.jsonl: no" in html
    assert "<li>pictures" not in html and "<li>diagnostics" not in html


DAMAGE = {
    "metrics.jsonl": b'{"step": 10, "loss": 1.0}\n{"step": 20, "lo',
    "config.yaml": b"run: {steps: [",
    "environment.json": b"\xff\xfe",
    "evaluation.json": b"{",
    "confusion.png": b"\x89PNG\r\n\x1a\n half a picture",
    "bad_files.jsonl": b'{"path": "x", "rea',
    "pictures/reconstruction_0000200.png": b"\x89PNG\r\n\x1a\n half a picture",
    "diagnostics/step_00000200.json": b'{"maps": {"hard": [[1], [2, 3]]}}',
    "checkpoints/step_00000300/state.json": b"",
}


def test_the_confusions_of_an_evaluated_run_are_in_the_page(tmp_path):
    """Of the test at the end of fine-tuning, and of tests made later."""
    folder = make_run(tmp_path / "run", hpm=False)
    (folder / "evaluation").mkdir()
    before = signature(folder)
    draw_confusion(folder / "confusion.png", np.array([[3, 1], [0, 4]]), ["cat", "dog"])
    draw_confusion(folder / "evaluation" / "confusion.png", np.eye(40), None)
    assert signature(folder) != before, "a page that follows the run shows them at once"
    run = load_run(folder, "run")
    assert list(run.confusions) == ["confusion.png", "evaluation/confusion.png"]
    html = page_of(folder)
    for uri in run.confusions.values():
        kind, _, picture = uri.partition(";base64,")
        assert kind.startswith("data:image/") and html.count(uri) == 1
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert min(image.size) > 300
    assert "<h2>Confusions</h2>" in html and "Confusions" not in page_of(make_run(tmp_path / "b"))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path, name):
    folder = make_run(tmp_path / "run")
    (folder / name).write_bytes(DAMAGE[name])
    run = load_run(folder, "run")
    assert len(run.missing) == 1 and name in run.missing[0]
    html = page([run])
    assert name in html and "training loss" in html and "<img" in html


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[[[]]]", b'{"step": "x"}', b"3", b"\0"])
def test_no_content_breaks_the_page(tmp_path, name, content):
    folder = make_run(tmp_path / "run")
    (folder / name).write_bytes(content)
    assert page_of(folder).endswith("</html>\n")


def test_folders_where_files_should_be(tmp_path):
    for name in DAMAGE:
        (tmp_path / "run" / name).mkdir(parents=True)
    assert "metrics.jsonl: not there" in page_of(tmp_path / "run")


def test_numbers_that_are_none(tmp_path):
    folder = make_run(tmp_path / "run")
    lines = [
        '{"step": 1, "loss": NaN}', '{"step": 2, "loss": null}', '{"step": 3, "loss": Infinity}',
        '{"step": 4, "loss": "5"}', '{"step": 5, "loss": 1e999}', '{"step": 1e999, "loss": 1}',
        '{"step": -1, "loss": 1}', '{"step": 6, "loss": 1' + "0" * 400 + "}", '{"step": true}',
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    run = load_run(folder, "run")
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4, 5, 6]
    assert all(row["loss"] is None for row in run.metrics)
    assert "3 lines without a step" in run.missing[0]
    assert "nan" not in page([run]).split("<body>")[1].lower()


def test_yaml_that_would_grow_without_end_stays_small(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    folder = make_run(tmp_path / "run")
    (folder / "config.yaml").write_text("\n".join(lines))
    assert len(page_of(folder)) < 1_000_000
    looped = {}
    looped["again"] = looped
    assert len(flatten(looped)) == 1


def test_runs_side_by_side(tmp_path):
    a, b = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", hpm=False)
    config = yaml.safe_load((b / "config.yaml").read_text()) | {"seed": 7}
    (b / "config.yaml").write_text(yaml.safe_dump(config))
    html = page_of(a, b)
    assert "a/run" in html and "b/run" in html
    assert "1 differ" in html and "<tr class=differs><th>seed</th>" in html
    card = re.search(r"<h3>training loss</h3>.*?</div>", html, re.S)[0]
    assert card.count("<polyline") == 2


def test_long_runs_stay_small(tmp_path):
    folder = make_run(tmp_path / "run")
    rows = (json.dumps({"step": i, "loss": float(i % 7)}) + "\n" for i in range(30_000))
    (folder / "metrics.jsonl").write_text("".join(rows))
    noise = np.random.default_rng(0).integers(0, 256, (500, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "pictures" / "large_0000001.png")
    for step in range(60):
        Image.new("RGB", (8, 8)).save(folder / "pictures" / f"many_{step:07d}.png")
    run = load_run(folder, "run")
    steps = [step for step, _ in run.pictures["many"]]
    assert len(steps) == MOST_PICTURES and steps[0] == 0 and steps[-1] == 59
    assert run.pictures["large"][0][1].startswith("data:image/webp")
    assert len(page([run])) < 700_000


def test_a_changed_file_changes_the_signature(tmp_path):
    folder = make_run(tmp_path / "run")
    seen = {signature(folder)}
    (folder / "evaluation").mkdir()
    names = ["metrics.jsonl", "pictures/new_0000001.png", "diagnostics/step_00000001.json"]
    names += ["confusion.png", "evaluation/confusion.png"]
    for name in names:
        with (folder / name).open("ab") as file:
            file.write(b"x")
        seen.add(signature(folder))
    assert len(seen) == 1 + len(names)


# --- curves -------------------------------------------------------------------------------------


values = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(st.integers(0, 10**12), st.one_of(st.none(), values)), max_size=30))
@settings(max_examples=150, deadline=None)
def test_curves_of_any_numbers_stay_within_their_frame(points):
    points.sort(key=lambda point: point[0])
    svg = charts.curve("x", [("a", 0, points)])
    for pair in re.findall(r'(?:points|cx)="([^"]*)"', svg):
        for number in re.findall(r"-?[\d.]+(?:e[+-]?\d+)?|nan|inf", pair):
            assert -1 <= float(number) <= charts.WIDTH + 1


def test_a_curve_goes_through_its_points():
    svg = charts.curve("x", [("a", 0, [(0, 0.0), (50, 1.0), (100, 4.0)])])
    line = re.search(r'polyline class="line s0" points="([^"]*)"', svg)[1]
    got = np.array([[float(n) for n in pair.split(",")] for pair in line.split()])
    bottom, top = charts.HEIGHT - charts.BOTTOM, charts.TOP
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    np.testing.assert_allclose(got[:, 0], [left, (left + right) / 2, right], atol=0.06)
    np.testing.assert_allclose(got[:, 1], [bottom, bottom - (bottom - top) / 4, top], atol=0.06)


def test_a_gap_breaks_the_curve():
    svg = charts.curve("x", [("a", 0, [(0, 1.0), (1, 2.0), (2, None), (3, 1.0), (4, 2.0)])])
    assert svg.count("<polyline") == 2


def test_many_points_become_means_with_their_spread():
    points = [(i, float(i % 2)) for i in range(1000)]
    rows = charts.thinned(points, most=100)
    assert len(rows) == 100
    assert all((mean, low, high) == (0.5, 0, 1) for _, mean, low, high in rows)
    assert "<polygon" in charts.curve("x", [("a", 0, points)])


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
@settings(max_examples=150, deadline=None)
def test_ticks_are_few_and_enclose(low, span):
    span = max(span, 1e-6 * abs(low))  # closer than that, floating point decides
    marks = charts.ticks(low, low + span)
    if len(marks) > 2:
        assert len(marks) <= 8
        assert marks[0] <= low + span * 1e-6 and marks[-1] >= low + span * (1 - 1e-6)


def test_the_map_has_each_value_in_its_place():
    svg = charts.heat_map("x", [[0.0, None, 0.5], [1.0, 0.25, 0.0]], percent=True)
    cells = re.findall(r'<rect x="(\d)" y="(\d)"[^>]*fill="([^"]*)"><title>[^:]*: (\d+)%', svg)
    assert {(int(x), int(y)): int(said) for x, y, _, said in cells} == {
        (0, 0): 0, (2, 0): 50, (0, 1): 100, (1, 1): 25, (2, 1): 0,
    }  # fmt: skip
    colours = {int(said): colour for _, _, colour, said in cells}
    assert colours[0] == "#440154" and colours[100].startswith("#fde7")  # viridis's ends


# --- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def opened(browser, tmp_path, *runs, **look):
    file = tmp_path / "report <1>.html"
    report([str(run) for run in runs], str(file))
    browser.look(**{"width": 1400} | look)
    browser.open(file.as_uri())
    return file


SHOWN = "[...document.querySelectorAll('.strip figure')].filter(f => f.offsetHeight > 0)"


@pytest.mark.slow
def test_the_slider_is_moved_and_its_value_read(browser, tmp_path):
    file = opened(browser, tmp_path, make_run(tmp_path / "run"))
    assert browser.value("document.getElementById('shown').textContent") == "step 300"
    browser.value("document.getElementById('step').scrollIntoView({block: 'center'})")
    box = "document.getElementById('step').getBoundingClientRect()"
    left, top, width, height = (
        browser.value(f"{box}.{side}") for side in ("left", "top", "width", "height")
    )
    for place, step in ((0.5, 200), (0.02, 100), (0.98, 300)):
        browser.click(left + place * width, top + height / 2)
        assert browser.value("document.getElementById('shown').textContent") == f"step {step}"
        assert set(browser.value(f"{SHOWN}.map(f => f.dataset.step)")) == {str(step)}
        colour = browser.value(
            "(() => { const c = document.createElement('canvas').getContext('2d');"
            f"c.drawImage({SHOWN}.map(f => f.querySelector('img')).find(i => i), 0, 0);"
            "return [...c.getImageData(3, 3, 1, 1).data].slice(0, 3); })()"
        )
        assert tuple(colour) == SOLID[step]
    browser.press("ArrowLeft", 37)
    assert browser.value("document.getElementById('shown').textContent") == "step 200"
    assert [url for url in browser.requests if not url.startswith("data:")] == [file.as_uri()]
    assert browser.complaints == []


@pytest.mark.slow
def test_hostile_names_do_not_run_in_a_browser(browser, tmp_path):
    folder = make_run(tmp_path / "<img src=x onerror=document.title=1>", hostile=HOSTILE)
    file = opened(browser, tmp_path, folder)
    assert "onerror" in browser.value("document.title")
    assert HOSTILE in browser.value("document.body.textContent")
    assert [url for url in browser.requests if not url.startswith("data:")] == [file.as_uri()]
    assert browser.complaints == []


@pytest.mark.slow
def test_a_foreign_script_would_be_stopped(browser, tmp_path):
    """The policy holds even if something got past the escaping."""
    file = opened(browser, tmp_path, make_run(tmp_path / "run"))
    html = file.read_text().replace("<h1>", "<img src=x onerror=\"document.title='run'\"><h1>")
    file.write_text(html.replace("</body>", "<script>document.title='run!'</script></body>"))
    browser.open(file.as_uri())
    assert not browser.value("document.title").endswith("!")
    assert any("Content Security Policy" in str(said) for said in browser.complaints)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window_light_and_dark(browser, tmp_path, width, dark):
    runs = make_run(tmp_path / "run"), make_run(tmp_path / ("long" * 40))
    opened(browser, tmp_path, *runs, width=width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") == width
    wide = (
        "[...document.querySelectorAll('h1, h2, h3, p, svg.chart, img, .card')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert browser.value(wide) == 0
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    ink = browser.value("getComputedStyle(document.body).color")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink)]
    assert light[0] < 120 and light[1] > 600 if dark else light[0] > 700 and light[1] < 150
    browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as shot:
        assert shot.width == width


@pytest.mark.slow
def test_without_scripts_the_whole_gallery_shows(tmp_path):
    with Browser(tmp_path / "profile", scripts=False) as browser:
        opened(browser, tmp_path, make_run(tmp_path / "run"))
        assert (
            browser.value("getComputedStyle(document.querySelector('.slider')).display") == "none"
        )
        assert browser.value(f"{SHOWN}.length") == 6
        assert browser.value("document.querySelectorAll('img').length") == 3


@pytest.mark.parametrize("metric", ["predictor_loss", "relative_loss"])
@pytest.mark.parametrize("objective", ["relative", "absolute"])
def test_the_predictors_loss_is_titled_by_its_objective(tmp_path, metric, objective):
    """The metric was called relative_loss once, whatever the objective."""
    run = make_run(tmp_path / "run")
    row = {"step": 10, "loss": 1.0, metric: 0.625}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (run / "config.yaml").write_text(yaml.safe_dump({"hpm": {"objective": objective}}))
    html = page_of(run)
    assert f"<h3>loss of the predictor ({objective} objective)</h3>" in html
    assert "predictor_loss, last:" in html and "0.625" in html and "relative_loss" not in html


def test_curves_of_several_objectives_name_all_of_them(tmp_path):
    runs = []
    for objective in ("relative", "absolute"):
        runs.append(make_run(tmp_path / objective))
        (runs[-1] / "metrics.jsonl").write_text('{"step": 10, "predictor_loss": 0.5}\n')
        (runs[-1] / "config.yaml").write_text(yaml.safe_dump({"hpm": {"objective": objective}}))
    plain = make_run(tmp_path / "plain")  # has no predictor, whatever its settings say
    (plain / "config.yaml").write_text(yaml.safe_dump({"hpm": {"objective": "neither"}}))
    runs.append(plain)
    assert "<h3>loss of the predictor (absolute, relative objective)</h3>" in page_of(*runs)


# --- what each run hides, side by side ------------------------------------------------------------


def hiding(folder, **config):
    """A run with pictures of what it hides."""
    make_run(folder)
    Image.new("RGB", (30, 10), (255, 140, 0)).save(folder / "pictures/hidden_0000300.png")
    plain = {"data": {"root": "/data"}, "run": {"steps": 300, "seed": 0}} | config
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))
    return str(folder)


def section_of(html: str) -> str:
    return html.partition("hides in the same clips")[2].partition("<h2>")[0]


def test_what_each_run_hides_stands_side_by_side_and_once(tmp_path):
    runs = [hiding(tmp_path / name) for name in ("teacher", "motion")] + [
        str(make_run(tmp_path / "of-before"))
    ]
    html = page(load_runs(runs))
    section = section_of(html)
    assert [name for name in ("teacher", "motion", "of-before") if f"<bdi>{name}" in section] == [
        "teacher", "motion",
    ]  # fmt: skip
    assert section.count("<img") == html.count('alt="hidden at step 300"') == 2
    assert "Not the same clips" not in section
    assert "reconstruction at step 300" in html and "reconstruction at step" not in section


def test_runs_of_other_clips_are_told_apart(tmp_path):
    other = {"run": {"steps": 300, "seed": 1}, "data": {"root": "/elsewhere"}}
    runs = [hiding(tmp_path / "a"), hiding(tmp_path / "b", **other)]
    assert "Not the same clips: data.root, run.seed differ." in section_of(page(load_runs(runs)))


def test_one_run_alone_has_nothing_beside_it(tmp_path):
    html = page(load_runs([hiding(tmp_path / "a")]))
    assert "What is hidden" in html and "hides in the same clips" not in html
