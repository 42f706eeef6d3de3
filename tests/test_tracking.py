"""The run folder's files and what the console shows; time comes from a hand-turned clock."""

import io
import json
import math
import os
import re
from importlib import metadata

import numpy as np
import pytest
import torch
from handclock import HandClock
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from videohpm.config import RunConfig
from videohpm.progress import progress_line
from videohpm.tracking import (
    Console,
    LoggedRun,
    Stopwatch,
    Tracker,
    describe_machine,
    drop_lines_after,
    make_loggers,
)

FILES = ("jsonl", "pictures", "tensorboard")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def files(folder, *, total_steps=10, start_step=0) -> Tracker:
    """What a run writes, without the console."""
    return Tracker(make_loggers(LoggedRun(folder, total_steps, start_step), FILES))


def with_console(folder, stream, *, total_steps=10, start_step=0, **clock) -> Tracker:
    """What a run writes, and shows on ``stream``."""
    run = LoggedRun(folder, total_steps, start_step)
    return Tracker([*make_loggers(run, FILES), Console(run, stream, **clock)])


def rows(folder) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def curve(folder, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def run_with(folder, steps, *, start=0, value=float):
    with files(folder, total_steps=100, start_step=start) as tracker:
        for step in steps:
            tracker.log(step, {"loss": value(step)})


# ---- RunConfig


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"dir": ""}, "run.dir"),
        ({"steps": 0}, "run.steps"),
        ({"steps": 5, "epochs": 1.0}, "run.steps"),
        ({"epochs": 0.0}, "run.epochs"),
        ({"epochs": math.nan}, "run.epochs"),
        ({"epochs": math.inf}, "run.epochs"),
        ({"seed": -1}, "run.seed"),
        ({"log_every": 0}, "run.log_every"),
        ({"picture_every": -1}, "run.picture_every"),
        ({"save_every": -1}, "run.save_every"),
        ({"keep": 0}, "run.keep"),
        ({"resume": ""}, "run.resume"),
    ],
)
def test_wrong_settings_name_their_field_in_one_line(wrong, field):
    with pytest.raises(ValueError, match=f"^{re.escape(field)}: .*;[^\n]*$"):
        RunConfig(**wrong)


def test_length_comes_from_steps_or_epochs():
    assert RunConfig(steps=7).total_steps(3.5) == 7
    assert RunConfig(epochs=2).total_steps(3.5) == 7
    assert RunConfig(epochs=0.1).total_steps(3.5) == 1
    assert RunConfig().total_steps(3.5) == 1000


@given(samples=st.integers(1, 10**6), batch=st.integers(1, 4096), epochs=st.integers(1, 1000))
def test_epochs_come_to_the_steps_that_integers_give(samples, batch, epochs):
    exact = max(1, -(-epochs * samples // batch))
    assert RunConfig(epochs=epochs).total_steps(samples / batch) == exact


# ---- metrics.jsonl


def test_every_logged_step_is_one_line_with_all_digits(tmp_path):
    with files(tmp_path / "run") as tracker:
        tracker.log(3, {"loss": 1 / 3, "lr": 1e-300, "bad_files": 2, "flag": True})
        tracker.log(6, {"loss": np.float32(0.1), "share": torch.tensor(0.5)})
    assert rows(tmp_path / "run") == [
        {"step": 3, "loss": 1 / 3, "lr": 1e-300, "bad_files": 2, "flag": True},
        {"step": 6, "loss": float(np.float32(0.1)), "share": 0.5},
    ]
    first = (tmp_path / "run/metrics.jsonl").read_text().splitlines()[0]
    assert first.startswith('{"step": 3,') and '"bad_files": 2' in first


def test_lines_can_be_read_while_the_run_goes_on(tmp_path):
    with files(tmp_path) as tracker:
        for step in (1, 2):
            tracker.log(step, {"loss": 1.0})
            assert rows(tmp_path)[-1]["step"] == step


def test_numbers_that_json_lacks_become_null(tmp_path):
    with files(tmp_path) as tracker:
        tracker.log(1, {"a": math.nan, "b": math.inf, "c": torch.tensor(-math.inf), "d": 1.5})
    assert rows(tmp_path) == [{"step": 1, "a": None, "b": None, "c": None, "d": 1.5}]


def test_what_is_not_measured_is_null_and_not_shown(tmp_path):
    out = io.StringIO()
    with with_console(tmp_path, out) as tracker:
        tracker.log(1, {"teacher": None, "loss": 1.5})
    assert rows(tmp_path) == [{"step": 1, "teacher": None, "loss": 1.5}]
    assert "loss 1.5" in out.getvalue() and "teacher" not in out.getvalue()


@pytest.mark.parametrize("wrong", [{"step": 3}, {"loss": "low"}, {"loss": [1.0]}])
def test_what_is_no_metric_is_refused_and_not_written(tmp_path, wrong):
    with (
        files(tmp_path) as tracker,
        pytest.raises((TypeError, ValueError), match=r"^metrics: "),
    ):
        tracker.log(1, wrong)
    assert rows(tmp_path) == []


def test_a_resumed_run_leaves_the_lines_of_an_uninterrupted_one(tmp_path):
    run_with(tmp_path / "whole", [10, 20, 30, 40], value=lambda s: s / 7)
    run_with(tmp_path / "cut", [10, 20, 30], value=lambda s: s / 7 if s <= 20 else -1.0)
    run_with(tmp_path / "cut", [30, 40], start=20, value=lambda s: s / 7)
    whole, cut = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut"))
    assert cut == whole


@given(
    steps=st.lists(st.integers(0, 30), max_size=8),
    restored=st.integers(0, 30),
    torn=st.integers(0, 60),
)
def test_dropping_keeps_exactly_the_whole_lines_up_to_a_step(
    tmp_path_factory, steps, restored, torn
):
    file = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 7}) for step in steps]
    text = "".join(line + "\n" for line in lines) + json.dumps({"step": 0, "l": "x" * 60})[:torn]
    file.write_text(text)
    drop_lines_after(file, restored)
    assert file.read_text() == "".join(
        line + "\n" for line, step in zip(lines, steps, strict=True) if step <= restored
    )
    assert os.listdir(file.parent) == [file.name]


def test_a_line_that_lacks_only_its_end_of_line_is_kept(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n[1]\nnull\n{"loss": 2}\n{"step": 2}')
    drop_lines_after(file, 5)
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'


# ---- TensorBoard, pictures, environment


def test_curves_of_a_resumed_run_hide_what_was_done_twice(tmp_path):
    run_with(tmp_path, [10, 20, 30, 40], value=lambda s: 1.0)
    (file,) = (tmp_path / "tensorboard").iterdir()  # as if it were from a minute ago
    file.rename(file.with_name("events.out.tfevents.0000000001"))
    run_with(tmp_path, [30, 40], start=20, value=lambda s: 2.0)
    assert curve(tmp_path, "loss") == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]


def test_pictures_come_back_pixel_by_pixel(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with files(tmp_path) as tracker:
        tracker.image(120, "masks", image)
    assert os.listdir(tmp_path / "pictures") == ["masks_0000120.png"]
    with Image.open(tmp_path / "pictures/masks_0000120.png") as saved:
        assert np.array_equal(np.asarray(saved), image)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Images("masks")] == [120]


def test_animations_are_kept_as_they_are(tmp_path):
    first, second = (Image.new("RGB", (7, 5), colour) for colour in ("red", "blue"))
    gif = io.BytesIO()
    first.save(gif, format="GIF", save_all=True, append_images=[second])
    with files(tmp_path) as tracker:
        tracker.animation(4, "masks", gif.getvalue(), (5, 7))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (animation,) = events.Images("masks")
    assert (animation.step, animation.height, animation.width) == (4, 5, 7)
    assert animation.encoded_image_string == gif.getvalue()


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("../up", np.zeros((2, 2, 3), np.uint8)),
        ("", np.zeros((2, 2, 3), np.uint8)),
        ("x", np.zeros((2, 2, 3), np.float32)),
        ("x", np.zeros((3, 2, 2), np.uint8)),
        ("x", np.zeros((2, 2), np.uint8)),
    ],
)
def test_wrong_pictures_are_refused(tmp_path, name, image):
    with (
        files(tmp_path) as tracker,
        pytest.raises(ValueError, match=r"^(name|image): "),
    ):
        tracker.image(1, name, image)


def test_environment_names_versions_but_no_host(tmp_path):
    describe_machine(tmp_path / "environment.json")
    text = (tmp_path / "environment.json").read_text()
    assert json.loads(text)["packages"]["torch"] == metadata.version("torch")
    for private in (os.uname().nodename, str(tmp_path)):
        assert private not in text


def test_a_tracker_of_another_rank_does_nothing(tmp_path, capsys):
    with Tracker([]) as tracker:
        tracker.log(1, {"loss": 1.0})
        tracker.advance(2)
        tracker.image(1, "x", np.zeros((2, 2, 3), np.uint8))
        tracker.message("hello")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_every_logger_gets_all_there_is_to_log():
    calls = []

    class Recorder:
        def __getattr__(self, name):
            return lambda *arguments: calls.append((name, *arguments))

    image = np.zeros((2, 2, 3), np.uint8)
    with Tracker([Recorder(), Recorder()]) as tracker:
        tracker.log(1, {"loss": torch.tensor(0.5), "other": None})
        tracker.image(1, "x", image)
        tracker.animation(1, "y", b"GIF", (2, 2))
        tracker.advance(2)
        tracker.message("hello")
    tracker.close()
    once = [
        ("log", 1, {"loss": 0.5, "other": None}), ("image", 1, "x", image),
        ("animation", 1, "y", b"GIF", (2, 2)), ("advance", 2), ("message", "hello"), ("close",),
    ]  # fmt: skip
    assert calls == [call for call in once for _ in range(2)]


def test_a_logger_that_fails_does_not_keep_the_console_from_its_end(tmp_path, monkeypatch):
    class Full:
        def close(self):
            raise OSError("no space left")

    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    console = Console(LoggedRun(tmp_path, 10), out)
    with pytest.raises(OSError, match="no space"), Tracker([Full(), console]):
        console.log(5, {"loss": 1.0})
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")  # the cursor


# ---- the console


def test_plain_lines_one_for_each_log_with_the_time_left(tmp_path, clock):
    out = io.StringIO()
    with with_console(tmp_path, out, total_steps=600, clock=clock) as tracker:
        clock.now += 48
        tracker.advance(100)
        tracker.log(120, {"loss": 0.43124, "clips_per_second": 75.2, "data_wait": 0.021})
        tracker.message("a bad file")
        clock.now += 144
        tracker.log(240, {"loss": math.nan, "clips_per_second": 1234.5, "data_wait": 0.5})
    assert out.getvalue().splitlines() == [
        "step 120/600  loss 0.4312  clips/s 75.2  wait 2%  eta 3:12",
        "a bad file",
        "step 240/600  loss nan  clips/s 1234  wait 50%  eta 4:48",
    ]


def test_time_left_follows_a_changed_pace_and_counts_from_the_resumed_step(tmp_path, clock):
    out = io.StringIO()
    with with_console(tmp_path, out, total_steps=1000, start_step=900, clock=clock) as tracker:
        for step in range(901, 951):
            clock.now += 100 if step < 925 else 1
            tracker.log(step, {"loss": 1.0})
            tracker.log(step, {"test_loss": 1.0})
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("eta 2:45:00") and lines[-1].endswith("eta 0:50")


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True), st.just(0.4312), min_size=1),
    st.integers(20, 200),
)
def test_a_line_fits_as_soon_as_it_shows_more_than_the_first_metric(metrics, width):
    line = progress_line(20, 600, metrics, 192.0, width)
    names = [name for name in metrics if re.search(rf" {name} ", line)]
    assert names[0] == next(iter(metrics))
    assert len(names) == 1 or len(line) <= width


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_shows_a_bar_in_one_line_of_its_width(tmp_path, clock, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    with with_console(tmp_path, out, total_steps=600, clock=clock) as tracker:
        clock.now += 48
        metrics = {
            "loss": 0.4312,
            "gradient_norm": 1.5,
            "clips_per_second": 75.0,
            "data_wait": 0.02,
        }
        tracker.log(120, metrics)
        tracker.message("a bad file")
        clock.now += 0.1
        tracker.advance(121)  # too early to draw again
        clock.now += 1
        tracker.advance(122)
    assert "\x1b[" in out.getvalue()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", out.getvalue()).replace("\r", "\n")
    lines = text.splitlines()
    assert all(len(line) <= columns for line in lines)
    shown = "\n".join(lines)
    assert "step 120/600  loss 0.4312" in shown and "a bad file" in shown
    assert "step 121/600" not in shown and "step 122/600" in shown
    assert ("━" in shown) == (columns >= 80) and ("gradient_norm" in shown) == (columns == 200)
    assert columns < 80 or "clips/s 75  wait 2%  eta 3:12" in shown
    assert text.rstrip("\n") != text


def test_a_terminal_that_cannot_draw_gets_plain_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with with_console(tmp_path, out) as tracker:
        tracker.log(5, {"loss": 1.0})
    assert "\x1b" not in out.getvalue() and out.getvalue().startswith("step  5/10  loss 1")


def test_the_bar_ends_when_the_run_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with (
        pytest.raises(KeyboardInterrupt),
        with_console(tmp_path, out) as tracker,
    ):
        tracker.log(5, {"loss": 1.0})
        raise KeyboardInterrupt
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")  # the cursor


# ---- the stopwatch


def test_stopwatch_divides_by_all_the_time_and_starts_anew(clock):
    watch = Stopwatch(32, clock)
    for _ in range(5):
        with watch.waiting():
            clock.now += 0.5
        clock.now += 1.5
        watch.count_step()
    assert watch.lap() == {"clips_per_second": 16.0, "data_wait": 0.25}
    with watch.waiting():
        clock.now += 4
    watch.count_step()
    assert watch.lap() == {"clips_per_second": 8.0, "data_wait": 1.0}


def test_pictures_and_validation_count_neither_as_steps_nor_as_waiting(clock):
    watch = Stopwatch(32, clock)
    for pause in (0, 100):
        for step in range(4):
            with watch.waiting():
                clock.now += 1
            clock.now += 3
            watch.count_step()
            if step == 2:
                with watch.paused():
                    clock.now += pause
        assert watch.lap() == {"clips_per_second": 8.0, "data_wait": 0.25}
