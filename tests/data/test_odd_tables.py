"""Tables with odd rows are refused in a line, and those written here are safe in a spreadsheet."""

import csv
import os

import pytest
from painted import encode

from videohpm import cli
from videohpm.data.manifest import find_samples
from videohpm.data.tables import write_table
from videohpm.errors import UserError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path\na.mp4\na\0b.mp4\n", "line 3: path has a NUL character"),
        ("a\0b.mp4 0\n", "line 1: path has a NUL character"),
        (f"path,label\na.mp4,{'x' * 140_000}\n", "line 2: .*limit"),
        (f"{'x' * 140_000},path\n", "line 1: .*limit"),
        (f"{'x' * 140_000}.mp4,0\n", "line 1: .*limit"),
        (f"path\n{'x' * 5000}\n", "line 2: path has 5000 characters"),
        (f"path,frames\na.mp4,{'9' * 5000}\n", "line 2: frames has 5000 characters"),
        (f"path,label\na.mp4,{'9' * 5000}\n", "line 2: label has 5000 characters"),
        (f"a.mp4 {'9' * 5000} 0\n", "line 1: frames has 5000 characters"),
    ],
)
def test_a_row_that_cannot_be_is_named(tmp_path, text, said):
    (tmp_path / "a.mp4").write_bytes(b"")
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        find_samples(tmp_path, file, labels="label" in text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_names_too_long_for_any_disk_are_files_that_are_not_there(tmp_path):
    (tmp_path / "list.csv").write_text(f"path\n{'x' * 300}.mp4\n")
    with pytest.raises(UserError, match="none of its files is found"):
        find_samples(None, tmp_path / "list.csv")


def test_the_longest_names_are_scanned_and_copied(tmp_path, capsys):
    name = "n" * 251 + ".avi"
    encode(tmp_path / name, "mpeg4", 12)
    (tmp_path / "list.csv").write_text(f"path\n{name}\n{'x' * 300}.avi\n")
    copies = str(tmp_path / "copies")
    assert cli.main(["data", "transcode", str(tmp_path / "list.csv"), copies]) == 0
    assert "1 of 2 videos" in capsys.readouterr().out
    assert sorted(os.listdir(copies)) == [
        "failed.csv", "manifest.csv", "n" * 251 + ".mp4", "transcode.json",
    ]  # fmt: skip


ODD = ["=1+1", "+a", "-a", "@a", "'=a", "''@a", "'a", "a=1", "-", "-1e", "-inf"]


def test_no_text_begins_like_a_formula_and_all_is_read_back(tmp_path):
    paths = [f"{text}.mp4" for text in ODD]
    for path in paths:
        (tmp_path / path).write_bytes(b"")
    file = tmp_path / "list.csv"
    numbers = ["-1", "-1.5", "+2", "-1e-05"] * 2 + ["0", "1e5", "-.5"]
    write_table(file, ["path", "label", "x"], list(zip(paths, ODD, numbers, strict=True)))
    with file.open(newline="") as opened:
        _, *rows = csv.reader(opened)
    assert not [field for row in rows for field in row[:2] if field[0] in "=+-@\t\r"]
    assert [row[2] for row in rows] == numbers
    found = find_samples(None, file, labels=True)
    assert found.classes == sorted(ODD)
    for i, path in enumerate(paths):
        assert found.name(i) == path
        assert found.classes[found[i].label] == ODD[i]
