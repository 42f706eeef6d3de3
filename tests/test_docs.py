"""The pages of docs/: their commands and links are right, and the page of arms has all of them."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from videohpm.cli import COMMANDS, _find_recipes, parser_of
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


def test_what_the_page_links_to_is_there(page, root):
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert links
    for link in links:
        assert (root / "docs" / link).resolve().exists(), link


def commands_in(text: str) -> list[list[str]]:
    """What is typed in the code blocks of a page: the words after ``videohpm``."""
    blocks = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    typed = [line.partition(" videohpm ")[2] if " -m videohpm " in line else
             line.removeprefix("videohpm ") for line in lines
             if line.startswith("videohpm ") or " -m videohpm " in line]  # fmt: skip
    whole = [shlex.split(line, comments=True) for line in typed if "…" not in line]
    return [words for words in whole if words and words[0] != "COMMAND"]


PAGES = ("README.md", "docs/index.md", "docs/tutorial.md", "docs/cookbook.md", "docs/faq.md")


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_is_one_that_can_be_typed(name, root, monkeypatch):
    """Its options are known and their values of the right type, as far as no file is needed."""
    monkeypatch.chdir(root)
    found = commands_in((root / name).read_text())
    assert found or name == "docs/faq.md"
    for words in found:
        both = " ".join(words[:2])
        command, rest = (both, words[2:]) if both in COMMANDS else (words[0], words[1:])
        assert command in COMMANDS, words
        if command == "data prepare" or "--help" in rest or "--print_config" in rest:
            continue
        known = _find_recipes(rest)
        while "--config" in known:  # a user's own file is not there
            at = known.index("--config")
            recipe = known[at : at + 2]
            assert recipe[1] == "mine.yaml" or Path(recipe[1]).is_file(), words
            known[at : at + 2] = []
        parser_of(command).parse_args(known)


def test_a_command_with_a_mistake_is_found():
    page = "```\nvideohpm convert a b --too hf\n```\n"
    (words,) = commands_in(page)
    with pytest.raises(Exception, match="too"):
        parser_of("convert").parse_args(words[1:])


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
