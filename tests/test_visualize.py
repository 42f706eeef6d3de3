"""Planted patterns: what is drawn is what is there, on exactly the pixels it belongs to."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from videohpm import checkpoint, hpm, visualize
from videohpm.data import normalise, read_frames
from videohpm.data.sampling import dense_indices
from videohpm.errors import UserError
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder
from videohpm.models.mae import Output
from videohpm.visualize import pictures
from videohpm.visualize.files import write
from videohpm.visualize.pictures import GAP, LABELS, rank_order, row_frames

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TINY = {
    "arch": "vit_tiny", "frames": 4, "image_size": (16, 24), "patch": 8, "tubelet": 2,
    "dim": 12, "depth": 1, "heads": 2, "decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip


class Oracle(MaskedAutoencoder):
    """Predicts its targets, and the scores it is given."""

    planted = None

    def forward(self, clips, mask):
        return Output(hpm.pixel_targets(clips, mask, self.grid, self.target, STD), self.planted)


class Chooser(torch.nn.Module):
    """A teacher that says what it is told."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, clips, shuffle_ids):
        return self.scores


def some_clips(grid, count=2, seed=0):
    shape = (count, 3, grid.frames, grid.height, grid.width)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    return pixels.byte(), normalise(pixels.byte(), MEAN, STD)


def some_mask(grid, count=2, ratio=0.5, unit="tube", seed=0):
    generator = torch.Generator().manual_seed(seed)
    shuffle_ids = hpm.random_shuffle_ids(count, hpm.unit_count(grid, unit), generator)
    return hpm.random_mask(grid, ratio, shuffle_ids, unit)


def look(model, mask, clips, teacher=None, **more):
    return visualize.inspect(model, clips, mask, teacher, mean=MEAN, std=STD, **more)


def planted(grid, count=1, **fields):
    """An inspection made by hand; nothing is hidden and everything is grey unless told."""
    grey = np.full((count, grid.frames, grid.height, grid.width, 3), 90, np.uint8)
    blank = np.full((count, grid.t, grid.h, grid.w), np.nan)
    plain = visualize.Inspection(
        grid=grid, input=grey, masked=grey, reconstruction=grey, reconstruction_with_visible=grey,
        mask=np.zeros_like(blank, bool), loss=blank, scores=None, hardness=None, hard=None,
        uses_true_statistics=False,
    )  # fmt: skip
    return replace(plain, **fields)


def pixels_of(grid, step, row, column):
    """(T, H, W) bool of one token, by loops."""
    inside = np.zeros((grid.frames, grid.height, grid.width), bool)
    for frame in range(grid.frames):
        for y in range(grid.height):
            for x in range(grid.width):
                place = (frame // grid.tubelet, y // grid.patch, x // grid.patch)
                inside[frame, y, x] = place == (step, row, column)
    return inside


grids = st.builds(
    TokenGrid,
    t=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4),
    tubelet=st.integers(1, 2), patch=st.integers(1, 5),
)  # fmt: skip


@given(grids, st.data())
@settings(max_examples=25, deadline=None)
def test_a_tokens_loss_lights_exactly_its_pixels(grid, data):
    place = tuple(data.draw(st.integers(0, size - 1)) for size in (grid.t, grid.h, grid.w))
    loss = np.full((1, grid.t, grid.h, grid.w), np.nan)
    dark = row_frames(planted(grid, loss=loss), "loss")[0]
    loss[(0, *place)] = 2.5
    lit = row_frames(planted(grid, loss=loss), "loss")[0]
    np.testing.assert_array_equal((lit != dark).any(-1), pixels_of(grid, *place))


@given(grids, st.data())
@settings(max_examples=25, deadline=None)
def test_a_chosen_tube_is_painted_on_its_pixels_at_every_time_step(grid, data):
    row, column = (data.draw(st.integers(0, size - 1)) for size in (grid.h, grid.w))
    hard = np.zeros((1, 1, grid.h, grid.w), bool)
    before = row_frames(planted(grid, hard=hard), "hard")[0]
    hard[0, 0, row, column] = True
    after = row_frames(planted(grid, hard=hard), "hard")[0]
    tube = np.any([pixels_of(grid, step, row, column) for step in range(grid.t)], axis=0)
    np.testing.assert_array_equal((before != after).any(-1), tube)


def test_a_chosen_tube_that_is_hidden_is_painted_more_strongly():
    grid = TokenGrid(1, 1, 2, tubelet=1, patch=2)
    mask = np.array([True, False]).reshape(1, 1, 1, 2)
    frames = row_frames(planted(grid, hard=np.ones_like(mask), mask=mask), "hard").astype(int)
    orange = pictures.HARD - 90
    hidden, visible = frames[0, 0, 0, 0] - 90, frames[0, 0, 0, 2] - 90
    assert (abs(hidden) > abs(visible)).all()
    assert (np.sign(hidden) == np.sign(orange)).all()


@pytest.mark.parametrize("unit", ["tube", "token"])
def test_the_mask_falls_where_it_says(unit):
    model = MaskedAutoencoder.create(**TINY, predictor_unit="tube" if unit == "tube" else "token")
    grid = model.grid
    pixels, clips = some_clips(grid)
    mask = some_mask(grid, unit=unit)
    seen = look(model, mask, clips)
    for clip in range(2):
        hidden = np.zeros((grid.frames, grid.height, grid.width), bool)
        for token in mask.masked[clip].tolist():
            step, place = divmod(token, grid.num_tubes)
            hidden |= pixels_of(grid, step, *divmod(place, grid.w))
        frames = pixels[clip].permute(1, 2, 3, 0).numpy()
        np.testing.assert_array_equal(seen.masked[clip][hidden], 128)
        np.testing.assert_array_equal(seen.masked[clip][~hidden], frames[~hidden])
        np.testing.assert_array_equal(seen.reconstruction[clip][~hidden], 255)
        np.testing.assert_array_equal(
            seen.reconstruction_with_visible[clip][~hidden], frames[~hidden]
        )
        np.testing.assert_array_equal(
            seen.reconstruction_with_visible[clip][hidden], seen.reconstruction[clip][hidden]
        )
        np.testing.assert_array_equal(np.isnan(seen.loss[clip]), ~seen.mask[clip])
        np.testing.assert_array_equal(np.isnan(seen.scores[clip]) | seen.mask[clip], True)


@pytest.mark.parametrize("target", ["raw", "per_channel", "joint"])
def test_a_perfect_prediction_gives_the_input_back_exactly(target):
    model = Oracle.create(**TINY, predictor_unit=None, target=target)
    pixels, clips = some_clips(model.grid)
    seen = look(model, some_mask(model.grid), clips)
    np.testing.assert_array_equal(seen.input, pixels.permute(0, 2, 3, 4, 1).numpy())
    np.testing.assert_array_equal(seen.reconstruction_with_visible, seen.input)
    assert np.nanmax(seen.loss) < 1e-9
    assert seen.uses_true_statistics == (target != "raw")
    stated = "ground truth used" if target != "raw" else "no ground truth"
    assert stated in pictures.footnote(seen)


def test_raw_pixels_are_the_models_own():
    """A model that says nothing but zeros shows the mean colour, whatever the clip."""
    model = MaskedAutoencoder.create(**TINY, predictor_unit=None, target="raw")
    for parameter in model.decoder.head.parameters():
        torch.nn.init.zeros_(parameter)
    mask = some_mask(model.grid)
    seen = look(model, mask, some_clips(model.grid)[1])
    hidden = pictures.spread(seen.mask, model.grid, list(range(model.grid.frames)))
    mean_colour = np.broadcast_to(np.array(MEAN) * 255, seen.reconstruction[hidden].shape)
    np.testing.assert_allclose(seen.reconstruction[hidden], mean_colour, atol=0.51)


def test_the_loss_of_each_token_is_in_its_place():
    model = MaskedAutoencoder.create(**TINY, predictor_unit=None, target="raw")
    grid, mask = model.grid, some_mask(model.grid)
    _, clips = some_clips(grid)
    seen = look(model, mask, clips)
    with torch.no_grad():
        out = model.eval()(clips, mask)
    losses = hpm.reconstruction_loss(out.pixels, clips, mask, grid, "raw", STD)
    for clip in range(2):
        for number, token in enumerate(mask.masked[clip].tolist()):
            step, place = divmod(token, grid.num_tubes)
            row, column = divmod(place, grid.w)
            assert seen.loss[clip, step, row, column] == pytest.approx(
                float(losses[clip, number]), rel=1e-5
            )


def test_scores_are_placed_by_tube_or_by_token():
    model = Oracle.create(**TINY, predictor_unit=None)
    grid = model.grid
    _, clips = some_clips(grid)
    mask = some_mask(grid)
    model.planted = mask.tubes.float()
    by_tube = look(model, mask, clips).scores
    assert by_tube.shape == (2, 1, grid.h, grid.w)
    model.planted = mask.masked.float()
    by_token = look(model, mask, clips).scores
    assert by_token.shape == (2, grid.t, grid.h, grid.w)
    for scores in (by_tube, by_token):
        numbers = np.arange(scores[0].size).reshape(scores.shape[1:])
        for clip in scores:
            known = ~np.isnan(clip)
            np.testing.assert_array_equal(clip[known], numbers[known])
    np.testing.assert_array_equal(~np.isnan(by_token), look(model, mask, clips).mask)


@pytest.mark.parametrize("unit", ["tube", "token"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_hard_marks_what_the_teacher_forced_into_the_mask(unit, share):
    model = MaskedAutoencoder.create(**TINY, predictor_unit=None)
    grid, (_, clips) = model.grid, some_clips(model.grid)
    units = hpm.unit_count(grid, unit)
    scores = torch.rand(2, units, generator=torch.Generator().manual_seed(1))
    mask = hpm.hard_mask(scores, grid, 0.5, share, unit=unit)
    seen = look(model, mask, clips, Chooser(scores), hard_ratio=share)
    expected = int(share * (units // 2))
    np.testing.assert_array_equal(seen.hard.sum((1, 2, 3)), expected)
    assert not (seen.hard & ~seen.mask).any()
    for hardness, hard in zip(seen.hardness, seen.hard, strict=True):
        assert not expected or hardness[hard].min() > hardness[~hard].max()


def test_token_scores_are_averaged_where_tubes_are_hidden():
    model = MaskedAutoencoder.create(**TINY, predictor_unit=None)
    grid, (_, clips) = model.grid, some_clips(model.grid)
    scores = torch.rand(2, grid.num_tokens, generator=torch.Generator().manual_seed(1))
    seen = look(model, some_mask(grid), clips, Chooser(scores))
    expected = scores.view(2, grid.t, grid.h, grid.w).mean(1, keepdim=True)
    np.testing.assert_allclose(seen.hardness, expected.numpy())


def test_looking_changes_nothing():
    model = MaskedAutoencoder.create(**TINY).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = look(model, some_mask(model.grid), some_clips(model.grid)[1], LossTeacher(model))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    visualize.image_grid(seen)
    assert not seen.input.any() or seen.input.max() <= 255


@pytest.mark.parametrize(
    ("changes", "teacher"),
    [
        ({}, True),
        ({"predictor_unit": None}, False),
        ({"frames": 1, "tubelet": 1}, True),
        ({"frames": 1, "tubelet": 1, "image_size": (40, 8), "predictor_unit": None}, False),
        ({"frames": 40, "image_size": 8}, True),
        ({"image_size": 128, "patch": 16}, True),
    ],
)
def test_sheets_and_films_of_any_shape(changes, teacher):
    model = MaskedAutoencoder.create(**TINY | changes)
    ratio = 0.5 if model.grid.num_tubes > 1 else None
    mask = (
        some_mask(model.grid, ratio=ratio)
        if ratio
        else Mask.from_bool(torch.arange(model.grid.num_tokens).expand(2, -1) % 2 == 0, model.grid)
    )
    if ratio is None:
        model.predictor = None
    seen = look(
        model, mask, some_clips(model.grid)[1], LossTeacher(model) if teacher and ratio else None
    )
    page = visualize.training_picture(seen)
    assert page.dtype == np.uint8 and page.ndim == 3
    play = visualize.training_animation(seen)
    assert len(play) == model.grid.frames
    names = pictures.rows_of(seen)
    assert ("scores" in names) == (model.predictor is not None)
    assert ("hardness" in names) == ("hard" in names) == (seen.hardness is not None)


def test_frames_lie_in_the_sheet_to_the_pixel():
    grid = TokenGrid(3, 2, 3, tubelet=2, patch=20)
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (2, 6, 40, 60, 3), dtype=np.uint8)
    seen = planted(grid, 2, input=clip)
    page = visualize.image_grid(seen, ["input", "masked"], cell=40)
    found = []
    for y in range(page.shape[0] - 40):
        if np.array_equal(page[y, LABELS : LABELS + 60], clip[0, 0, 0]):
            found.append(y)
    assert len(found) == 1
    for column, frame in enumerate((0, 2, 4)):
        left = LABELS + column * (60 + GAP)
        shown = page[found[0] : found[0] + 40, left : left + 60]
        np.testing.assert_array_equal(shown, clip[0, frame])
        below = page[found[0] + 40 + GAP : found[0] + 80 + GAP, left : left + 60]
        np.testing.assert_array_equal(below, 90)


def test_small_frames_are_enlarged_by_a_whole_number():
    grid = TokenGrid(1, 2, 2, tubelet=1, patch=8)
    clip = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 16, 3), dtype=np.uint8)
    page = visualize.image_grid(planted(grid, input=clip), ["input"], cell=112)
    large = clip[0, 0].repeat(7, 0).repeat(7, 1)
    np.testing.assert_array_equal(page[2:114, LABELS : LABELS + 112], large)


def test_a_film_plays_every_frame():
    grid = TokenGrid(2, 1, 1, tubelet=3, patch=16)
    clip = np.arange(6, dtype=np.uint8).reshape(1, 6, 1, 1, 1) * 40
    clip = np.broadcast_to(clip, (1, 6, 16, 16, 3)).copy()
    play = visualize.animation(planted(grid, input=clip), ["input"], cell=16)
    for frame in range(6):
        assert (play[frame] == frame * 40).all(-1).sum() >= 256


def test_a_loss_that_is_not_finite_is_drawn():
    grid = TokenGrid(1, 2, 2, tubelet=1, patch=8)
    loss = np.array([np.inf, np.nan, np.nan, np.nan]).reshape(1, 1, 2, 2)
    visualize.image_grid(planted(grid, loss=loss))
    visualize.image_grid(planted(grid, loss=np.full_like(loss, np.nan)))


@given(st.lists(st.one_of(st.just(float("nan")), st.floats(-5, 5)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_ranks_count_how_many_are_lower(values):
    values = np.array(values)
    known = values[~np.isnan(values)]
    placed = rank_order(values[None])[0]
    np.testing.assert_array_equal(np.isnan(placed), np.isnan(values))
    for value, rank in zip(values, placed, strict=True):
        if not np.isnan(value) and len(known) > 1:
            low, high = (known < value).sum(), (known <= value).sum() - 1
            assert low - 1e-9 <= rank * (len(known) - 1) <= high + 1e-9


def test_titles_of_any_letters_and_length_fit():
    grid = TokenGrid(1, 1, 1, tubelet=1, patch=16)
    narrow = visualize.image_grid(planted(grid))
    for title in ("видео 動画 🎞.mp4", "x" * 5000, "a\nb\tc", "\u202egnp.exe"):
        page = visualize.image_grid(planted(grid), titles=[title])
        assert page.shape[1] == narrow.shape[1]


def calibrated(order):
    """Losses 0 … 19 of hidden tubes, with scores in this order of them."""
    grid = TokenGrid(2, 4, 5, tubelet=1, patch=2)
    losses = np.arange(20.0).reshape(1, 1, 4, 5)
    return planted(
        grid,
        loss=losses.repeat(2, 1),
        mask=np.ones((1, 2, 4, 5), bool),
        scores=np.array(order, float).reshape(1, 1, 4, 5),
    )


def test_calibration_of_a_right_and_of_a_reversed_predictor():
    right = visualize.calibration(calibrated(range(20)), bins=4)
    assert right["count"] == [5, 5, 5, 5]
    assert right["loss"] == right["best"] == [2, 7, 12, 17]
    reverse = visualize.calibration(calibrated(range(20, 0, -1)), bins=4)
    assert reverse["best"] == right["best"]
    assert reverse["loss"] == [17, 12, 7, 2]
    many = visualize.calibration(calibrated(range(20)), bins=40)
    assert None in many["loss"] and sum(many["count"]) == 20


def test_diagnostics_say_where_the_teacher_chooses():
    hard = np.zeros((2, 1, 2, 2), bool)
    hard[:, 0, 0, 1] = True
    hard[0, 0, 1, 0] = True
    loss = np.full((2, 3, 2, 2), np.nan)
    loss[0, :, 0, 0] = [1, 2, 3]
    loss[1, :, 0, 0] = 5
    mask = ~np.isnan(loss)
    grid = TokenGrid(3, 2, 2, tubelet=1, patch=4)
    hardness = np.arange(8.0).reshape(2, 1, 2, 2)
    said = visualize.diagnostics(
        planted(grid, 2, hard=hard, loss=loss, mask=mask, hardness=hardness)
    )
    assert said["maps"]["hard"] == [[0, 1], [0.5, 0]]
    assert said["maps"]["loss"] == [[3.5, None], [None, None]]
    assert said["maps"]["masked"] == [[1, 0], [0, 0]]
    assert said["maps"]["hardness"] == [[0, 0.33333], [0.66667, 1]]
    assert said["calibration"] is None and said["clips"] == 2
    assert json.loads(json.dumps(said, allow_nan=False)) == said


def test_the_figure_has_a_row_for_each_thing_and_no_window(tmp_path):
    model = MaskedAutoencoder.create(**TINY)
    seen = look(model, some_mask(model.grid), some_clips(model.grid)[1], LossTeacher(model))
    page = visualize.figure(seen, clip=1)
    drawn = [ax for ax in page.axes if ax.images and ax.get_label() != "<colorbar>"]
    assert len(drawn) == len(visualize.ROWS) * model.grid.t
    np.testing.assert_array_equal(drawn[0].images[0].get_array(), seen.input[1, 0])
    assert "ground truth used" in page.get_supxlabel()
    page.savefig(tmp_path / "clip.svg")


def save(folder, model, teacher=None):
    checkpoint.save_weights(folder, model, teacher)
    return str(folder)


def write_clip(file, count=9, size=(32, 48)):
    """An MP4 whose frames grow lighter."""
    tall, wide = size
    shade = np.linspace(20, 220, count).astype(np.uint8).reshape(-1, 1, 1, 1)
    write(file, np.broadcast_to(shade, (count, tall, wide, 3)).copy(), 8)
    return str(file)


def test_the_command_writes_what_the_suffix_says(tmp_path):
    model = MaskedAutoencoder.create(**TINY)
    weights = save(tmp_path / "run", model, LossTeacher(model))
    video = write_clip(tmp_path / "клип <b>.mp4")
    sizes = {}
    for suffix in ("png", "gif", "mp4"):
        out = tmp_path / "out" / f"seen.{suffix}"
        visualize.visualize(weights, [video, video], str(out), ratio=0.5, hard_ratio=0.5, stride=1)
        if suffix == "mp4":
            sizes[suffix] = read_frames(str(out), [0, 1, 2, 3]).shape
        else:
            with Image.open(out) as image:
                sizes[suffix] = (getattr(image, "n_frames", 1), image.height, image.width)
    assert sizes["gif"][0] == sizes["mp4"][0] == 4
    assert [side + side % 2 for side in sizes["gif"][1:]] == list(sizes["mp4"][1:3])


def test_the_command_reads_the_middle_of_the_video(tmp_path):
    weights = save(tmp_path / "run", MaskedAutoencoder.create(**TINY))
    video = write_clip(tmp_path / "a.mp4")
    seen = visualize.inspect_videos(weights, [video], stride=1, ratio=0.5)
    # 9 frames, 4 wanted: 2 to 5; 32x48 is twice 16x24, so nothing is cut off
    expected = np.linspace(20, 220, 9)[2:6]
    np.testing.assert_allclose(seen.input[0].mean((1, 2, 3)), expected, atol=3)
    again = visualize.inspect_videos(weights, [video], stride=1, ratio=0.5)
    np.testing.assert_array_equal(seen.mask, again.mask)
    other = visualize.inspect_videos(weights, [video] * 8, stride=1, ratio=0.5, seed=1)
    assert (other.mask != seen.mask).any()


def test_the_command_takes_images_in_image_mode(tmp_path):
    model = MaskedAutoencoder.create(**TINY | {"frames": 1, "tubelet": 1})
    weights = save(tmp_path / "run", model)
    Image.new("RGB", (48, 32), (250, 10, 20)).save(tmp_path / "a.png")
    seen = visualize.inspect_videos(weights, [str(tmp_path / "a.png")], ratio=0.5)
    np.testing.assert_array_equal(seen.input, np.broadcast_to([250, 10, 20], seen.input.shape))


def test_the_recipe_comes_from_the_checkpoint(tmp_path):
    model = MaskedAutoencoder.create(**TINY)
    config = {
        "data": {
            "sampling": "segments", "stride": 3, "interpolation": "bicubic",
            "mean": list(MEAN), "std": list(STD),
        },
        "mask": {"ratio": 0.67, "unit": "tube"},
        "hpm": {"hard_ratio_start": 0.0, "hard_ratio_end": 0.5},
    }  # fmt: skip
    folder = tmp_path / "run" / "checkpoints" / "step_00000050"
    save(folder, model, LossTeacher(model))
    state = folder / "state.json"
    state.write_text(json.dumps({"step": 50, "steps": 100, "config": config}))
    seen = visualize.inspect_videos(tmp_path / "run", [write_clip(tmp_path / "a.mp4")])
    assert seen.mask.sum() == 4 * model.grid.t  # int(.67 · 6) tubes
    assert seen.hard.sum() == 1  # int(.25 · 4)
    np.testing.assert_allclose(
        seen.input[0].mean((1, 2, 3)), np.linspace(20, 220, 9)[[1, 3, 5, 7]], atol=3
    )
    state.write_text("{")
    with pytest.raises(UserError, match=r"state\.json"):
        visualize.inspect_videos(tmp_path / "run", [str(tmp_path / "a.mp4")])


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"output": "seen.jpg"}, "output"),
        ({"ratio": 1.0}, "ratio"),
        ({"hard_ratio": 2.0}, "hard_ratio"),
        ({"videos": ["missing.mp4"]}, "missing.mp4"),
        ({"videos": ["picture.png"]}, "picture.png"),
        ({"videos": ["text.mp4"]}, "text.mp4"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, arguments, names):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "run", MaskedAutoencoder.create(**TINY))
    write_clip(tmp_path / "a.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    Image.new("RGB", (8, 8)).save("picture.png")
    call = {"videos": ["a.mp4"], "output": "seen.png", "ratio": 0.5} | arguments
    with pytest.raises(UserError, match=names) as error:
        visualize.visualize("run", **call)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["b.mp4", "a.mp4", "notes.txt"], "a folder of videos; name .*such as vids/a.mp4$"),
        (["run/b.mp4", ".thumbs/a.jpg"], "a folder of videos; name .*such as vids/run/b.mp4$"),
        (["one/0001.jpg"], "a folder of folders of frames; name .*such as vids/one$"),
        (["notes.txt"], "a folder with neither frames nor videos"),
    ],
)
def test_a_folder_of_videos_is_called_one(tmp_path, monkeypatch, files, said):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "run", MaskedAutoencoder.create(**TINY))
    for name in files:
        (tmp_path / "vids" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "vids" / name).touch()
    with pytest.raises(UserError, match=f"^vids: {said}"):
        visualize.visualize("run", ["vids"])


def test_a_model_that_reconstructs_nothing_is_refused(tmp_path):
    weights = save(tmp_path / "run", MaskedAutoencoder.create(**TINY, pixel_decoder=False))
    with pytest.raises(UserError, match="reconstructs nothing"):
        visualize.inspect_videos(weights, [write_clip(tmp_path / "a.mp4")])


def test_real_clips_are_shown_as_they_are(shared, tmp_path):
    model = MaskedAutoencoder.create(**TINY | {"image_size": (64, 96)})
    weights = save(tmp_path / "run", model, LossTeacher(model))
    video = str(shared / "videos" / "demo.mp4")
    seen = visualize.inspect_videos(weights, [video], ratio=0.75, hard_ratio=0.5, stride=2)
    from videohpm.data import Sample, count_frames, load_clip
    from videohpm.data.transforms import CentreCrop

    sample = Sample(video, None, None, None)
    frames = load_clip(sample, dense_indices(count_frames(sample), 4, 2))
    expected = CentreCrop((64, 96))(frames).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(seen.input[0], expected)
    assert visualize.image_grid(seen, titles=["demo.mp4"]).shape[1] > 96 * 2
