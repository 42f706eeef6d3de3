"""Lists whose lines can be read in two ways are read rightly or refused, and never guessed at."""

import json
import logging
import os
import time

import numpy as np
import pytest

from videohpm.data import manifest_parser
from videohpm.data.manifest import find_samples
from videohpm.errors import UserError


@pytest.fixture
def videos(tmp_path):
    for number in range(6):
        (tmp_path / f"v{number}.mp4").write_bytes(b"")
    return tmp_path


def read(folder, text, labels=True, name="list.csv", **options):
    """(path, label or its name) of each sample."""
    (folder / name).write_text(text)
    found = find_samples(None, folder / name, labels=labels, **options)
    assert all(sample.path for sample in found)
    names = found.classes
    return [
        (found.name(i), names[found[i].label] if names and found[i].label is not None else
         found[i].label)
        for i in range(len(found))
    ]  # fmt: skip


def refused(folder, text, told, **options):
    with pytest.raises(UserError) as caught:
        read(folder, text, **options)
    message = str(caught.value)
    assert told in message and "list." in message and "\n" not in message and len(message) < 500
    return message


# --- labels that stand for none ------------------------------------------------------------------

MISSING = ["-1", "-1.0", "-1.", "-9"]
GAPS = ["NA", "nan", "NaN", "None", "null", "N/A", "<NA>"]


def table(*labels):
    return "path,label\n" + "".join(f"v{i}.mp4,{label}\n" for i, label in enumerate(labels))


@pytest.mark.parametrize("mark", MISSING + GAPS)
@pytest.mark.parametrize("more", [(), ("3", "4")])
def test_what_stands_for_no_label_is_no_class_however_many_there_are(videos, mark, more):
    text = table("2", mark, "10", mark, *more)
    message = refused(videos, text, f"line 3: label {mark!r}")
    assert "blank" in message
    numbers = [2, None, 10, None, *map(int, more)]
    assert [label for _, label in read(videos, text, labels="optional")] == numbers


@pytest.mark.parametrize("mark", MISSING)
def test_a_negative_number_is_no_class_among_names_either(videos, mark, caplog):
    text = table("run", mark, "jump")
    assert "line 3" in refused(videos, text, "neither a whole number from 0 nor the name")
    assert [label for _, label in read(videos, text, labels="optional")] == ["run", None, "jump"]
    assert "1 of 3 rows have no label (first: line 3" in caplog.text
    found = find_samples(None, videos / "list.csv", labels=True, classes=["jump", mark, "run"])
    assert found.labels.tolist() == [2, 1, 0], "where it is the name of a class, it is that"
    found = find_samples(None, videos / "list.csv", labels="optional", classes=["jump", "run"])
    assert found.labels.tolist() == [1, -1, 0]


def test_a_class_may_be_called_none(videos):
    assert [label for _, label in read(videos, table("wave", "none"))] == ["wave", "none"]
    assert [label for _, label in read(videos, table("wave", "NA", "none"), labels="optional")] == [
        "wave", "NA", "none",
    ]  # fmt: skip


def test_labels_of_which_none_is_a_class(videos):
    found = read(videos, table("-1", "-1"), labels="optional")
    assert [label for _, label in found] == [None, None]


def test_numbers_that_are_names_among_names_are_reported(videos, caplog):
    with caplog.at_level(logging.WARNING):
        found = read(videos, table("2", "x", "10", "y"))
    assert [label for _, label in found] == ["2", "x", "10", "y"]
    assert "some are numbers (line 2: 2), others are not (line 3: x)" in caplog.text


def test_a_negative_number_is_none_of_several_classes(videos):
    refused(videos, table("0;2", "-1", "1;-1"), "line 3: label '-1'", task="multi_label")
    assert "write - for none" in refused(videos, table("a;b", "-1"), "-1", task="multi_label")


# --- several classes -----------------------------------------------------------------------------


def sets(folder, text, name="list.csv"):
    (folder / name).write_text(text)
    found = find_samples(None, folder / name, labels=True, task="multi_label")
    rows = found.label_sets(np.arange(len(found)), len(found.classes or range(found.largest + 1)))
    names = found.classes or list(range(found.largest + 1))
    return [[names[i] for i in row.nonzero()[0]] for row in rows]


NAMED = [["jump (high)", "running (fast)"], ["jump (high)"], ["[left] turn", "turn [right]"],
         ["(a) b", "c (d)"]]  # fmt: skip


def test_brackets_are_part_of_the_name_of_a_class(videos):
    text = table(*(";".join(names) for names in NAMED))
    assert sets(videos, text) == [sorted(names) for names in NAMED]
    lines = [json.dumps({"path": f"v{i}.mp4", "label": names}) for i, names in enumerate(NAMED)]
    assert sets(videos, "\n".join(lines), "list.jsonl") == [sorted(names) for names in NAMED]


@pytest.mark.parametrize("field", ["[1;2]", "(1; 2)", "{1;2}", "1;2"])
def test_brackets_around_numbers_are_not(videos, field):
    assert sets(videos, table(field, "[0]", "3")) == [[1, 2], [0], [3]]


def test_brackets_around_names_are_refused(videos):
    message = refused(videos, table("a;b", "[a;b]"), "line 3: label '[a;b]'", task="multi_label")
    assert "without brackets" in message


@pytest.mark.parametrize("label", ["put; away", "a|b"])
def test_names_in_a_json_list_are_not_cut(videos, label):
    text = json.dumps({"path": "v0.mp4", "label": ["c", label]})
    refused(videos, text, f"line 1: class {label!r}", name="list.jsonl", task="multi_label")


# --- lines without a header ----------------------------------------------------------------------

CLASSES = ["drumming", "air drumming", "finger drumming", "jump"]


@pytest.mark.parametrize("gap", [" ", "\t", " \t", "\t\t", "   "])
@pytest.mark.parametrize("order", [1, -1])
def test_names_of_classes_may_hold_spaces(videos, gap, order):
    names = CLASSES[::order]
    text = "".join(f"v{i}.mp4{gap}{name}\n" for i, name in enumerate(names))
    assert read(videos, text) == [(f"v{i}.mp4", name) for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("v0.mp4 jump\nmy v1.mp4 air drumming\n", [("my v1.mp4", "air drumming")]),
        ("v0.mp4\tjump\nv1.mp4 run\n", [("v1.mp4", "run")]),
        ("v0.mp4 jump\nv1.mp4\ttake 2\n", [("v1.mp4", "take 2")]),
        ("v0.mp4 a b.mp4 jump\n", []),
        ("v0.mp4\tput, away\nv1.mp4\ttake 2\n", [("v1.mp4", "take 2")]),
        ("v0.mp4,path\nv1.mp4,label\n", [("v1.mp4", "label")]),
        ("v0.mp4\tpath\nv1.mp4\tlabel\n", [("v1.mp4", "label")]),
        ("v0.mp4 70 3\nv1.mp4\t9\t4\n", [("v1.mp4", 4)]),
        ("v0.mp4\t70 3\nv1.mp4 9 4\n", [("v1.mp4", 4)]),
        ("a\tb.mp4 3\nv1.mp4 4\n", [("v1.mp4", 4)]),
    ],
)
def test_where_a_path_ends(videos, text, found):
    for name in ("my v1.mp4", "v0.mp4 a b.mp4", "a\tb.mp4"):
        (videos / name).write_bytes(b"")
    rows = read(videos, text)
    assert rows[1:] == found and all(os.path.exists(videos / path) for path, _ in rows)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("v0.mp4 jump\nv1.mp4 take 2\n", "line 2: it is not clear where the path ends (path 'v1"),
        ("v0.mp4 3\nv1.mp4 take 2\n", "line 2: it is not clear"),
        ("v0.mp4 70 drumming\n", "line 1: it is not clear where the path ends (path 'v0.mp4', lab"),
        ("v0.mp4 jump\nv1.mp4 frames/a jump\n", "line 2: it is not clear"),
        ("v0.mp4 3\nv1.mp4 70 4\n", "line 2: 3 fields, the first line has 2"),
        ("v0.mp4 jump\nv1.mp4\tjump\thigh\n", "line 2: 3 fields"),
        ("v0.mp4\nv1.mp4 air drumming\n", "line 2: a path and a label (air drumming)"),
        ("clip0 jump\nclip1 air drumming\n", "line 2: it is not clear where the path ends (path '"),
        ("v0.mp4 jump\nclip1 air drumming\n", "line 2: it is not clear"),
        ("v0.mp4 70 3\nv1.mp4 jump\n", "line 2: 2 fields"),
        (f"v0.mp4 jump\nclip1 {'x ' * 9000}\n", "line 2: it is not clear"),
    ],
)
def test_where_it_cannot_be_told_the_line_is_named(videos, text, told):
    message = refused(videos, text, told)
    assert "not clear" not in message or "put a tab between them" in message


def test_a_label_of_frames_with_words(videos):
    rows = read(videos, "v0.mp4 70 3\nv1.mp4 9 4\n")
    assert rows == [("v0.mp4", 3), ("v1.mp4", 4)]
    for name in ("my clip", "other"):
        (videos / name).mkdir()
        (videos / name / "img_1.png").write_bytes(b"")
    assert read(videos, "my clip 3\nother 4\n") == [("my clip", 3), ("other", 4)]
    assert read(videos, "my clip\trun fast\nother\tjump\n") == [
        ("my clip", "run fast"), ("other", "jump"),
    ]  # fmt: skip


def test_a_line_of_many_words_takes_no_time(videos):
    began = time.perf_counter()
    refused(videos, f"{'x ' * 60_000}\n", "line 1: path has 1", labels=False)
    assert time.perf_counter() - began < 5


# --- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "video\tlabel\nv1.mp4\trun\n",
        "video label\nv1.mp4 run\n",
        "video_path\nv1.mp4\nv2.mp4\n",
        "Clip name\tClass\tCaption\nv1.mp4\trun\tfast\n",
        "video class name\nv1.mp4 air drumming\n",
        "video\tlabel\nv1.mp4\t3\n",
        "path label caption\nv1.mp4 run fast\n",
        "video label\nclip1 run\nclip2 jump\n",
    ],
)
@pytest.mark.parametrize("labels", [True, False])
def test_a_header_without_a_path_is_no_sample(videos, text, labels):
    message = refused(videos, text, "line 1 looks like a header", labels=labels)
    assert "name the column of the files path" in message


def test_what_is_no_list_is_named_as_what_it_is(videos):
    (videos / "wide.txt").write_bytes("path,label\nv0.mp4,1\n".encode("utf-16"))
    (videos / "binary.txt").write_bytes(b"\0\0\0 ftypisom" * 200)
    for given, told in (
        ({"root": videos / "v0.mp4"}, "^data.root: .*v0.mp4 is no list; give a folder of videos"),
        ({"manifest": videos / "v0.mp4"}, "^data.manifest: .*v0.mp4 is no list; give a folder"),
        ({"manifest": videos}, "^data.manifest: .* is a folder; give it as data.root$"),
        ({"manifest": videos / "wide.txt"}, "wide.txt is text in UTF-16; save it as UTF-8$"),
        ({"manifest": videos / "binary.txt"}, "binary.txt is no text; a list has a path in each"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            find_samples(given.get("root"), given.get("manifest"), labels=True)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["v0.mp4;1\n", "v0.mp4|1\n"])
def test_a_list_whose_labels_are_not_seen_shows_what_was_read(videos, text):
    told = f"(its first path is '{text.strip()}'); add a column named label, or a label behind"
    refused(videos, text, told)


@pytest.mark.parametrize("header", ["path;label", "Label; path", "path;label;notes"])
def test_a_spreadsheet_that_separates_by_semicolons(videos, header):
    names = header.lower().replace(" ", "").split(";")
    cells = {"path": '"v0.mp4"', "label": '"to run; far"', "notes": "1,5"}
    lines = [header, ";".join(cells[name] for name in names), ""]
    (videos / "list.csv").write_text("\r\n".join(lines))
    found = find_samples(None, videos / "list.csv", labels=True)
    assert (found.name(0), found.classes) == ("v0.mp4", ["to run; far"])


def test_several_labels_beside_a_semicolon_are_a_row_too_long(videos):
    (videos / "list.csv").write_text("path;label\nv0.mp4;run;jump\n")
    with pytest.raises(UserError, match="list.csv line 2"):
        find_samples(None, videos / "list.csv", labels=True)


def test_a_header_between_tabs_may_have_more_columns(videos):
    text = "Path\tlabel\tcaption\nv0.mp4\tair drumming\ta, b\nv1.mp4\trun\t\n"
    assert read(videos, text) == [("v0.mp4", "air drumming"), ("v1.mp4", "run")]
    assert read(videos, "id\tfile_name\tlabel\n1\tv0.mp4\t3\n") == [("v0.mp4", 3)]
    refused(videos, "path\tlabels\tid\nv0.mp4\t3\t1\n", "rename it to 'label'")


def test_folders_before_files_are_no_header(videos):
    for name in ("clip", "video"):
        (videos / name).mkdir()
        (videos / name / "img_1.png").write_bytes(b"")
    assert len(read(videos, "clip\nv1.mp4\nv2.mp4\n", labels=False, kind="video")) == 3
    assert len(read(videos, "video label\nv1.mp4 run\n", kind="video")) == 2
    assert len(read(videos, "elsewhere/clip run\nv1.mp4 jump\n", kind="video")) == 2


@pytest.mark.parametrize(
    "name", ["weight", "label_id", "n_frames", "header", "labels", "pathology"]
)
def test_other_columns_are_left_alone(videos, name):
    assert read(videos, f"path,label,frames,{name}\nv0.mp4,3,9,7\n") == [("v0.mp4", 3)]


@pytest.mark.parametrize(
    ("slip", "column"),
    [("labels", "label"), ("label_id", "label"), ("frame", "frames"), ("n_frames", "frames"),
     ("num_frames", "frames"), ("readers", "reader"), ("hight", "height"), ("widths", "width")],
)  # fmt: skip
def test_slips_are_named(videos, slip, column):
    refused(videos, f"path,{slip}\nv0.mp4,3\n", f"column {slip!r}; rename it to {column!r}")


# --- files that are not there --------------------------------------------------------------------


@pytest.mark.parametrize("there", [0, 50, 51, 99])
def test_one_file_of_a_hundred_is_found(videos, there):
    paths = [f"none{i}.mp4" for i in range(100)]
    paths[there] = "v1.mp4"
    assert len(read(videos, "path\n" + "\n".join(paths), labels=False)) == 100


def test_it_is_said_how_many_were_looked_for(videos, monkeypatch):
    text = "path\n" + "".join(f"none{i}.mp4\n" for i in range(100))
    refused(videos, text, "none of its files is found, such as", labels=False)
    monkeypatch.setattr(manifest_parser, "MOST_LOOKED_AT", 30)
    refused(videos, text, "none of 25 of its 100 files is found", labels=False)
