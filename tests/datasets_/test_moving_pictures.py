"""Pictures as objects and grounds of the shapes: true labels, no picture in both splits."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from videohpm.errors import UserError

CLASSES = ("apple", "boat", "cloud")
EACH = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train/CLASS and test/CLASS; a picture's red tells its class, green and blue which it is."""
    place = tmp_path_factory.mktemp("pictures")
    for kind, name in enumerate(CLASSES):
        for index in range(EACH):
            path = place / ("train" if index < 7 else "test") / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = np.zeros((20, 24, 3), np.uint8)
            picture[:] = 40 + 90 * kind, 20 * index, 255 - 20 * index
            Image.fromarray(picture).save(path)
    return place


@pytest.fixture(scope="module")
def made(shapes_module, folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("moving") / "set"
    return shapes_module.prepare(place, 18, 18, sprites=folder, backgrounds=folder, workers=2)


def drawn(shapes_module, folder, split, index, **changed):
    settings = shapes_module.Settings(
        **({"sprites": str(folder), "backgrounds": str(folder)} | changed)
    )
    return shapes_module.make_clip(settings, split, index)


def test_labels_are_the_folder_and_the_motion(made):
    motions = (made / "classes-motion.txt").read_text().split()
    assert motions == ["left", "right", "up", "down", "grow", "shrink"]
    assert (made / "classes-class.txt").read_text().split() == list(CLASSES)
    with open(made / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == list(range(18))
    assert [(row["class"], row["motion"]) for row in rows] == [
        (name, motion) for name in CLASSES for motion in motions
    ]
    assert json.loads((made / "shapes.json").read_text())["sprites"]


def test_the_object_shows_a_picture_of_its_class_wherever_it_is(shapes_module, folder):
    for index in range(18):
        frames, truth = drawn(shapes_module, folder, "train", index, backgrounds=None)
        for frame, cover in zip(frames, truth["cover"], strict=True):
            whole = np.kron(cover, np.ones((4, 4))) == 255
            assert whole.any()
            colour = np.median(frame[whole], 0)
            assert (frame[whole] == colour).all(1).mean() > 0.9  # but at the rounded-up edge
            assert colour[0] == 40 + 90 * (index // 6)


def test_it_moves_as_labelled(shapes_module, folder):
    for index, (axis, sign) in enumerate([(0, -1), (0, 1), (1, -1), (1, 1)]):
        _, truth = drawn(shapes_module, folder, "train", index)
        step = np.diff(truth["centre"][:, axis])
        step -= 64 * np.round(step / 64)
        assert (sign * step > 0).all()
        assert np.ptp(truth["centre"][:, 1 - axis]) == 0
    for index, sign in ((4, 1), (5, -1)):
        _, truth = drawn(shapes_module, folder, "train", index)
        step = np.diff(np.log(truth["radius"]))
        assert (sign * step > 0).sum() >= len(step) - 1  # but where it begins anew


def test_no_picture_is_in_both_splits(shapes_module, folder):
    seen = {"train": set(), "validation": set()}
    for split, colours in seen.items():
        for index in range(90):
            frames, truth = drawn(shapes_module, folder, split, index)
            cover = np.kron(truth["cover"][0], np.ones((4, 4)))
            for part in (cover == 255, cover == 0):
                red, green, _ = np.median(frames[0][part], 0)
                colours.add((round((red - 40) / 90), green // 20))
    assert not seen["train"] & seen["validation"]
    assert {index for _, index in seen["validation"]} == {
        1,
        6,
    }  # every fifth: test 789, train 0 to 6
    assert len(seen["train"]) == 3 * (EACH - 2)  # and all of them are used


def test_the_ground_is_the_middle_of_the_picture_at_first(shapes_module, folder):
    import pictures

    rng = np.random.default_rng(3)
    ramp = np.tile(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], (80, 1, 3))
    path = folder / "ramp.png"
    Image.fromarray(ramp).save(path)
    try:
        ground = pictures.draw_ground(str(path), 16, 64, rng)
    finally:
        path.unlink()
    expected = ramp[8:72, 8:72] / 255
    assert np.abs(ground[0] - expected).max() < 0.02
    moved = (ground[15] - ground[0]).mean((0, 1))
    assert np.allclose(moved, moved[0]) and np.abs(ground[15] - ground[0]).max() <= 8 / 80 + 0.02


def test_drawing_a_sprite_equals_a_loop(shapes_module, folder):
    import pictures
    from drawing import make_track

    track = make_track("up", 3, 32, np.random.default_rng(0))
    path = str(next((folder / "train" / "boat").iterdir()))
    cover, colour = pictures.draw_sprite(path, track, 32)
    expected = np.zeros_like(cover)
    for t in range(3):
        for row in range(32):
            for column in range(32):
                dx, dy = column - track.centre[t, 0], row - track.centre[t, 1]
                dx, dy = (d - 32 * np.round(d / 32) for d in (dx, dy))
                far = max(abs(dx), abs(dy)) - 0.75 * track.radius[t]
                expected[t, row, column] = min(1, max(0, 0.5 - far))
    np.testing.assert_allclose(cover, expected, atol=1e-5)
    inside = colour[cover == 1]
    assert np.ptp(inside, axis=0).max() < 1e-6


def test_the_same_pictures_give_the_same_bytes(shapes_module, folder, made, tmp_path):
    again = shapes_module.prepare(
        tmp_path / "again", 18, 18, sprites=folder, backgrounds=folder, workers=1
    )
    for path in sorted(made.rglob("*.mp4")):
        assert path.read_bytes() == (again / path.relative_to(made)).read_bytes()


@pytest.mark.parametrize("name", ["sprites", "backgrounds"])
def test_a_folder_without_enough_pictures_is_one_line(shapes_module, tmp_path, folder, name):
    few = tmp_path / "few" / "cat"
    few.mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (8, 8)).save(few / f"{index}.png")
    for place in (tmp_path / "few", tmp_path / "missing"):
        with pytest.raises(UserError, match=f"^{name}: {place} has no folders with 5 pictures"):
            shapes_module.prepare(tmp_path / "out", 6, 6, **{name: place})
    assert not (tmp_path / "out").exists()
