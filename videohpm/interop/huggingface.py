"""Hugging Face folders: VideoMAEForPreTraining, VideoMAEModel, VideoMAEForVideoClassification."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from videohpm.config.architecture import Architecture
from videohpm.config.tasks import CLASSIFY, MULTI_LABEL, REGRESS
from videohpm.errors import UserError
from videohpm.interop.core import (
    ReadOptions,
    Weights,
    head_eps,
    is_table,
    ratio_of,
    refuse_features,
    refuse_unless,
    shape_of,
    verify_all_accounted,
)
from videohpm.interop.files import Source
from videohpm.interop.pixels import processor, read_processor
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import (
    CONV3D,
    IDENTITY,
    QUERY_VALUE,
    THIRDS,
    Rule,
    module_rules,
    read_by,
    write_by,
)
from videohpm.interop.videomae import NO_BIAS
from videohpm.models import DecoderConfig, MAEConfig, VideoClassifierConfig, ViTConfig
from videohpm.models.bounds import expected_shapes, grid_of

NAME = "huggingface"
HEAD_EPS = 1e-5
"""Of decoder.norm and fc_norm, whatever config.json says."""
CLASSES = {
    "MaskedAutoencoder": "VideoMAEForPreTraining",
    "VideoViT": "VideoMAEModel",
    "VideoClassifier": "VideoMAEForVideoClassification",
}
DEFAULTS = {
    "image_size": 224, "patch_size": 16, "num_channels": 3, "num_frames": 16, "tubelet_size": 2,
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "decoder_num_attention_heads": 6, "decoder_hidden_size": 384,
    "decoder_num_hidden_layers": 4, "decoder_intermediate_size": 1536,
}  # fmt: skip
PROBLEMS = {
    CLASSIFY: "single_label_classification",
    MULTI_LABEL: "multi_label_classification",
    REGRESS: "regression",
}
"""What transformers calls the tasks: it chooses the loss."""
PATCHES = "embeddings.patch_embeddings.projection"


def recognise(source: Source) -> str | None:
    """What of this layout ``source`` holds; None when it is another's."""
    names = source.tensors
    if f"{PATCHES}.weight" not in names and f"videomae.{PATCHES}.weight" not in names:
        return None
    return f"Hugging Face {CLASSES[_kind(names)]}"


def _kind(names: dict[str, Tensor]) -> str:
    if "encoder_to_decoder.weight" in names:
        return "MaskedAutoencoder"
    return "VideoClassifier" if "classifier.weight" in names else "VideoViT"


def block_rules(model: str, layout: str) -> list[Rule]:
    """A block's rules: qkv in thirds, no key bias, other names."""
    attention = f"{layout}.attention.attention"
    weights = tuple(f"{attention}.{part}.weight" for part in ("query", "key", "value"))
    biases = (f"{attention}.q_bias", f"{attention}.v_bias")
    return [
        Rule(f"{model}.attn.qkv.weight", weights, THIRDS),
        Rule(f"{model}.attn.qkv.bias", biases, QUERY_VALUE, zeros=NO_BIAS),
        *module_rules(f"{model}.attn.proj", f"{layout}.attention.output.dense"),
        *module_rules(f"{model}.norm1", f"{layout}.layernorm_before"),
        *module_rules(f"{model}.norm2", f"{layout}.layernorm_after"),
        *module_rules(f"{model}.mlp.fc1", f"{layout}.intermediate.dense"),
        *module_rules(f"{model}.mlp.fc2", f"{layout}.output.dense"),
    ]


def rules_for(kind: str, base: str) -> list[Rule]:
    """Which of the folder's tensors make up which of the model's.

    Args:
        base: what precedes the encoder's names there: ``videomae.``, or nothing.
    """
    model = "" if kind == "VideoViT" else "encoder."
    rules = [
        Rule(f"{model}patch_embed.proj.weight", (f"{base}{PATCHES}.weight",), CONV3D),
        Rule(f"{model}patch_embed.proj.bias", (f"{base}{PATCHES}.bias",), IDENTITY),
        *block_rules(f"{model}blocks.{{n}}", f"{base}encoder.layer.{{n}}"),
        *module_rules(f"{model}norm", f"{base}layernorm"),
    ]
    if kind == "VideoClassifier":
        rules += module_rules("fc_norm", "fc_norm") + module_rules("head", "classifier")
    if kind == "MaskedAutoencoder":
        rules += [
            Rule("decoder_embed.weight", ("encoder_to_decoder.weight",), IDENTITY),
            Rule("mask_token", ("mask_token",), IDENTITY),
            *block_rules("decoder.blocks.{n}", "decoder.decoder_layers.{n}"),
            *module_rules("decoder.norm", "decoder.norm"),
            *module_rules("decoder.head", "decoder.head"),
        ]
    return rules


def read(source: Source, report: ConversionReport, options: ReadOptions) -> Weights:
    """The model in a Hugging Face folder, with the eps its own code would use."""
    source.tensors = tensors = {_old_name(name): t for name, t in source.tensors.items()}
    if source.config.get("model_type") != "videomae":
        raise UserError(
            f"{source.path}: needs the config.json of a VideoMAE model beside it; give the folder"
        )
    kind, classes = _kind(tensors), None
    if kind == "VideoClassifier":
        classes = shape_of(tensors, "classifier.weight", source.path, 2)[0]
    config = _read_config(source, kind, classes, options)
    if kind == "MaskedAutoencoder" and source.config.get("norm_pix_loss", True) is not True:
        report.note("norm_pix_loss is off there; no loss here has that target: per_channel is set")
    base = "videomae." if f"videomae.{PATCHES}.weight" in tensors else ""
    for name in (f"{base}embeddings.position_embeddings", "position_embeddings"):
        if name in tensors:
            is_table(tensors[name].flatten(0, -2), "sincos_1d", grid_of(config), name, report)
    rules = rules_for(kind, base)
    found = read_by(rules, tensors, expected_shapes(config), grid_of(config), report)
    extra = _labels(source, classes) | _read_task(source, classes)
    extra |= read_processor(source, grid_of(config), report)
    weights = Weights(config, found, extra=extra)
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    return weights


def _old_name(name: str) -> str:
    """transformers 5 calls the biases otherwise in memory; files have the older names."""
    for part in ("query", "value"):
        if name.endswith(f"attention.attention.{part}.bias"):
            return name.replace(f"{part}.bias", f"{part[0]}_bias")
    return name


def _checked(source: Source) -> dict:
    """The sizes in config.json, with transformers' defaults. UserError for what is no size."""
    config = {name: source.config.get(name, usual) for name, usual in DEFAULTS.items()}
    where = f"{source.path}: config.json"
    for name in ("image_size", "patch_size"):
        if isinstance(config[name], list) and config[name] == config[name][:1] * 2:
            config[name] = config[name][0]
    for name, value in config.items():
        pair = name == "image_size" and isinstance(value, list) and len(value) == 2
        if not all(type(v) is int and v > 0 for v in (value if pair else [value])):
            raise UserError(f"{where}: {name} is {value!r}, not a positive whole number")
        config[name] = tuple(value) if pair else value
    if config["num_channels"] != 3:
        raise UserError(f"{where}: num_channels is {config['num_channels']}; models here see RGB")
    if source.config.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{where}: hidden_act is {source.config['hidden_act']!r}; here it is gelu")
    eps = source.config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, float) or not 0 <= eps < 1:
        raise UserError(f"{where}: layer_norm_eps is {eps!r}, not a small number")
    return config | {"layer_norm_eps": eps}


def _read_config(
    source: Source, kind: str, classes: int | None, options: ReadOptions
) -> Architecture:
    config = _checked(source)
    dim, eps = config["hidden_size"], config["layer_norm_eps"]
    mean_pooling = bool(source.config.get("use_mean_pooling", True))
    encoder = ViTConfig(
        frames=options.frames or config["num_frames"],
        image_size=options.image_size or config["image_size"],
        patch=config["patch_size"],
        tubelet=config["tubelet_size"],
        dim=dim,
        depth=config["num_hidden_layers"],
        heads=options.heads or config["num_attention_heads"],
        mlp_ratio=ratio_of(config["intermediate_size"], dim),
        final_norm=not mean_pooling,
        norm_eps=eps,
    )
    if classes is not None:
        pool = "mean" if mean_pooling else "first_token"
        return VideoClassifierConfig(
            encoder=encoder, classes=classes, pool=pool, head_norm_eps=HEAD_EPS
        )
    if kind == "VideoViT":
        return encoder
    width = config["decoder_hidden_size"]
    decoder = DecoderConfig(
        dim=width,
        depth=config["decoder_num_hidden_layers"],
        heads=options.decoder_heads or config["decoder_num_attention_heads"],
        mlp_ratio=ratio_of(config["decoder_intermediate_size"], width),
        norm_eps=eps,
        head_norm_eps=HEAD_EPS,
    )
    return MAEConfig(encoder=encoder, decoder=decoder, predictor=None, target="per_channel")


def _labels(source: Source, classes: int | None) -> dict:
    """Class names, where the folder has any beyond LABEL_0, LABEL_1, ..."""
    table = source.config.get("id2label")
    if not classes or not isinstance(table, dict) or len(table) != classes:
        return {}
    names = [str(table.get(str(i), table.get(i))) for i in range(classes)]
    return {} if names == [f"LABEL_{i}" for i in range(classes)] else {"labels": names}


def _read_task(source: Source, classes: int | None) -> dict:
    """What the outputs mean, where it is not one class a sample; one number is in its own unit."""
    problem = source.config.get("problem_type")
    if classes and problem == PROBLEMS[MULTI_LABEL]:
        return {"task": {"name": MULTI_LABEL}}
    if classes == 1 and problem == PROBLEMS[REGRESS]:
        return {"task": {"name": REGRESS, "mean": 0.0, "std": 1.0}}
    return {}


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """model.safetensors, config.json and preprocessor_config.json, as from_pretrained wants them.

    Raises UserError for a model that Hugging Face's VideoMAE cannot be.
    """
    _refuse(weights)
    base = "" if weights.kind == "VideoViT" else "videomae."
    tensors = dict(weights.tensors)
    predictor = [name for name in tensors if name.startswith("predictor.")]
    report.not_written |= dict.fromkeys(predictor, "the layout has no loss predictor")
    if "decoder_embed.bias" in tensors:
        report.not_written["decoder_embed.bias"] = "all zero, and the layout has none"
        del tensors["decoder_embed.bias"]
    _to_unit(tensors, weights, report)
    written = write_by(rules_for(weights.kind, base), tensors, weights.grid, report)
    save_file(written, folder / "model.safetensors", {"format": "pt"})
    report.written = len(written)
    (folder / "config.json").write_text(json.dumps(_config(weights), indent=2) + "\n")
    text = json.dumps(processor(weights, report), indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text)
    _differences(weights, report)


def _to_unit(tensors: dict[str, Tensor], weights: Weights, report: ConversionReport) -> None:
    """Have the head of a regression give the number itself; here it gives standardised ones."""
    task = _task(weights)
    if task["name"] == REGRESS:
        mean, std = float(task.get("mean", 0)), float(task.get("std", 1))
        tensors["head.weight"] = tensors["head.weight"] * std
        tensors["head.bias"] = tensors["head.bias"] * std + mean
        report.note(f"the head gives the number itself: times {std:g} plus {mean:g} is in it")


def _task(weights: Weights) -> dict:
    """What config.json here says of the outputs. UserError for what it cannot say."""
    task = weights.extra.get("task") or {"name": CLASSIFY}
    numbers = [task.get(key, 1) for key in ("mean", "std")] if isinstance(task, dict) else [None]
    if any(type(n) not in (int, float) for n in numbers) or task.get("name") not in PROBLEMS:
        raise UserError(f"task: config.json has {task!r}, which is none of {', '.join(PROBLEMS)}")
    return task


def _refuse(weights: Weights) -> None:
    encoder, config = weights.encoder_config, weights.config
    refuse_unless(not encoder.class_token, NAME, "class_token", "it has no class token")
    position = encoder.position
    refuse_unless(position == "sincos_1d", NAME, "position", f"it has sincos_1d, not {position}")
    bias = weights.tensors.get("decoder_embed.bias")
    refuse_unless(
        bias is None or not bias.any(), NAME, "projection_bias", "its projection has no bias"
    )
    if isinstance(config, MAEConfig):
        why = "it needs one; convert the encoder alone"
        refuse_unless(config.pixel_decoder, NAME, "pixel_decoder", why)
        refuse_features(config, NAME)


def _config(weights: Weights) -> dict:
    model, encoder = weights.config, weights.encoder_config
    tensors, prefix = weights.tensors, weights.prefix
    grid, normed = weights.grid, f"{prefix}norm.weight" in tensors
    config = {
        "architectures": [CLASSES[weights.kind]],
        "model_type": "videomae",
        "image_size": grid.height if grid.height == grid.width else [grid.height, grid.width],
        "patch_size": grid.patch,
        "num_channels": 3,
        "num_frames": grid.frames,
        "tubelet_size": grid.tubelet,
        "hidden_size": encoder.dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": len(tensors[f"{prefix}blocks.0.mlp.fc1.weight"]),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": encoder.norm_eps,
        "qv_bias": True,
        "use_mean_pooling": not normed,
    }
    if isinstance(model, MAEConfig):
        config |= {
            "decoder_hidden_size": model.decoder.dim,
            "decoder_num_hidden_layers": model.decoder.depth,
            "decoder_num_attention_heads": model.decoder.heads,
            "decoder_intermediate_size": len(tensors["decoder.blocks.0.mlp.fc1.weight"]),
            "norm_pix_loss": model.target == "per_channel",
        }
    if isinstance(model, VideoClassifierConfig):
        names = weights.extra.get("labels") or [f"LABEL_{i}" for i in range(model.classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        config["problem_type"] = PROBLEMS[_task(weights)["name"]]
    return config


def _differences(weights: Weights, report: ConversionReport) -> None:
    """Say where Hugging Face's code computes something else with the same weights."""
    model, norm = weights.config, None
    if isinstance(model, MAEConfig):
        norm = "decoder.norm"
    elif isinstance(model, VideoClassifierConfig) and model.pool == "mean":
        norm = "fc_norm"
    eps = head_eps(model)
    if norm and eps != HEAD_EPS:
        report.note(
            f"Hugging Face computes {norm} with eps {HEAD_EPS:g} whatever config.json says, this "
            f"model with {eps:g}: its outputs are smaller by a share of {(HEAD_EPS - eps) / 2:.2g} "
            "over the variance of what is normed (1e-5 or less for a variance near 1)"
        )
    if isinstance(model, MAEConfig) and model.target != "per_channel":
        report.note(f"the loss Hugging Face prints will differ: its target is not {model.target}")
