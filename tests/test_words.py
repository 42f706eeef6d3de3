"""One vocabulary, the field's: words that were replaced do not come back."""

import re
import subprocess

import pytest

from videohpm.compat import RENAMED_FIELDS

REPLACED = [
    "said",
    "adopt",
    "looking",
    "united",
    "priority",
    "zoo",
    "settle",
    "anyone",
    "pasted",
    "theirs",
    "ledger",
    "hard_share",
    "teacher_steps",
    "teacher_read",
    "tokens_of_looks",
    "decode_part",
    "predictor_level",
    "begin_at",
    "explained_errors",
    "max_bad_share",
    "sample_seconds",
    "BadFileLedger",
    "DatasetFacts",
    "read_facts",
]


@pytest.fixture(scope="module")
def texts(root):
    """Code, help, recipes and README; not what translates old names."""
    listed = subprocess.run(
        ["git", "ls-files", "videohpm", "configs", "README.md", "CONTRIBUTING.md"],
        cwd=root, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    if not listed:
        pytest.skip("not a git checkout: which files are the project's is not known")
    kept = [name for name in listed if name.endswith((".py", ".md", ".yaml"))]
    return {n: (root / n).read_text() for n in kept if n != "videohpm/compat.py"}


@pytest.mark.parametrize("word", REPLACED)
def test_a_replaced_word_is_nowhere(word, texts):
    found = [name for name, text in texts.items() if re.search(rf"\b{word}\b", text)]
    assert found == []


def test_old_keys_are_in_no_recipe_and_no_readme(texts):
    for old in RENAMED_FIELDS:
        if "." not in old:
            continue
        pattern = re.compile(rf"--{re.escape(old)}\b|`{re.escape(old)}`")
        assert [name for name, text in texts.items() if pattern.search(text)] == [], old
