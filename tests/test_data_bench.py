"""``videohpm data bench``, what ``plan`` says of reading, and what a run says that waits."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from videohpm.cli import main
from videohpm.config import (
    BenchConfig,
    DataConfig,
    EngineConfig,
    ModelConfig,
    OptimConfig,
    PlanConfig,
)
from videohpm.data import Manifest, advice
from videohpm.data import bench as reading
from videohpm.data.advice import WaitingAdvice
from videohpm.plan.reading import FORMS, clips_wanted, cores_needed

SMALL = ["--model.arch", "vit_tiny", "--model.frames", "4", "--model.image_size", "32"]
SMALL += ["--model.patch", "8", "--data.stride", "2", "--optim.global_batch_size", "64"]


def video(path, frames=30, height=48, width=64):
    import av

    rng = np.random.default_rng(frames)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"x264-params": "open-gop=0"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 256, (height // 8, width // 8, 3), "u1").repeat(8, 0)
            frame = av.VideoFrame.from_ndarray(picture.repeat(8, 1), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    video(folder / "a.mp4"), video(folder / "b.mp4", 40), video(folder / "short.mp4", 2)
    (folder / "bad.mp4").write_bytes(b"no video at all")
    return folder


def run(capsys, *arguments) -> str:
    assert main(["data", "bench", *map(str, arguments), "--clips", "2", "--rounds", "1"]) == 0
    return capsys.readouterr().out


def test_a_list_of_videos_by_form_and_reader_and_the_cores_that_a_run_needs(videos, capsys):
    text = run(capsys, *SMALL, "--data.root", videos, "--gpu", "rtx4090", "--gpus", "2")
    assert "2 of 4 files" in text  # not the bad one, nor the one without enough frames
    rows = [line.split() for line in text.splitlines() if line.startswith(("listed ", "copy "))]
    readers = {(row[0], row[1]) for row in rows}
    assert {("listed", "pyav"), ("copy", "pyav"), ("copy", "intra")} <= readers
    assert ("listed", "intra") not in readers
    for row in rows:
        *parts, whole, pace = map(float, row[-8:])
        assert sum(parts) >= 0.5 * whole > 0
        assert pace == pytest.approx(1000 / whole, rel=0.1)
    wanted, each = map(float, re.search(r"want (\d+) clips/s, (\d+) a rank", text).groups())
    assert each == pytest.approx(wanted / 2, abs=1)
    for form in ("listed", "copy"):
        fastest = max(float(row[-1]) for row in rows if row[0] == form)
        cores = int(re.search(rf"^  {form} +(\d+) cores a rank", text, re.MULTILINE)[1])
        assert cores == pytest.approx(each / fastest, rel=0.02, abs=1)
    helps = text.partition("what helps:")[2]
    assert "data transcode" in helps and "data scan" in helps and "--data.repeats" in helps


def test_a_copy_of_key_frames_is_not_copied_again(videos, tmp_path, capsys):
    files = Manifest([str(videos / "a.mp4"), str(videos / "b.mp4")])
    copies, seconds = reading.key_frame_copies(files, tmp_path, 48)
    assert copies.share("intra") == 1 and seconds > 0
    rows = [f"{i}.mp4,{copies[i].frames},intra" for i in range(2)]
    (tmp_path / "list.csv").write_text("\n".join(["path,frames,reader", *rows]))
    text = run(capsys, *SMALL, "--data.manifest", tmp_path / "list.csv", "--data.repeats", "4")
    assert "4 clips of each decode" in text
    assert not re.search("^copy ", text, re.MULTILINE)
    assert "data transcode" not in text and "--data.repeats" not in text


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_list_of_halves_gives_each_gain_to_its_own_line(videos, tmp_path, capsys, repeats):
    files = Manifest([str(videos / "a.mp4"), str(videos / "b.mp4")])
    copies, _ = reading.key_frame_copies(files, tmp_path, 48)
    rows = [f"{copies[0].path},intra,{copies[0].frames}", f"{videos / 'a.mp4'},pyav,20"]
    (tmp_path / "list.csv").write_text("\n".join(["path,reader,frames", *rows]))
    arguments = ["--data.manifest", tmp_path / "list.csv", "--data.repeats", repeats]
    text = run(capsys, *SMALL, *arguments).partition("what helps:")[2]
    assert " times the clips of a core" not in re.sub(r"-.*(transcode|repeats).*", "", text)
    assert ("(4: " in text) == (repeats == 1) and text.count("(here ") == text.count("transcode")


def test_folders_of_frames(tmp_path, capsys):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("RGB", (40, 30), (i, 0, 0)).save(tmp_path / name / f"{i:03}.png")
    text = run(capsys, *SMALL, "--data.root", tmp_path, "--data.kind", "frames")
    assert "2 of 2 files" in text and "transcode" not in text


def test_images(tmp_path, capsys):
    for i in range(3):
        Image.new("RGB", (40, 30), (i, 0, 0)).save(tmp_path / f"{i}.png")
    image = ["--model.frames", "1", "--model.tubelet", "1"]
    text = run(capsys, *SMALL, *image, "--data.root", tmp_path)
    assert "3 of 3 files; 1 frames of 32x32, 1 clips" in text and "transcode" not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--clips", "0"], "clips"),
        (["--short_side", "1"], "short_side"),
        (["--data.root", "nowhere"], "data.root: nowhere is not a folder"),
        ([], "data.root: neither a folder nor a manifest is given"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, capsys):
    assert main(["data", "bench", *SMALL, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_list_without_a_readable_file(tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    assert main(["data", "bench", *SMALL, "--data.root", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "can be read" in line


def test_stages_are_timed_where_they_are_spent(videos, monkeypatch):
    """Costs by a clock that only the named functions move."""
    now = 0.0

    def takes(seconds, function):
        def slow(*arguments, **options):
            nonlocal now
            now += seconds
            return function(*arguments, **options)

        return slow

    manifest = reading.as_scanned(Manifest([str(videos / "a.mp4"), str(videos / "b.mp4")]))
    manifest = manifest.read_by("decord")  # trusted: no demux pass
    config = DataConfig(stride=2, repeats=2)
    data = reading.ClipDataset(manifest, config, frames=4, size=(32, 32), units=4)
    frames = reading.read_frames(manifest[0].path, range(4))
    pixels = reading.torch.from_numpy(frames).permute(0, 3, 1, 2)
    data.read = takes(0.010, lambda sample, rng: pixels)
    data.transform = takes(0.003, data.transform)
    monkeypatch.setattr(reading, "read_frames", takes(0.002, lambda *_, **__: None))
    monkeypatch.setattr(reading, "rgb", takes(0.001, lambda *_: None))
    monkeypatch.setattr(reading, "time", SimpleNamespace(process_time=lambda: now))
    (cost,) = reading.measure({"one": data}, 4, 3).values()
    # Per clip, of two clips a decode: 10 ms of reading, in them 2 of opening, 4 frames of 1 ms.
    expected = {"index": 0, "open": 1, "convert": 2, "decode": 2, "crop": 3, "hand_over": 0}
    for name, ms in (expected | {"whole": 8, "read": 5}).items():
        assert getattr(cost, name) == pytest.approx(ms), name


# --- plan ----------------------------------------------------------------------------------------


def planned(**sections) -> PlanConfig:
    model = ModelConfig(arch="vit_small", frames=16, image_size=64)
    return PlanConfig(model=model, optim=OptimConfig(global_batch_size=64), gpus=2, **sections)


def test_a_plan_counts_cores_by_form():
    config = planned()
    wanted = clips_wanted(config)
    for text, form in zip(cores_needed(config, wanted), FORMS.values(), strict=True):
        cores, pace = re.match(r"(\d+) cores of ([\d.]+) clips/s for ", text).groups()
        literal = 1000 / (form.read + form.cut)
        assert float(pace) == pytest.approx(literal, rel=0.01)
        assert int(cores) == pytest.approx(wanted / literal, abs=1)
    repeated = FORMS["copy"].clips_per_second(16, repeats=4)
    assert repeated == pytest.approx(1000 / (FORMS["copy"].read / 4 + FORMS["copy"].cut))
    assert FORMS["copy"].clips_per_second(8) == 2 * FORMS["copy"].clips_per_second(16)


def test_the_configuration_of_a_bench_is_that_of_the_plan():
    sections = vars(planned(utilisation=0.5))
    assert clips_wanted(BenchConfig(**sections)) == clips_wanted(PlanConfig(**sections))
    assert clips_wanted(planned(gpu="v100", engine=EngineConfig(precision="bf16"))) == 0


# --- while training ------------------------------------------------------------------------------


def waiting(manifest: Manifest, **config) -> WaitingAdvice:
    return WaitingAdvice(SimpleNamespace(manifest=manifest, config=DataConfig(**config)))


def test_waiting_is_said_once_and_not_for_the_first_batch():
    said = waiting(Manifest(["a.mp4", "b.mp4"], readers=["decord", "decord"]))
    assert said.after(0.9) is None  # the start
    assert said.after(0.1) is None
    text = said.after(0.34)
    assert "34%" in text and "data transcode" in text and "data bench" in text
    assert "data scan" not in text  # it is known how they are read
    assert said.after(0.9) is None


def test_advice_is_only_of_what_is_not_done():
    copy = Manifest(["a.mp4"], readers=["intra"])
    assert advice.advice(copy, DataConfig(repeats=2)) == []
    (line,) = advice.advice(copy, DataConfig(repeats=2, workers=0))
    assert "--data.workers auto" in line
    (line,) = advice.advice(Manifest(["a.jpg"], kind="image"), DataConfig())
    assert "--data.repeats" in line
