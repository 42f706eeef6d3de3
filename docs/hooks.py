"""What mkdocs calls: pages that are made from the code, and links that leave the folder docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the code of this checkout, installed or not

from videohpm.cli import COMMANDS, parser_of  # noqa: E402

COPIED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page → the file of the checkout that it shows."""
CONFIGURED = ("pretrain", "finetune", "evaluate", "probe", "plan")
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Add the pages that are made."""
    made = {
        "reference/configuration.md": configuration(),
        "reference/commands.md": commands(),
        **{page: (ROOT / file).read_text(encoding="utf-8") for page, file in COPIED.items()},
    }
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the checkout that are no pages become their names."""
    source = COPIED.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    folder = (ROOT / source).parent

    def replaced(found: re.Match) -> str:
        text, target, _ = found.groups()
        if "://" in target:
            return found[0]
        path = (folder / target).resolve()
        if path.is_relative_to(ROOT / "docs"):
            return found[0] if source.startswith("docs/") else f"[{text}]({path.name})"
        for name, file in COPIED.items():
            if path == ROOT / file:
                return f"[{text}]({name})"
        if not path.exists() or not path.is_relative_to(ROOT):
            return found[0]  # strict mode says what is wrong
        name = path.relative_to(ROOT).as_posix()
        return f"`{name}`" if name in text else f"{text} (`{name}`)"

    return LINK.sub(replaced, markdown)


def configuration() -> str:
    """Every field of the commands that take a configuration file: what --help says, by section."""
    parts = [
        "# Configuration\n\nEvery field by command, as `videohpm COMMAND --help` says it. On the "
        "command line a field is `--section.name VALUE`, in a YAML file `section: {name: VALUE}`; "
        "later files win over earlier ones, and the command line over all.\n"
    ]
    for command in CONFIGURED:
        parts.append(f"## {command}\n\n{COMMANDS[command].summary.capitalize()}.\n")
        sections: dict[str, list[str]] = {}
        for action in fields(command):
            section, dot, name = action.dest.rpartition(".")
            sections.setdefault(section, []).append(row(name, action))
        for section, rows in sections.items():
            title = f"### {command}: {section}\n" if section else ""
            head = "| field | default | |\n|---|---|---|"
            parts.append("\n".join([title, head, *rows, ""]))
    return "\n".join(parts)


def commands() -> str:
    """The other commands and their options."""
    parts = ["# Commands\n\nThe commands without a configuration file; `--help` says the same.\n"]
    for command in COMMANDS:
        if command in CONFIGURED or command == "data prepare":
            continue
        rows = [row(option(action), action) for action in fields(command)]
        parts.append(
            f"## {command}\n\n{COMMANDS[command].summary.capitalize()}.\n\n"
            "| option | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


def fields(command: str) -> list[Any]:
    """What can be given to a command, without what every command has."""
    known = parser_of(command)._actions
    shown = [action for action in known if action.dest not in ("help", "config", "print_config")]
    return [action for action in shown if type(action).__name__ != "_ActionConfigLoad"]


def option(action: Any) -> str:
    """The name to type: an option, or an argument in its place."""
    return action.option_strings[-1] if action.option_strings else action.dest.upper()


def row(name: str, action: Any) -> str:
    """A row of a table: name, default, help."""
    usual = action.default
    if hasattr(usual, "__dict__") and not isinstance(usual, type):
        usual = None
    default = "" if usual is None or usual == "==SUPPRESS==" else f"`{usual}`"
    text = " ".join(str(action.help or "").split()).replace("|", "\\|").replace("<", "&lt;")
    text = re.sub(r"\s*\((required, )?(type|default):.*\)$", "", text)
    text = re.sub(r"([\[\]*])", r"\\\1", text)  # no links, no emphasis
    return f"| `{name}` | {default} | {text} |"
