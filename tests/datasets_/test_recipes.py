"""What recipes resolve to with what their dataset.yaml supplies, and what wins over that."""

from pathlib import Path

import pytest
import yaml

from videohpm import cli
from videohpm.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    PretrainConfig,
    read_dataset_info,
)
from videohpm.errors import ConfigError
from videohpm.evaluate import EvalProtocol
from videohpm.finetune.clips import final_protocol
from videohpm.grid import TokenGrid

ROOT = Path(__file__).resolve().parents[2]
# Sampling, stride and flip of training clips.
TRAINING = {
    "pretrain/continue": ("dense", 4, False),
    "pretrain/demo": ("dense", 2, False),
    "pretrain/imagenet1k_base": ("dense", 4, True),
    "pretrain/imagenet1k_large": ("dense", 4, True),
    "pretrain/kinetics400_base": ("dense", 4, False),
    "pretrain/kinetics400_huge": ("dense", 4, False),
    "pretrain/kinetics400_large": ("dense", 4, False),
    "pretrain/kinetics400_large_repeated": ("dense", 4, False),
    "pretrain/kinetics400_small": ("dense", 4, False),
    "pretrain/ssv2_base": ("dense", 2, False),
    "pretrain/ssv2_large": ("dense", 2, False),
    "pretrain/ssv2_small": ("dense", 2, False),
    "pretrain/ucf101_base": ("dense", 4, False),
    "pretrain/ucf101_large": ("dense", 4, False),
    "pretrain/ucf101_small": ("dense", 4, False),
    "finetune/attentive_probe": ("dense", 4, False),
    "finetune/demo": ("dense", 2, False),
    "finetune/folder": ("dense", 4, False),
    "finetune/imagenet1k_base": ("dense", 4, True),
    "finetune/imagenet1k_large": ("dense", 4, True),
    "finetune/kinetics400_base": ("dense", 4, True),
    "finetune/kinetics400_base_repeated": ("dense", 4, True),
    "finetune/kinetics400_large": ("dense", 4, True),
    "finetune/linear_probe": ("dense", 4, False),
    "finetune/published_augmentation": ("dense", 4, False),
    "finetune/ssv2_base": ("segments", 4, False),
    "finetune/ssv2_base_repeated": ("segments", 4, False),
    "finetune/ucf101_base": ("dense", 4, True),
}
# Sampling, stride, clips, crops and resize of the test, for a model trained on dense clips 3 apart.
TESTS = {
    "evaluate/demo": ("dense", 3, 1, 1, None),
    "evaluate/imagenet1k": ("dense", 3, 1, 1, 256),
    "evaluate/kinetics400": ("dense", 4, 5, 3, None),
    "evaluate/ssv2": ("segments", 3, 2, 3, None),
    "evaluate/ucf101": ("dense", 4, 5, 3, None),
    "finetune/demo": ("dense", 2, 1, 1, None),
    "finetune/folder": ("dense", 4, 5, 3, None),
    "finetune/imagenet1k_base": ("dense", 4, 1, 1, 256),
    "finetune/kinetics400_large": ("dense", 4, 5, 3, None),
    "finetune/ssv2_base": ("segments", 4, 2, 3, None),
    "finetune/ucf101_base": ("dense", 4, 5, 3, None),
}


def resolved(name: str, *more: str):
    """The config that the command line makes of a recipe, or of a file, and of other arguments."""
    command = name.partition("/")[0]
    arguments = ["--config", str(ROOT / "configs" / f"{name}.yaml"), *more]
    if name == "finetune/demo":  # else it looks into the weights that it names
        arguments += ["--model.scratch", "true"]
    return parse(command, *arguments)


def parse(command: str, *arguments: str):
    declared, parser = cli.COMMANDS[command], cli.parser_of(command)
    values = vars(parser.instantiate(cli._parse(parser, declared, list(arguments))))
    values.pop("config", None)
    return declared.options(**values)


def cut(data: DataConfig) -> tuple:
    return data.sampling, data.stride, data.flip


def test_every_recipe_is_in_the_tables():
    names = {str(f.relative_to(ROOT / "configs").with_suffix("")) for f in ROOT.glob("configs/*/*")}
    assert names == {*TRAINING, *(name for name in TESTS if name.startswith("evaluate"))}


@pytest.mark.parametrize("name", TRAINING)
def test_recipes_cut_clips_as_published(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # datasets/NAME is found from other folders too
    assert cut(resolved(name).data) == TRAINING[name]


@pytest.mark.parametrize("name", TESTS)
def test_recipes_test_as_published(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolved(name)
    info = read_dataset_info(config.dataset) if config.dataset else None
    if isinstance(config, EvaluateConfig):
        trained = EvalProtocol(frames=16, size=(224, 224), sampling="dense", stride=3)
        found = trained.changed(info, config.test.given())
    else:
        found = final_protocol(config, info, TokenGrid.of_clip(16, 224, 224, 2, 16))
    assert (found.sampling, found.stride, found.clips, found.crops, found.resize) == TESTS[name]


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/*/*.yaml")), ids=str)
def test_recipes_repeat_nothing_of_their_dataset(file):
    recipe = yaml.safe_load(file.read_text())
    if "dataset" not in recipe:
        return
    info = read_dataset_info(recipe["dataset"])
    kind = cli.COMMANDS[file.parent.name].options
    defaults = kind.dataset_defaults(recipe["dataset"]) if kind is not EvaluateConfig else {}
    defaults |= {f"test.{name}": value for name, value in info.views.items()}
    for field, value in defaults.items():
        section, _, name = field.partition(".")
        assert recipe.get(section, {}).get(name) != value, field


# What the published scripts and their defaults say, where recipes differ from one another.
PUBLISHED_FINETUNING = {
    "kinetics400_base": {"batch": 512, "lr": 1e-3, "epochs": 100},
    "kinetics400_base_repeated": {"batch": 384, "lr": 5e-4, "epochs": 75, "repeats": 2},
    "kinetics400_large": {"batch": 128, "lr": 2e-3, "epochs": 35, "repeats": 2},
    "ssv2_base": {"batch": 512, "lr": 5e-4, "epochs": 50},
    "ssv2_base_repeated": {"batch": 384, "lr": 5e-4, "epochs": 30, "repeats": 2},
    "ucf101_base": {
        "batch": 128, "lr": 5e-4, "epochs": 100, "repeats": 2, "min_lr": 1e-5,
        "layer_decay": 0.7, "drop_path": 0.2, "head_dropout": 0.5,
    },
    "imagenet1k_base": {"batch": 384, "lr": 5e-4, "epochs": 100, "layer_decay": 0.8},
    "imagenet1k_large": {"batch": 512, "lr": 5e-4, "epochs": 50, "layer_decay": 0.8},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_FINETUNING)
def test_fine_tuning_recipes_are_the_published_ones(name):
    config, image = resolved(f"finetune/{name}"), name.startswith("imagenet")
    wanted = {"repeats": 1, "min_lr": 1e-6, "layer_decay": 0.75, "drop_path": 0.1,
              "head_dropout": 0.0} | PUBLISHED_FINETUNING[name]  # fmt: skip
    optim, model = config.optim, config.model
    if image:  # MAE and HPM do not scale the last learning rate by the batch
        wanted["min_lr"] = pytest.approx(wanted["min_lr"] * 256 / wanted["batch"], rel=1e-4)
    assert wanted == {
        "batch": optim.global_batch_size, "lr": optim.base_lr, "epochs": config.run.epochs,
        "repeats": config.data.repeats, "min_lr": optim.min_lr, "layer_decay": optim.layer_decay,
        "drop_path": model.drop_path, "head_dropout": model.head_dropout,
    }  # fmt: skip
    assert (optim.warmup_peak, config.test_weights, model.position) == (
        ("after", "best", "learned") if image else ("last", "last", None)
    )


def test_pre_training_with_repeats_is_the_published_one():
    config = resolved("pretrain/kinetics400_large_repeated")
    assert (config.data.repeats, config.run.epochs, config.mask.decode_ratio) == (4, 300, 0.5)
    optim, plain = config.optim, resolved("pretrain/kinetics400_large")
    assert (optim.global_batch_size, optim.base_lr, optim.warmup_epochs) == (1536, 1e-3, 30)
    assert (config.model_config().decoder.depth, plain.model_config().decoder.depth) == (4, 12)
    assert plain.data.repeats == 1


@pytest.mark.parametrize("size", ["base", "large"])
def test_image_pre_training_decays_tokens_and_warms_up_as_published(size):
    optim = resolved(f"pretrain/imagenet1k_{size}").optim
    assert (optim.no_weight_decay, optim.warmup_peak) == ((), "after")
    video = resolved("pretrain/kinetics400_base").optim
    assert "mask_token" in video.no_weight_decay and video.warmup_peak == "last"


def test_augmentation_as_published_goes_over_a_recipe():
    over = ("--config", str(ROOT / "configs/finetune/published_augmentation.yaml"))
    config = resolved("finetune/kinetics400_base", *over)
    assert (config.data.antialias, config.data.stride) == (False, 4)
    assert config.augment.rand_augment_input == config.augment.erasing_noise == "frame"
    assert not final_protocol(config, None, TokenGrid.of_clip(16, 224, 224, 2, 16)).antialias


def test_what_is_given_wins(tmp_path):
    stated = tmp_path / "stated.yaml"
    stated.write_text("data: {stride: 4, sampling: dense, flip: false}\n")  # the classes' defaults
    assert cut(resolved("finetune/ssv2_base", "--config", str(stated)).data) == ("dense", 4, False)
    more = ("--data.flip", "false", "--data.stride", "7")
    assert cut(resolved("finetune/kinetics400_base", *more).data) == ("dense", 7, False)
    assert cut(resolved("pretrain/ssv2_base", "--data.stride", "4").data) == ("dense", 4, False)
    before = ("--config", str(stated), "--dataset", "datasets/ssv2")
    assert cut(parse("finetune", *before).data) == ("dense", 4, False)


def test_the_last_data_set_decides():
    other = resolved("finetune/kinetics400_base", "--dataset", "datasets/ssv2")
    assert cut(other.data) == ("segments", 4, False)
    assert cut(parse("plan", "--dataset", "datasets/ssv2").data) == ("dense", 2, False)


def test_the_printed_config_is_the_resolved_one(capsys):
    recipe = str(ROOT / "configs/pretrain/ssv2_base.yaml")
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "--config", recipe, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["data"]["stride"] == 2 and printed["dataset"] == "datasets/ssv2"


def test_other_fields_keep_their_defaults():
    for kind, name in ((FinetuneConfig, "finetune"), (PretrainConfig, "pretrain")):
        plain, with_dataset = kind().data, parse(name, "--dataset", "datasets/ssv2").data
        differs = [k for k, v in vars(plain).items() if getattr(with_dataset, k) != v]
        assert differs == ["sampling" if name == "finetune" else "stride"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [", "ParserError"),
        ("title: no name\n", "name"),
        ("name: a\nclip: {sampling: sparse}\n", "clip.sampling: 'sparse' is not one of"),
        ("name: a\nclip: {stride: 0}\n", "clip.stride: 0"),
        ("name: a\nclip: {stride: four}\n", "TypeError"),
        ("name: a\nclasses: {count: 3, names: [x, y]}\n", "2 class names for 3"),
        ("name: a\nclasses: {file: names.txt}\n", "names.txt line 2 is empty"),
        ("name: a\npixels: {mean: [0.5, 0.5]}\n", "ValueError"),
    ],
)
def test_mistakes_in_a_dataset_yaml(tmp_path, capsys, text, told):
    (tmp_path / "dataset.yaml").write_text(text)
    (tmp_path / "names.txt").write_text("first\n\nthird\n")
    with pytest.raises(ConfigError, match="dataset.yaml like datasets/shapes"):
        read_dataset_info(tmp_path)
    assert cli.main(["finetune", "--dataset", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error and str(tmp_path) in error and error.count("\n") == 1


def test_a_data_set_that_is_not_there(capsys):
    assert cli.main(["pretrain", "--dataset", "datasets/nowhere"]) == 2
    assert "dataset: datasets/nowhere cannot be read" in capsys.readouterr().err
