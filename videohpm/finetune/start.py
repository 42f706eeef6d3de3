"""The classifier that a fine-tuning run starts from."""

from __future__ import annotations

from videohpm import checkpoint
from videohpm.config import ClassifierConfig
from videohpm.errors import UserError
from videohpm.evaluate import find
from videohpm.models import VideoClassifier, VideoViT
from videohpm.models.adapt import adapt_encoder

FIXED = ("patch", "dim", "depth", "heads", "position", "class_token")
"""What weights cannot change."""
OWN = ("arch", "frames", "image_size", "patch", "tubelet", "dim", "depth", "heads", "position",
       "class_token")  # fmt: skip


def start_classifier(
    config: ClassifierConfig, classes: int, recompute: bool = False
) -> VideoClassifier:
    """A classifier with the encoder of ``config.init``, or with fresh weights.

    Args:
        recompute: recompute blocks in the backward pass, to save memory.

    Raises UserError where the weights do not fit what else ``config`` says.
    """
    ends = {
        "classes": classes,
        "pool": config.pool,
        "drop_path": config.drop_path,
        "head_dropout": config.head_dropout,
        "head_scale": config.head_scale,
        "checkpoint": recompute,
    }
    given = {name: getattr(config, name) for name in OWN if getattr(config, name) is not None}
    if isinstance(given.get("image_size"), list):
        given["image_size"] = tuple(given["image_size"])
    try:
        if config.init is None:
            return _frozen(VideoClassifier(**given, **ends), config.freeze)
        encoder = pretrained_encoder(config.init, config.weights)
        for name in FIXED:
            if name in given and given[name] != encoder.config[name]:
                raise UserError(
                    f"model.{name}: {given[name]}, but {config.init} has {encoder.config[name]}; "
                    "leave it out"
                )
        sizes = {name: given.get(name) for name in ("frames", "image_size", "tubelet")}
        encoder = adapt_encoder(encoder, **sizes, final_norm=config.pool != "mean")
        names = (*OWN[1:], "mlp_ratio", "norm_eps")
        model = VideoClassifier(**{name: encoder.config[name] for name in names}, **ends)
    except ValueError as error:
        raise UserError(f"model.{error}") from None
    if not config.scratch:
        model.encoder.load_state_dict(encoder.state_dict())
    return _frozen(model, config.freeze)


def pretrained_encoder(path: str, weights: str = "student") -> VideoViT:
    """The encoder of a run folder (its best weights, else its newest), a checkpoint or an export.

    Raises UserError where there is none.
    """
    folder = find(path)
    if weights == "teacher":
        return checkpoint.load_teacher(folder).model.encoder
    return checkpoint.load_encoder(folder)


def _frozen(model: VideoClassifier, freeze: bool) -> VideoClassifier:
    if freeze:
        model.freeze_encoder()
    return model
