"""The made data set: true labels, no short cuts to them, the same every time, safe to rerun."""

import csv
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from videohpm.data.decode import read_frames
from videohpm.data.manifest import find_samples
from videohpm.errors import UserError

TRAIN = 64


@pytest.fixture(scope="module")
def made(shapes_module, tmp_path_factory) -> Path:
    """64 training and 32 validation clips of the default size."""
    return shapes_module.prepare(tmp_path_factory.mktemp("made") / "set", TRAIN, 32, workers=2)


@pytest.fixture(scope="module")
def clips(made) -> np.ndarray:
    """The decoded training clips, (64, 16, 64, 64, 3) in [0, 1]."""
    paths = sorted((made / "train").glob("*.mp4"))
    return np.stack([read_frames(path, range(16)) for path in paths]) / 255


@pytest.fixture(scope="module")
def objects(made) -> dict:
    return dict(np.load(made / "objects-train.npz"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def labels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Shape and motion numbers, written down anew: class = 8 shape + motion, classes in turn."""
    return np.arange(count) % 32 // 8, np.arange(count) % 8


# --- the labels are true ------------------------------------------------------------------------


def measure(clip: np.ndarray) -> np.ndarray:
    """Median change a frame of (x, y, log area, angle of the shading), from pixels alone.

    Opposite sides of the frame are neighbours: places are read as angles around the frame.
    """
    grey = clip.mean(-1)
    side = grey.shape[1]
    y, x = np.mgrid[:side, :side]
    states = []
    for frame in grey:
        inside = frame > 0.57
        centre = []
        planes = [np.ones(inside.sum())]
        for place in (x[inside], y[inside]):
            middle = np.angle(np.exp(2j * np.pi * place / side).mean()) * side / (2 * np.pi)
            planes.insert(-1, (place - middle + side / 2) % side - side / 2)
            centre.append(middle + planes[-2].mean())
        slope = np.linalg.lstsq(np.stack(planes, 1), frame[inside], rcond=None)[0]
        states.append((*centre, np.log(inside.sum()), np.arctan2(slope[1], slope[0])))
    change = np.diff(states, axis=0)
    for column, period in ((0, side), (1, side), (3, 2 * np.pi)):
        change[:, column] = (change[:, column] + period / 2) % period - period / 2
    return np.median(change, 0)


def test_motion_labels_are_what_the_pixels_do(shapes_module, clips):
    _, motions = labels(TRAIN)
    told = []
    for clip in clips:
        change = measure(clip) / (1.2, 1.2, 0.05, 0.15)  # about the slowest motion of each sort
        axis = np.abs(change).argmax()
        kinds = (("left", "right"), ("up", "down"), ("shrink", "grow"),
                 ("anticlockwise", "clockwise"))  # fmt: skip
        told.append(shapes_module.MOTIONS.index(kinds[axis][int(change[axis] > 0)]))
    assert np.mean(told == motions) == 1


def test_shape_labels_are_what_is_drawn(shapes_module, clips, objects):
    from drawing import Track

    shapes, _ = labels(TRAIN)
    told = []
    for clip, centre, radius, angle in zip(
        clips, objects["centre"], objects["radius"], objects["angle"], strict=True
    ):
        track = Track(centre, radius, angle)
        bodies = [shapes_module.draw_object(name, track, 64, 0)[0] for name in shapes_module.SHAPES]
        told.append(np.argmin([np.abs((clip.mean(-1) > 0.57) - body).mean() for body in bodies]))
    assert np.mean(told == shapes) == 1


def test_the_stored_track_moves_as_labelled(objects):
    _, motions = labels(TRAIN)
    turn = (np.diff(objects["angle"], axis=1) + np.pi) % (2 * np.pi) - np.pi
    change = np.stack(
        [*np.moveaxis(np.diff(objects["centre"], axis=1), 2, 0),
         np.diff(objects["radius"], axis=1), turn]
    )  # fmt: skip
    middle = np.median(change, 2)
    expected = {0: (0, -1), 1: (0, 1), 2: (1, -1), 3: (1, 1), 4: (3, 1), 5: (3, -1), 6: (2, 1),
                7: (2, -1)}  # fmt: skip
    for clip, motion in enumerate(motions):
        axis, sign = expected[motion]
        assert sign * middle[axis, clip] > 0.1
        assert np.abs(np.delete(change, axis, 0)[:, clip]).max() < 1e-4
        jumps = (sign * change[axis, clip] < 0).sum()
        assert jumps == 0 if axis == 3 else jumps <= 1


def test_cover_is_where_the_object_is(clips, objects):
    light = (clips.mean(-1) > 0.57).reshape(TRAIN, 16, 16, 4, 16, 4).mean((3, 5))
    cover = objects["cover"] / 255
    assert np.abs(light - cover).mean() < 0.02
    assert np.corrcoef(light.ravel(), cover.ravel())[0, 1] > 0.98


def test_the_object_is_a_minority_of_the_frame_and_always_whole(objects):
    share = objects["cover"].mean((2, 3)) / 255
    assert share.min() > 0.045 and share.max() < 0.3 and 0.1 < share.mean() < 0.16
    assert objects["radius"].min() > 9 and objects["radius"].max() < 23
    area = share * 64**2 / objects["radius"] ** 2  # of a radius: the same wherever it is
    assert area.min() > 1.75 and area.max() < 2.5
    assert area.std(1).max() < 0.05 * area.min()


# --- no place is preferred ------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [0, 15])
def test_centres_are_uniform_over_the_frame(shapes_module, frame):
    """By 4x4 fields of the frame, for all motions together and for each."""
    places = []
    for index in range(4096):
        rng = shapes_module.clip_random(4, "train", index)
        track = shapes_module.make_track(shapes_module.MOTIONS[index % 8], 16, 64, rng)
        places.append(track.centre[frame] + 0.5)
    places = np.array(places)
    assert places.min() >= 0 and places.max() <= 64
    fields = (places // 16).astype(int) % 4 @ (4, 1)
    for motion, chosen in [(None, fields), *((i, fields[i::8]) for i in range(8))]:
        counts, expected = np.bincount(chosen, minlength=16), len(chosen) / 16
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        assert chi_squared < 50, motion  # 15 degrees of freedom: once in 80,000


@pytest.mark.parametrize("crop", [slice(0, 64), slice(4, 60)])
def test_the_object_covers_all_places_alike_and_the_place_explains_nothing(shapes_module, crop):
    """Also where crops cut the border; of what covers a patch, places explain chance only."""
    settings = shapes_module.Settings(frames=1)
    cover = [shapes_module.make_clip(settings, "train", i)[1]["cover"][0] for i in range(1024)]
    cover = np.stack(cover)[:, crop.start // 4 : crop.stop // 4, crop.start // 4 : crop.stop // 4]
    patches = cover.reshape(1024, len(cover[0]) // 2, 2, -1, 2).mean((2, 4)) / 255
    means = patches.mean(0)
    assert np.abs(means - means.mean()).max() < 5 * patches.std() / np.sqrt(1024)
    assert means.var() / patches.var() < 2 / 1024


def test_what_leaves_on_one_side_comes_in_at_the_other(shapes_module):
    """Elsewhere the same object is drawn, only elsewhere: rolled around the frame."""
    from drawing import Track

    def body(x: float, y: float, shape: str) -> tuple[np.ndarray, np.ndarray]:
        track = Track(
            np.array([[x, y]], np.float32), np.full(1, 15, np.float32), np.ones(1, np.float32)
        )
        return shapes_module.draw_object(shape, track, 64, 0.3)

    for shape in shapes_module.SHAPES:
        whole, half = body(31, 33, shape)
        for right, down in ((31, 0), (-30, 5), (20, -33), (-31, -33), (32, 31)):
            moved, shaded = body(31 + right, 33 + down, shape)
            expected = np.roll(whole, (down, right), (1, 2))
            assert np.allclose(moved, expected, atol=1e-4)
            inside = expected > 0
            assert np.allclose(
                shaded[inside], np.roll(half, (down, right), (1, 2))[inside], atol=1e-4
            )


def test_a_larger_object_moves_as_the_usual_one_does(shapes_module):
    def truth(scale: float) -> dict:
        settings = shapes_module.Settings(object=scale)
        made = [shapes_module.make_clip(settings, "train", index)[1] for index in range(64)]
        return {name: np.stack([one[name] for one in made]) for name in made[0]}

    usual, larger = truth(1), truth(1.75)
    assert np.array_equal(usual["centre"], larger["centre"])
    assert np.array_equal(usual["angle"], larger["angle"])
    assert np.allclose(1.75 * usual["radius"], larger["radius"])
    share = larger["cover"].mean((2, 3)) / 255
    assert 0.3 < share.mean() < 0.45 and share.max() < 0.9


# --- nothing but the motion tells the motion ------------------------------------------------------


def bound(chance: float, count: int) -> float:
    """What guessing reaches once in some ten thousand tries."""
    return chance + 4 * np.sqrt(chance * (1 - chance) / count)


@pytest.mark.parametrize("frame", [0, 7, 15])
def test_the_state_in_one_frame_does_not_tell_the_motion_and_two_frames_do(shapes_module, frame):
    def states(split: str, count: int) -> np.ndarray:
        rows = []
        for index in range(count):
            rng = shapes_module.clip_random(3, split, index)
            track = shapes_module.make_track(shapes_module.MOTIONS[index % 8], 17, 64, rng)
            row = np.column_stack([track.centre / 10, 5 * np.log(track.radius), track.angle])
            rows.append(row[frame : frame + 2])
        return np.stack(rows)

    train, test = states("train", 2048), states("validation", 1024)
    classes, wanted = np.arange(2048) % 8, np.arange(1024) % 8
    judge = make_pipeline(StandardScaler(), PolynomialFeatures(3), LogisticRegression(C=0.1))
    judge[-1].max_iter = 1000
    alone = judge.fit(train[:, 0], classes).score(test[:, 0], wanted)
    assert alone < bound(1 / 8, 1024)

    def change(pair: np.ndarray) -> np.ndarray:
        return np.sign(np.diff(pair, axis=1)[:, 0].round(4))

    both = judge.fit(change(train), classes).score(change(test), wanted)
    assert both > 0.9  # not 1: a frame in sixteen is a size's jump back, or the step over a side


@pytest.mark.parametrize("scale", [1, 1.75])
def test_a_linear_classifier_of_the_first_frame_is_at_chance_for_motion(shapes_module, scale):
    settings = shapes_module.Settings(size=32, frames=1, object=scale)

    def frames(split: str, count: int) -> np.ndarray:
        made = [shapes_module.make_clip(settings, split, index)[0][0] for index in range(count)]
        return np.stack(made).reshape(count, 16, 2, 16, 2, 3).mean((2, 4)).reshape(count, -1) / 255

    train, test = frames("train", 1024), frames("validation", 1024)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    _, motions = labels(1024)
    score = judge.fit(train, motions).score(test, motions)
    assert score < bound(1 / 8, 1024)


def test_colour_ground_and_pan_know_nothing_of_the_class(shapes_module):
    """The ground's random numbers do not depend on what is drawn before it."""
    after = []
    for motion in shapes_module.MOTIONS:
        rng = np.random.default_rng(5)
        shapes_module.make_track(motion, 8, 32, rng)
        after.append(rng.random())
    assert len(set(after)) == 1


# --- the picture ----------------------------------------------------------------------------------


def test_coding_keeps_the_picture(shapes_module, clips):
    settings = shapes_module.Settings(train=TRAIN, validation=32)
    drawn = np.stack([shapes_module.make_clip(settings, "train", i)[0] for i in range(0, 64, 4)])
    coded = clips[::4]
    error = coded - drawn / 255
    assert 10 * np.log10(1 / np.mean(error**2)) > 37

    def patches(x: np.ndarray) -> np.ndarray:
        return x.reshape(16, 16, 8, 8, 8, 8, 3).std((3, 5))

    spread = patches(coded)
    assert np.quantile(spread, 0.01) > 2 / 255  # no flat patches
    assert np.quantile(patches(error) / np.maximum(spread, 1e-6), 0.95) < 0.45


def test_decord_and_pyav_read_the_same_frames(made):
    for path in sorted((made / "train").glob("*.mp4"))[:8]:
        order = [15, 3, 3, 8, 0]
        ours, theirs = (read_frames(path, order, reader=name) for name in ("decord", "pyav"))
        assert np.abs(ours.astype(int) - theirs).mean() < 1


# --- the folder -----------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_bytes_whatever_the_workers(shapes_module, made, tmp_path):
    again = shapes_module.prepare(tmp_path / "again", TRAIN, 32, workers=3)
    assert contents(again) == contents(made)


def test_a_larger_set_begins_with_the_smaller_and_seeds_differ(shapes_module):
    def first(**changes):
        return shapes_module.make_clip(shapes_module.Settings(**changes), "train", 5)[0]

    assert np.array_equal(first(train=8), first(train=4000, validation=3))
    assert not np.array_equal(first(), first(seed=1))
    other = shapes_module.make_clip(shapes_module.Settings(), "validation", 5)[0]
    assert not np.array_equal(first(), other)


def test_manifests_name_every_clip_and_its_class(shapes_module, made):
    shapes, motions = labels(TRAIN)
    wanted = {"": 8 * shapes + motions, "-shape": shapes, "-motion": motions}
    for suffix, numbers in wanted.items():
        names = (made / f"classes{suffix}.txt").read_text().splitlines()
        found = find_samples(None, made / f"train{suffix}.csv", labels=True, classes=names)
        assert np.array_equal(found.labels, numbers)
        assert all(Path(found[i].path).is_file() and found[i].frames == 16 for i in range(TRAIN))
        assert len(find_samples(None, made / f"validation{suffix}.csv", labels=True)) == 32
    with open(made / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["shape"] for row in rows] == [shapes_module.SHAPES[shape] for shape in shapes]
    assert [row["motion"] for row in rows] == [shapes_module.MOTIONS[motion] for motion in motions]
    pairs = product(shapes_module.SHAPES, shapes_module.MOTIONS)
    names = (made / "classes.txt").read_text().splitlines()
    assert names == [f"{shape} {motion}" for shape, motion in pairs]
    assert len(list((made / "train").iterdir())) == TRAIN


def test_the_image_mode_writes_the_first_frames_by_shape(shapes_module, clips, tmp_path):
    out = shapes_module.prepare(tmp_path / "images", 32, 8, images=True, workers=1)
    found = find_samples(out / "train", labels=True)
    assert found.kind == "image" and sorted(found.classes) == sorted(shapes_module.SHAPES)
    listed = find_samples(None, out / "train.csv", labels=True, kind="image")
    assert np.array_equal(listed.labels, labels(32)[0])
    image = read_image(listed[9].path)
    assert np.abs(image / 255 - clips[9, 0]).mean() < 0.02
    assert np.load(out / "objects-validation.npz")["centre"].shape == (8, 1, 2)


def read_image(path: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path))


def test_the_yaml_says_what_the_generator_does(shapes_module, root, clips):
    facts = yaml.safe_load((root / "datasets/shapes/dataset.yaml").read_text())
    assert tuple(facts["classes"]["names"]) == shapes_module.Settings().classes
    assert facts["classes"]["count"] == len(shapes_module.Settings().classes)
    defaults = shapes_module.Settings()
    assert {name: split["samples"] for name, split in facts["splits"].items()} == {
        "train": defaults.train, "validation": defaults.validation}  # fmt: skip
    assert facts["flip"]["allowed"] is False
    assert facts["clip"]["frames"] * facts["clip"]["stride"] <= defaults.frames
    assert np.allclose(facts["pixels"]["mean"], clips.mean((0, 1, 2, 3)), atol=0.03)
    assert np.allclose(facts["pixels"]["std"], clips.std((0, 1, 2, 3)), atol=0.03)


# --- running it again, and wrong input ------------------------------------------------------------


def test_a_complete_folder_is_left_alone(shapes_module, made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    shapes_module.prepare(made, TRAIN, 32)
    assert "complete already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}


def test_other_settings_stop_unless_forced(shapes_module, tmp_path):
    out = shapes_module.prepare(tmp_path / "set", 4, 2, workers=1)
    with pytest.raises(UserError, match=r"other settings \(train, seed\).*--out.*--force"):
        shapes_module.prepare(out, 6, 2, seed=1, workers=1)
    assert len(list((out / "train").iterdir())) == 4
    shapes_module.prepare(out, 6, 2, seed=1, workers=1, force=True)
    assert len(list((out / "train").iterdir())) == 6
    (out / "train" / "00003.mp4").unlink()
    with pytest.raises(UserError, match="missing.*--force"):
        shapes_module.prepare(out, 6, 2, seed=1, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_of_before_the_object_had_a_size_is_the_usual_one(shapes_module, tmp_path):
    out = shapes_module.prepare(tmp_path / "set", 4, 2, workers=1)
    said = json.loads((out / "shapes.json").read_text())
    assert said.pop("object") == 1
    (out / "shapes.json").write_text(json.dumps(said))
    assert shapes_module.prepare(out, 4, 2, workers=1) == out
    with pytest.raises(UserError, match=r"other settings \(object\)"):
        shapes_module.prepare(out, 4, 2, object=1.75, workers=1)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_something_else_is_never_replaced(shapes_module, tmp_path, force):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a shapes data set"):
        shapes_module.prepare(tmp_path, 2, 1, force=force)
    (tmp_path / "shapes.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(UserError, match="not a shapes data set"):
        shapes_module.prepare(tmp_path, 2, 1, force=force)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_failure_leaves_nothing_behind(shapes_module, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(shapes_module, "write_manifests", fail)
    with pytest.raises(OSError, match="disk full"):
        shapes_module.prepare(tmp_path / "set", 2, 1, workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"size": 50}, "size: 50 is not a multiple of 4; use 48"), ({"size": 8}, "size"),
     ({"frames": 0}, "frames"), ({"train": 0}, "train"), ({"validation": -1}, "validation"),
     ({"seed": -1}, "seed"), ({"object": 3}, "object"), ({"workers": 0}, "workers")],
)  # fmt: skip
def test_wrong_numbers_name_their_field(shapes_module, tmp_path, wrong, said):
    with pytest.raises(UserError, match=said) as caught:
        shapes_module.prepare(tmp_path / "set", **wrong)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["notes.txt/set", "notes.txt/deeper/set"])
def test_a_file_is_no_folder_to_write_to(shapes_module, tmp_path, out):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="cannot be made .* name another folder with --out"):
        shapes_module.prepare(tmp_path / out)


def test_the_command_says_one_line_and_exits_with_2(root, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    script = root / "datasets/shapes/prepare.py"
    done = subprocess.run(
        [sys.executable, script, "--out", tmp_path, "--train", "2"],
        capture_output=True, text=True, env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and str(tmp_path) in done.stderr


def test_datasets_is_no_package(root):
    assert not list((root / "datasets").rglob("__init__.py"))
