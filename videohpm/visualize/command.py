"""``videohpm visualize``: a checkpoint and videos in, a picture or an animation out."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from videohpm import checkpoint, hpm
from videohpm.compat import upgrade_config
from videohpm.config import DataConfig, ModelConfig, PretrainConfig, from_plain
from videohpm.config.data import FRAMES
from videohpm.config.options import CELL, picture_suffix
from videohpm.data import (
    DecodeError,
    Sample,
    count_frames,
    load_clip,
    load_image,
    normalise,
)
from videohpm.data.frame_folders import is_frame_folder
from videohpm.data.manifest_parser import IMAGE_SUFFIXES
from videohpm.data.sample_files import files_in
from videohpm.data.sampling import dense_indices, segment_indices
from videohpm.data.transforms import CentreCrop
from videohpm.engine import torch_device
from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.hpm import Scorer
from videohpm.interop.frozen import encoders_of
from videohpm.models import MaskedAutoencoder
from videohpm.visualize.compare import (
    check_same_clips,
    comparison,
    comparison_animation,
    run_label,
)
from videohpm.visualize.files import write
from videohpm.visualize.inspection import Inspection, inspect
from videohpm.visualize.pictures import animation, image_grid


def visualize(
    checkpoint: str,
    videos: list[str],
    output: str = "pictures.png",
    ratio: float | None = None,
    hard_ratio: float | None = None,
    stride: int | None = None,
    seed: int = 0,
    cell: int = CELL,
    fps: float = 4.0,
    device: str = "cpu",
    compare: list[str] | None = None,
) -> None:
    """Draw what a model and its teacher see in videos (or images, for a model of images).

    Args:
        checkpoint: run folder, checkpoint or export.
        videos: files; a clip is taken from the middle of each.
        output: file to write; .png shows time steps side by side, .gif and .mp4 play them.
        ratio: share of tubes (or tokens) to hide; what the run was trained with if left out.
        hard_ratio: share of those that are chosen as hard; what the run had come to if left out.
        stride: frames of the video from one frame of the clip to the next; as trained if left out.
        seed: for the random part of the mask.
        cell: height of a frame in the picture, pixels.
        fps: frames a second of an animation.
        device: auto, cpu, cuda or cuda:N.
        compare: further runs: draws what each of all hides in the same clips instead.
    """
    still = picture_suffix(output) == ".png"
    first = Opened.of(checkpoint)
    pixels = first.read(videos, stride)
    options = {"ratio": ratio, "hard_ratio": hard_ratio, "seed": seed, "device": device}
    seen = inspect_clips(first, pixels, **options)
    titles = [Path(video).name for video in videos]
    if compare:
        runs = [first, *map(Opened.of, compare)]
        paths = [checkpoint, *compare]
        check_same_clips(paths, [run.model.grid for run in runs])
        each = [seen, *(inspect_clips(run, pixels, **options) for run in runs[1:])]
        labels = [
            run_label(path, run.config, one)
            for path, run, one in zip(paths, runs, each, strict=True)
        ]
        draw = comparison if still else comparison_animation
        picture = draw(each, labels, titles=titles, cell=cell)
    else:
        picture = (image_grid if still else animation)(seen, titles=titles, cell=cell)
    write(output, picture, fps)
    count = "1 clip" if len(videos) == 1 else f"{len(videos)} clips"
    print(f"{output}: {count}, {100 * seen.mask.mean():.0f}% of tokens hidden")


def inspect_videos(
    path: str | Path,
    videos: list[str],
    *,
    ratio: float | None = None,
    hard_ratio: float | None = None,
    stride: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Inspection:
    """What :func:`visualize` draws, as arrays; the arguments are the same.

    Raises UserError for a checkpoint without pixel decoder, and for files that cannot be read.
    """
    run = Opened.of(path)
    return inspect_clips(
        run, run.read(videos, stride), ratio=ratio, hard_ratio=hard_ratio, seed=seed, device=device
    )


@dataclass(frozen=True)
class Opened:
    """A checkpoint, and how its run cut and masked its clips."""

    path: str | Path
    model: MaskedAutoencoder
    settings: ClipSettings
    metadata: dict

    @classmethod
    def of(cls, path: str | Path) -> Opened:
        """Raises UserError for a checkpoint without pixel decoder."""
        model = checkpoint.load_model(path)
        if not isinstance(model, MaskedAutoencoder) or model.decoder is None:
            raise UserError(
                f"{path}: holds a {type(model).__name__}, which reconstructs nothing; give a "
                "pre-training run or checkpoint"
            )
        folder, metadata = checkpoint.read_metadata(path)
        return cls(path, model, ClipSettings.of(folder, model), metadata)

    @property
    def config(self) -> PretrainConfig:
        """Its run's, of which only what pictures depend on is known."""
        return self.settings.config

    def read(self, videos: list[str], stride: int | None) -> Tensor:
        """The middle clip of each video: uint8 (k, 3, T, H, W)."""
        data = self.config.data
        return torch.stack(
            [read_clip(video, self.model, data, stride or data.stride) for video in videos]
        )


def inspect_clips(
    run: Opened,
    pixels: Tensor,
    *,
    ratio: float | None = None,
    hard_ratio: float | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Inspection:
    """What a run sees in clips, uint8 (k, 3, T, H, W)."""
    config, grid, settings = run.config, run.model.grid, run.settings
    hard_ratio = settings.hard_ratio if hard_ratio is None else hard_ratio
    ratio = config.mask.ratio if ratio is None else ratio
    units = _check_mask(grid, config.mask.unit, ratio, hard_ratio)
    statistics = {"mean": config.data.mean, "std": config.data.std}
    on_device = torch_device(device, field="device")
    model, clips = run.model.to(on_device), normalise(pixels.to(on_device), **statistics)
    scorer = load_scorer(run.path, run.metadata, model, config)
    teacher = scorer if isinstance(scorer, hpm.LossTeacher) else None
    if scorer is not None and settings.score_center:
        scorer = hpm.CenteredScorer(scorer).eval()
        scorer.center = torch.tensor(settings.score_center)
    target = hpm.TARGETS[config.model.target](grid, config, encoders_of(lambda: teacher))
    for part in (scorer, target):
        if isinstance(part, nn.Module):
            part.to(on_device)
    generator = torch.Generator().manual_seed(seed)
    shuffle_ids = hpm.random_shuffle_ids(len(clips), units, generator)
    mask_config = replace(config.mask, ratio=ratio)
    mask = hpm.draw_mask(scorer, clips, shuffle_ids, grid, mask_config, hard_ratio, decode_all=True)
    return inspect(
        model, clips, mask, scorer, target, shuffle_ids, **statistics,
        hard_ratio=hard_ratio, loss=config.model.target_loss,
    )  # fmt: skip


def read_clip(path: str, model: MaskedAutoencoder, data: DataConfig, stride: int) -> Tensor:
    """The middle clip of a video, or an image: uint8 (3, T, H, W), centre crop.

    Raises UserError where it cannot be read.
    """
    sample = Sample(str(path), None, None, None)
    image = Path(path).suffix.lower() in IMAGE_SUFFIXES
    if image and model.grid.frames > 1:
        raise UserError(
            f"{path}: an image, but the model takes clips of {model.grid.frames} frames"
        )
    if not Path(path).is_file() and not is_frame_folder(path):
        raise UserError(f"{path}: {_why_no_video(Path(path), model.grid.frames)}")
    try:
        if image:
            frames = load_image(sample)
        else:
            count, wanted = count_frames(sample), model.grid.frames
            by_segment = data.sampling == "segments"
            frames = load_clip(
                sample,
                segment_indices(count, wanted)
                if by_segment
                else dense_indices(count, wanted, stride),
            )
    except DecodeError as error:
        raise UserError(f"{error}; give a file that can be read") from error
    size = (model.grid.height, model.grid.width)
    return CentreCrop(size, data.interpolation, data.antialias)(frames).transpose(0, 1)


def _why_no_video(path: Path, frames: int) -> str:
    """What ``path`` is instead, and what to give."""
    if not path.is_dir():
        return "no such file, nor a folder of frames"
    folders = (FRAMES, "folders of frames") if frames > 1 else ("image", "images")
    for kind, called in (("video", "videos"), folders):
        with suppress(UserError):  # there are none
            found = path / next(iter(files_in(path, kind)))
            return f"a folder of {called}; name one or more of them, such as {found}"
    return "a folder with neither frames nor videos; give a video, or a folder of frames"


@dataclass(frozen=True)
class ClipSettings:
    """How a checkpoint's run cut, normalised, scored and masked its clips.

    Defaults where that is not known: for what was converted, and exports of earlier versions.

    Of the configuration only what pictures depend on is the run's.
    """

    config: PretrainConfig
    hard_ratio: float = 0.0
    """What it had come to at the checkpoint."""
    score_center: list[float] | None = None
    """Where scores were centered: what was taken off at each position."""

    @classmethod
    def of(cls, folder: Path, model: MaskedAutoencoder) -> ClipSettings:
        """Read from ``state.json`` beside the weights, or what an export kept of it.

        Raises UserError when it is damaged, or leaves out whose features the model predicts.
        """
        file, state = folder / "state.json", None
        if not file.is_file():
            file = folder / "config.json"
            state = checkpoint.read_metadata(folder)[1].get("pretraining")
            if state is None:
                return cls._unknown(folder, model)
        try:
            state = json.loads(file.read_text()) if state is None else state
            sections = upgrade_config(state["config"])
            known = {name: sections[name] for name in ("data", "mask", "hpm")}
            known["model"] = {"target": model.target} | sections.get("model", {})
            config = from_plain(PretrainConfig, known, strict=False)
            hard_ratio = hpm.configured_hard_ratio(config.hpm, state["step"] / state["steps"])
            return cls(config, hard_ratio, state.get("score_center"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            mend = "delete it" if file.name == "state.json" else "give the run, or export it anew"
            raise UserError(f"{file}: cannot be used ({error!r}); {mend}") from error

    @classmethod
    def _unknown(cls, folder: Path, model: MaskedAutoencoder) -> ClipSettings:
        try:
            return cls(PretrainConfig(model=ModelConfig(target=model.target)))
        except ValueError:
            raise UserError(
                f"{folder}: does not say whose features its model predicts; give the run, or "
                "export it anew"
            ) from None


def load_scorer(
    path: str | Path, metadata: dict, model: MaskedAutoencoder, config: PretrainConfig
) -> Scorer | None:
    """What chose the hard units of a run: its teacher from the checkpoint, others made anew."""
    if config.scorer != "loss_teacher":
        return hpm.SCORERS[config.scorer](model, config)
    return checkpoint.load_teacher(path) if "teacher" in metadata else None


def _check_mask(grid: TokenGrid, unit: str, ratio: float, hard_ratio: float) -> int:
    """How many units there are to mask. Raises UserError where the shares cannot be."""
    if not 0 <= hard_ratio <= 1:
        raise UserError(f"hard_ratio: {hard_ratio}; give 0 to 1")
    units = hpm.unit_count(grid, unit)
    try:
        hpm.masked_count(units, ratio)
    except ValueError as error:
        raise UserError(str(error)) from None
    return units
