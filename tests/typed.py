"""What pages of documentation tell their readers to type: commands, and blocks of Python."""

import re
import shlex
from typing import NamedTuple

PAGES = (
    "README.md", "docs/index.md", "docs/tutorial.md", "docs/cookbook.md", "docs/faq.md",
    "docs/how-it-works.md", "docs/arms.md",
)  # fmt: skip
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`(videohpm\s[^`]+)`")
ELIDED = {"--config": "mine.yaml", "--data.manifest": "labelled.csv"}
"""What stands for an ellipsis after an option; others are left out."""
STAND_INS = {"LIST": "scanned.csv", "OUT": "copies"}


class Typed(NamedTuple):
    kind: str
    """shell or python."""
    text: str
    """One command, or one block."""


def typed(page: str) -> list[Typed]:
    """In the order of the page. Of inline code what is a whole command of videohpm."""
    found = []
    at = 0
    for block in FENCED.finditer(page):
        found += _inline(page[at : block.start()])
        at = block.end()
        if block[1] == "python":
            found.append(Typed("python", block[2]))
        elif block[1] in ("", "bash", "sh"):
            lines = block[2].replace("\\\n", " ").splitlines()
            found += [Typed("shell", line) for line in lines if shlex.split(line, comments=True)]
    return found + _inline(page[at:])


def _inline(text: str) -> list[Typed]:
    spans = [" ".join(span.split()) for span in INLINE.findall(text)]
    return [Typed("shell", span) for span in spans if arguments(span)[2:]]


def arguments(command: str) -> list[str]:
    """The words after ``videohpm``, or what starts it on several processes, with something in the
    place of what is left out; none for another program."""
    words = shlex.split(command, comments=True)
    for at, word in enumerate(words):
        if word == "videohpm" and (at == 0 or words[at - 1] in ("-m", "--module")):
            words = words[at + 1 :]
            break
        if word == "videohpm.launch":
            words = words[at + 2 :]
            break
    else:
        return []
    pairs = zip(["", *words], words, strict=False)
    filled = [ELIDED.get(before, "…") if word == "…" else word for before, word in pairs]
    return [STAND_INS.get(word, word) for word in filled if word != "…"]
