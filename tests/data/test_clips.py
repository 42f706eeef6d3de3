"""Items: determinism, labels, repeats, and what happens to files that cannot be read."""

import logging
import math
import os
import threading

import numpy as np
import pytest
import torch
from painted import WIDTH, encode, numbers, painted_frame
from PIL import Image

from videohpm.data import (
    DataConfig,
    DecodeError,
    ImageDataset,
    Manifest,
    Sample,
    VideoDataset,
    count_frames,
    find_samples,
    load_clip,
    make_dataset,
    training_transform,
)
from videohpm.data.clips import needed_side
from videohpm.errors import UserError

SHORT = ("refuse", "repeat")
SIZE = (48, WIDTH)  # as encoded: a centre crop then only cuts


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """up/0..2.mp4 and down/3..4.mp4, of 40, 9, 1, 24 and 16 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for place, count in enumerate((40, 9, 1, 24, 16)):
        path = folder / ("up" if place < 3 else "down") / f"{place}.mp4"
        path.parent.mkdir(exist_ok=True)
        encode(path, "libx264", count, options={"x264-params": "keyint=12:threads=1"})
    return folder


def dataset(root, *, frames=4, size=SIZE, units=0, seed=0, labels=False, transform=None, **config):
    config = {"crop": "centre", "stride": 2, "short_videos": "repeat"} | config
    return make_dataset(
        DataConfig(root=str(root), **config),
        frames=frames,
        size=size,
        units=units,
        seed=seed,
        labels=labels,
        transform=transform,
    )


def shown(clip):
    """Numbers painted in a clip (3, T, H, W)."""
    return numbers(clip.permute(1, 2, 3, 0).numpy())


def test_clips_show_the_frames_that_were_sampled(videos):
    data = dataset(videos)
    for index, count in enumerate((24, 16, 40, 9, 1)):
        for epoch in range(5):
            item = data[epoch, index]
            assert item["clips"].shape == (1, 3, 4, *SIZE) and item["clips"].dtype == torch.uint8
            assert item["index"] == index and item["label"] == -1 and item["bad"] == []
            steps = np.diff(shown(item["clips"][0]))
            assert (steps == (2 if count > 1 else 0)).all()


def test_short_videos_are_replaced_unless_asked_for(videos):
    """Of 24, 16, 40, 9 and 1 frames, for clips of 12."""
    refusing, repeating = (dataset(videos, frames=12, short_videos=short) for short in SHORT)
    for index, short in enumerate((False, False, False, True, True)):
        item = refusing[0, index]
        assert (item["index"] != index) == bool(item["bad"]) == short
        assert all("of the 12 frames" in bad.reason for bad in item["bad"])
        assert repeating[0, index]["bad"] == []
    assert shown(repeating[0, 3]["clips"][0]) == [0, 2, 4, 6] + [8] * 8


def test_segments_cover_the_video(videos):
    positions = shown(dataset(videos, sampling="segments")[0, 2]["clips"][0])
    assert [position // 10 for position in positions] == [0, 1, 2, 3]


def test_items_depend_on_seed_epoch_and_index_only(videos):
    arguments = {"crop": "multiscale", "size": (32, 32), "units": 12, "repeats": 2, "flip": True}
    first, second = (dataset(videos, **arguments) for _ in range(2))
    keys = [(epoch, index) for epoch in range(3) for index in range(5)]
    items = {key: first[key] for key in keys}
    torch.manual_seed(5)
    np.random.seed(5)
    for key in reversed(keys):
        again = second[key]
        assert torch.equal(again["clips"], items[key]["clips"])
        assert torch.equal(again["shuffle_ids"], items[key]["shuffle_ids"])
    other = dataset(videos, **arguments, seed=1)
    assert not torch.equal(other[0, 2]["clips"], items[0, 2]["clips"])
    assert not torch.equal(items[1, 2]["clips"], items[0, 2]["clips"])
    assert not torch.equal(items[1, 2]["shuffle_ids"], items[0, 2]["shuffle_ids"])


def test_repeats_differ_in_crop_and_priority_but_not_in_frames(videos):
    data = dataset(videos, crop="random_resized", crop_area=(0.2, 0.6), repeats=3, units=50)
    item = data[0, 2]
    assert item["clips"].shape[0] == 3 and item["shuffle_ids"].shape == (3, 50)
    for a, b in ((0, 1), (1, 2)):
        assert not torch.equal(item["clips"][a], item["clips"][b])
        assert not torch.equal(item["shuffle_ids"][a], item["shuffle_ids"][b])
    assert (item["shuffle_ids"].sort(1).values == torch.arange(50)).all()
    item = dataset(videos, repeats=3)[0, 2]  # centre crop: only the frames are left to differ
    assert (item["clips"] == item["clips"][0]).all()


def test_priority_does_not_change_with_the_crop(videos):
    plain, cropped = (
        dataset(videos, units=9),
        dataset(videos, units=9, crop="multiscale", flip=True),
    )
    assert torch.equal(plain[0, 2]["shuffle_ids"], cropped[0, 2]["shuffle_ids"])


def test_labels_come_from_folders(videos):
    data = dataset(videos, labels=True)
    assert data.manifest.classes == ["down", "up"]
    assert [data[0, index]["label"] for index in range(5)] == [0, 0, 1, 1, 1]


def test_another_transform(videos):
    def half(clip, rng):
        return clip[..., ::2, ::2]

    assert dataset(videos, transform=half)[0, 0]["clips"].shape[-2:] == (24, WIDTH // 2)


@pytest.fixture
def spoilt(videos, tmp_path):
    """Links to the five videos, among two files that cannot be read."""
    for place, path in enumerate(sorted(videos.rglob("*.mp4"))):
        (tmp_path / f"good{place}.mp4").symlink_to(path)
    (tmp_path / "bad0.mp4").write_text("not a video")
    (tmp_path / "bad1.mp4").symlink_to(tmp_path / "gone.mp4")
    return tmp_path


def test_bad_files_are_replaced_and_named(spoilt):
    data = dataset(spoilt)
    replacements = set()
    for epoch in range(8):
        item = data[epoch, 0]
        assert item["index"] != 0 and item["bad"][0].index == 0
        assert item["bad"][0].path == str(spoilt / "bad0.mp4")
        assert "\n" not in item["bad"][0].reason
        assert torch.equal(item["clips"], data[epoch, 0]["clips"])
        replacements.add(item["index"])
    assert len(replacements) > 2


def test_nothing_but_bad_files_is_an_error(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_text("not a video")
    with pytest.raises(UserError, match=r"4 files in a row") as caught:
        dataset(tmp_path, max_retries=4)[0, 0]
    assert "\n" not in str(caught.value)


def test_a_file_that_hangs_is_replaced(spoilt):
    os.mkfifo(spoilt / "bad2.mp4")  # opening it waits for a writer that never comes
    data = dataset(spoilt, decode_timeout=2)
    item = data[0, 2]
    assert item["index"] != 2 and "within 2 seconds" in item["bad"][0].reason
    threads = threading.active_count()
    assert "before" in data[1, 2]["bad"][0].reason  # and not tried a second time
    assert threading.active_count() == threads


def test_reading_without_replacement(spoilt):
    """As evaluation reads: a bad file is an error, a good one its frames in order."""
    sample = Sample(str(spoilt / "good2.mp4"))
    assert count_frames(sample) == 40
    clip = load_clip(sample, np.array([3, 3, 30]))
    assert clip.shape == (3, 3, *SIZE) and shown(clip.transpose(0, 1)) == [3, 3, 30]
    with pytest.raises(DecodeError):
        load_clip(Sample(str(spoilt / "bad0.mp4")), np.array([0]))
    assert count_frames(Sample("anything.mp4", frames=7)) == 7


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_images_are_clips_of_one_frame(tmp_path, mode):
    suffix = "tif" if mode in ("CMYK", "I;16") else "png"
    Image.fromarray(painted_frame(7)).convert("L" if mode == "I;16" else mode).save(
        tmp_path / f"a.{suffix}"
    )
    data = dataset(tmp_path, frames=1)
    assert isinstance(data, ImageDataset)
    item = data[0, 0]
    assert item["clips"].shape == (1, 3, 1, *SIZE) and shown(item["clips"][0]) == [7]


def test_bad_images_are_replaced(tmp_path):
    Image.fromarray(painted_frame(1)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "a_part.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b_text.jpg").write_text("no")
    data = dataset(tmp_path, frames=1)
    for index in (0, 1):
        item = data[0, index]
        assert item["index"] == 2 and {bad.index for bad in item["bad"]} <= {0, 1}


def test_an_image_model_takes_single_frames_of_videos(videos):
    data = dataset(videos, frames=1)
    assert isinstance(data, ImageDataset)
    seen = {shown(data[epoch, 2]["clips"][0])[0] for epoch in range(30)}
    assert len(seen) > 12 and seen <= set(range(40))


def test_images_for_a_video_model_are_a_mistake(tmp_path):
    Image.fromarray(painted_frame(1)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="images"):
        dataset(tmp_path, frames=16)


def test_an_empty_table_is_a_mistake():
    with pytest.raises(UserError, match="no samples"):
        VideoDataset(Manifest([]), DataConfig(), frames=4, size=SIZE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stride", 0),
        ("repeats", 0),
        ("workers", -1),
        ("kind", "animation"),
        ("sampling", "sparse"),
        ("crop", "none"),
        ("crop_scales", ()),
        ("crop_scales", (1.2,)),
        ("crop_area", (0.5, 0.2)),
        ("crop_aspect", (0.0, 1.0)),
        ("interpolation", "nearest"),
        ("mean", (0.5, 0.5)),
        ("std", (0.2, 0.0, 0.2)),
        ("std", (0.2, float("nan"), 0.2)),
        ("max_bad_fraction", 1.5),
        ("decode_timeout", -1.0),
        ("max_retries", 0),
        ("prefetch", 0),
    ],
)
def test_impossible_configurations_name_their_field(field, value):
    with pytest.raises(ValueError, match=field):
        DataConfig(**{field: value})


def test_every_field_says_what_it_is():
    """The docstring under each field is what the command line shows as its help."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(DataConfig)).body[0].body
    for statement, following in zip(body, body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign):
            assert isinstance(following, ast.Expr) and isinstance(following.value.value, str)


def test_readers_are_quiet(spoilt, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        dataset(spoilt)[0, 0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("crop", ["multiscale", "random_resized", "centre"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_no_crop_is_enlarged_for_frames_scaled_down(crop, size):
    """Frames just as large as ``needed_side`` leave every crop at least as large as the clip."""
    config = DataConfig(crop=crop)
    side = needed_side(config, size)
    rng, transform = np.random.default_rng(0), training_transform(config, size)
    assert side >= max(size)
    if crop == "centre":
        return
    for _ in range(300):
        shape = (side, side + int(rng.integers(side)))
        _, _, height, width = transform.box(*shape[:: rng.choice([1, -1])], rng)
        assert height >= size[0] - 1 and width >= size[1] - 1


def test_frames_are_left_as_they_are_where_that_is_asked_or_unknown(spoilt):
    manifest = find_samples(spoilt)
    arguments = {"frames": 4, "size": (32, 32)}
    assert needed_side(DataConfig(downscale_on_decode=False), (32, 32)) is None
    given = VideoDataset(manifest, DataConfig(), transform=lambda clip, rng: clip, **arguments)
    assert given.min_side is None
    assert VideoDataset(manifest, DataConfig(), **arguments).min_side == math.ceil(32 / 0.66)
