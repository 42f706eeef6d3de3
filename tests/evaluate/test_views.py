"""Test views: which frames and crops, once each, whoever reads them."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from videohpm import evaluate
from videohpm.data import Sample, find_samples
from videohpm.data.decode import read_frames
from videohpm.errors import UserError
from videohpm.evaluate import EvalProcesses, EvalProtocol
from videohpm.evaluate.multiview import score
from videohpm.evaluate.views import read_views, run_views

CPU = torch.device("cpu")


def protocol(**changes) -> EvalProtocol:
    return EvalProtocol(**{"frames": 4, "size": (32, 32), "stride": 2, "clips": 2} | changes)


@pytest.fixture(scope="module")
def videos(shapes):
    return find_samples(None, shapes / "validation.csv", labels=True)


@pytest.fixture(scope="module")
def reference(shared):
    return json.loads((shared / "reference/test_views.json").read_text())


def test_published_views(reference):
    ssv2, kinetics = reference["ssv2_test"], reference["k400_test"]
    size = (224, 224)
    for length, wanted in ssv2["cases"].items():
        found = EvalProtocol(frames=16, size=size, sampling="segments", clips=2)
        assert found.indices(int(length)).tolist() == wanted
    for length, wanted in kinetics["cases"].items():
        found = EvalProtocol(frames=16, size=size, sampling="dense", stride=4, clips=5)
        assert found.indices(int(length)).tolist() == wanted


def test_published_crops(reference):
    crops = reference["spatial_3crop"]
    side = crops["short_side"]
    for name, offsets in crops["cases"].items():
        height, width = map(int, name.split("x"))
        frames = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        cut = EvalProtocol(frames=1, size=(side, side), crops=3).cut(frames)
        for piece, offset in zip(cut, offsets, strict=True):
            tall = height > width
            top, left = (offset, 0) if tall else (0, offset)
            assert torch.equal(piece, frames[..., top : top + side, left : left + side])


@pytest.mark.parametrize("sampling", ["dense", "segments"])
def test_every_length_has_views(sampling):
    for clips in (1, 2, 5):
        test = EvalProtocol(frames=16, size=(224, 224), sampling=sampling, clips=clips)
        for length in range(1, 401):
            found = test.indices(length)
            assert found.shape == (clips, 16)
            assert found.min() >= 0 and found.max() < length


def test_a_view_shows_the_frames_it_names(videos):
    sample = videos[3]
    test = protocol(clips=3, crops=3)
    views, spans = read_views(sample, test, "video")
    assert views.shape == (9, 3, 4, 32, 32) and spans.shape == (9, 4)
    plain, _ = read_views(sample, protocol(clips=3, size=(64, 64)), "video")
    for clip, numbers in enumerate(test.indices(16)):
        frames = torch.from_numpy(read_frames(sample.path, numbers.tolist()))
        assert torch.equal(plain[clip], frames.permute(3, 0, 1, 2))
        for crop in range(3):  # the frames are square: all three crops are the centre
            assert np.array_equal(spans[3 * clip + crop], numbers)
            assert torch.equal(views[3 * clip + crop], views[3 * clip])


@pytest.mark.parametrize("batch", [1, 5, 7, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_view_once_whatever_ranks_and_batches(videos, world, batch):
    """Clips are told apart by their pixels; blank clips are the only ones seen besides."""
    rows, seen, shapes = np.arange(13), Counter(), set()
    wanted = Counter()
    for row in rows:
        views, _ = read_views(videos[int(row)], protocol(), "video")
        wanted.update(view.numpy().tobytes() for view in views)
    told = {}
    passes = set()
    for rank in range(world):
        count = 0

        def call(clips):
            nonlocal count
            count += 1
            shapes.add(tuple(clips.shape))
            return clips.flatten(1)

        for video in run_views(
            call, videos, rows, protocol(mean=(0,) * 3, std=(1,) * 3),
            processes=EvalProcesses(rank, world), device=CPU, batch=batch,
        ):  # fmt: skip
            assert video.index not in told
            told[video.index] = rank
            for view in video.output.view(2, 3, 4, 32, 32):
                seen[(view * 255).round().byte().numpy().tobytes()] += 1
        passes.add(count)
    assert sorted(told) == rows.tolist() and seen == wanted
    assert len(passes) == 1, "ranks stay in step"
    assert len({shape[0] for shape in shapes}) == 1, "one shape of forward pass"


def test_probabilities_are_averaged_over_views(videos):
    torch.manual_seed(0)
    weight = torch.randn(3 * 4 * 32 * 32, 32) / 20
    test = protocol(clips=3)
    scores = score(
        lambda clips: clips.flatten(1) @ weight,
        32,
        videos,
        test,
        processes=EvalProcesses(),
        device=CPU,
    )
    for row in (0, 7, 15):
        views, _ = read_views(videos[row], test, "video")
        logits, chances = np.zeros(32), np.zeros(32)
        for view in views:
            pixels = view.numpy() / 255
            mean, std = np.array(test.mean), np.array(test.std)
            normal = (pixels - mean[:, None, None, None]) / std[:, None, None, None]
            one = normal.reshape(-1) @ weight.double().numpy()
            logits += one / 3
            chances += np.exp(one - one.max()) / np.exp(one - one.max()).sum() / 3
        np.testing.assert_allclose(scores.logits[row], logits, atol=1e-4)
        np.testing.assert_allclose(scores.probabilities[row], chances, atol=1e-5)
    assert scores.labels.tolist() == videos.labels.tolist()


def test_an_image_has_one_view_for_each_crop(tmp_path):
    from PIL import Image

    Image.new("RGB", (50, 40), (10, 20, 30)).save(tmp_path / "a.png")
    sample = Sample(str(tmp_path / "a.png"))
    views, _ = read_views(sample, protocol(frames=1, clips=1, crops=3), "image")
    assert views.shape == (3, 3, 1, 32, 32)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"crops": 3, "size": (32, 48)}, "test.crops"), ({"resize": 16}, "test.resize")],
)
def test_impossible_views_are_refused(changes, field):
    with pytest.raises(UserError, match=field):
        protocol(**changes)


def test_a_folder_of_frames_is_predicted_as_the_video_they_are_from(
    classifier_folder, shapes, tmp_path
):
    video = str(sorted((shapes / "validation").glob("*.mp4"))[0])
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, frame in enumerate(read_frames(video, range(16))):
        Image.fromarray(frame).save(folder / f"frame{number}.png")
    one, other = evaluate.predict(str(classifier_folder), [video, str(folder)])
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert one.names == other.names and other.error is None
