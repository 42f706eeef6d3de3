"""The page of arms: whatever can be configured is in it, and its configurations are right."""

import re

import pytest
import yaml

from videohpm.cli import parser_of
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
