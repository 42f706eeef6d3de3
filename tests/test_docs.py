"""The pages of docs/: their commands and links are right, and the page of arms has all of them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typed import PAGES, arguments, typed

from videohpm.cli import _find_recipes, parser_of
from videohpm.commands import COMMANDS
from videohpm.config.mask import CHOICES, SCORERS, USES
from videohpm.config.model import TARGETS, TOKEN_LOSSES


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs" / "arms.md").read_text()


def test_every_arm_is_in_the_page(page):
    quoted = {part.split()[-1] for part in re.findall(r"`([^`]+)`", page)}
    for name in (*SCORERS, *CHOICES, *USES, *TARGETS, *TOKEN_LOSSES):
        assert name in quoted, name


def test_every_configuration_is_one_that_there_is(page):
    lines = re.findall(r"`((?:mask|hpm|model)\.\w+: [^`]+)`", page)
    fields = {action.dest: action for action in parser_of("pretrain")._actions}
    assert len(lines) > 20
    for line in lines:
        ((name, _),) = yaml.safe_load(line.replace("timm:", "timm_")).items()
        assert name in fields, name


MEASURED = {
    "`mask.scorer: none`": "predict",
    "`mask.scorer: loss_teacher`": "hpm",
    "`hpm.teacher_samples_per_tube: 0`": "published",
    "`hpm.center_scores: true`": "centred",
    "`hpm.hard_ratio_start: 0.5`": "constant",
    "`hpm.hard_ratio_start: 0.25`": "level",
}
"""What a row of the page configures, and the arm of the experiment that is it."""


def test_what_was_measured_is_what_the_experiment_found(page, root):
    """The last cell of a row: the arm's difference from random masks."""
    folder = root / "benchmarks/results/evidence"
    found = {
        row["arm"]: f"{row['mean']:+.1f} ± {row['half_width']:.1f} ({row['seeds']})"
        for row in json.loads((folder / "summary.json").read_text())["differences"]
        if (row["data"], row["control"], row["judge"]) == ("images", "random", "linear class")
    }
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    for name, arm in MEASURED.items():
        (row,) = (row for row in rows if any(name in cell for cell in row))
        assert row[-1] == found.get(arm, "not measured yet"), name
    measured = [row for row in rows if re.match(r"[+-]\d", row[-1])]
    assert len(measured) == len(found.keys() & set(MEASURED.values()))


def test_what_the_page_links_to_is_there(page, root):
    links = re.findall(r"\]\(([^)#\s]+)", page)
    assert links
    for link in links:
        assert (root / "docs" / link).resolve().exists(), link


def check_options(command: str) -> None:
    """As far as no file is needed: known options, values of the right type."""
    words = arguments(command)
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    rest = words[len(name.split()) :]
    assert name in COMMANDS, command
    if name == "data prepare" or "--help" in rest or "--print_config" in rest:
        return
    known = _find_recipes(rest)
    while "--config" in known:  # a user's own file is not there
        at = known.index("--config")
        recipe = known[at : at + 2]
        assert recipe[1] == "mine.yaml" or Path(recipe[1]).is_file(), command
        known[at : at + 2] = []
    parser_of(name).parse_args(known)


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_is_one_that_can_be_typed(name, root, monkeypatch):
    """Those too that test_typed.py does not run."""
    monkeypatch.chdir(root)
    for kind, text in typed((root / name).read_text()):
        if kind == "shell" and arguments(text):
            check_options(text)


def test_commands_with_a_mistake_are_found():
    for mistake in (
        "videohpm convert a b --too hf",
        "torchrun --nproc_per_node 8 -m videohpm pretrain --too 1 …",
        "python -m videohpm.launch 8 pretrain --too 1",
        "deepspeed --module videohpm pretrain --too 1",
    ):
        with pytest.raises(Exception, match="too"):
            check_options(mistake)


def test_the_site_builds_without_a_warning(root, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "reference/configuration/index.html").read_text()
    for action in parser_of("pretrain")._actions:
        name = action.dest.rpartition(".")[2]
        section = type(action).__name__ == "_ActionConfigLoad"
        if not section and action.dest not in ("help", "config", "print_config"):
            assert f"<code>{name}</code>" in reference, action.dest
    python = (tmp_path / "reference/python/index.html").read_text()
    assert "from_pretrained" in python and "relative_loss" in python
