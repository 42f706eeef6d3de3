"""From folders and files to a table of samples, and one clear line for each mistake."""

import logging
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videohpm.data import tables
from videohpm.data.manifest import Manifest, Sample, find_samples
from videohpm.errors import UserError


@pytest.fixture
def tree(tmp_path):
    """walk/a.mp4, walk/b.avi, run/deep/c d.webm, and things to leave out."""
    for name in ("walk/a.mp4", "walk/B.AVI", "run/deep/c d.webm", "run/.hidden.mp4", "run/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def write(folder, text, name="list.csv"):
    path = folder / name
    path.write_text(text)
    return path


def rows(manifest):
    return [(os.path.relpath(s.path, manifest.base), s.label, s.frames, s.reader) for s in manifest]


def error(*arguments, **options):
    with pytest.raises(UserError) as caught:
        find_samples(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("data.")
    return message


def test_a_folder_is_searched_in_a_fixed_order(tree):
    found = find_samples(tree)
    assert [name for name, *_ in rows(found)] == ["run/deep/c d.webm", "walk/B.AVI", "walk/a.mp4"]
    assert found.kind == "video" and found.classes is None
    assert found[0] == Sample(str(tree / "run/deep/c d.webm"))


def test_first_level_folders_are_the_classes(tree):
    found = find_samples(tree, labels=True)
    assert found.classes == ["run", "walk"]
    assert [label for _, label, *_ in rows(found)] == [0, 1, 1]
    found = find_samples(tree, labels=True, classes=["walk", "sit", "run"])
    assert [label for _, label, *_ in rows(found)] == [2, 0, 0]


def test_links_are_followed_once(tree):
    (tree / "walk" / "again").symlink_to(tree, target_is_directory=True)
    assert len(find_samples(tree)) == 3


def test_kinds(tree):
    (tree / "walk" / "i.JPG").write_bytes(b"")
    assert "kind" in error(tree)
    assert find_samples(tree, kind="image").kind == "image"
    assert len(find_samples(tree, kind="video")) == 3
    (tree / "images").mkdir()
    (tree / "images" / "i.png").write_bytes(b"")
    assert find_samples(tree / "images").kind == "image"


@pytest.mark.parametrize("with_root", [True, False])
def test_comma_separated(tree, with_root):
    file = write(tree, "frames,path,reader,label\n7,walk/a.mp4,pyav,2\n,walk/B.AVI,,0\n\n")
    found = find_samples(tree if with_root else None, file, labels=True)
    assert rows(found) == [("walk/a.mp4", 2, 7, "pyav"), ("walk/B.AVI", 0, None, None)]
    assert found.classes is None
    assert [s.label for s in find_samples(tree, file)] == [None, None]
    assert rows(find_samples(file, labels=True)) == rows(found)


def test_quoted_paths_and_a_byte_order_mark(tree):
    (tree / "a, b.mp4").write_bytes(b"")
    file = tree / "list.csv"
    file.write_bytes(b'\xef\xbb\xbfpath,label\r\n"a, b.mp4",1\r\nwalk/a.mp4,0\r\n')
    assert [name for name, *_ in rows(find_samples(tree, file))] == ["a, b.mp4", "walk/a.mp4"]


def test_space_separated(tree):
    file = write(tree, "walk/a.mp4 3\nrun/deep/c d.webm 0\n")
    assert rows(find_samples(tree, file, labels=True)) == [
        ("walk/a.mp4", 3, None, None),
        ("run/deep/c d.webm", 0, None, None),
    ]
    file = write(tree, "walk/a.mp4 70 3\nrun/deep/c d.webm 9 0\n")
    assert rows(find_samples(tree, file, labels=True)) == [
        ("walk/a.mp4", 3, 70, None),
        ("run/deep/c d.webm", 0, 9, None),
    ]
    file = write(tree, "run/deep/c d.webm\nwalk/a.mp4\n")
    assert [name for name, *_ in rows(find_samples(tree, file))] == [
        "run/deep/c d.webm",
        "walk/a.mp4",
    ]


def test_named_labels(tree):
    file = write(tree, "path,label\nwalk/a.mp4,Walk fast\nwalk/B.AVI,Jump\n")
    found = find_samples(tree, file, labels=True)
    assert found.classes == ["Jump", "Walk fast"]
    assert found.labels.tolist() == [1, 0]
    known = find_samples(tree, file, labels=True, classes=["Walk fast", "Jump"])
    assert known.labels.tolist() == [0, 1]
    assert "Walk fast" in error(tree, file, labels=True, classes=["Jump"])


def test_absolute_paths_stay(tree):
    file = write(tree, f"path\n{tree / 'walk/a.mp4'}\n")
    assert find_samples("/", file)[0].path == str(tree / "walk/a.mp4")


def test_repeated_rows_are_reported(tree, caplog):
    file = write(tree, "path,label\nwalk/a.mp4,0\nwalk/B.AVI,1\nwalk/a.mp4,0\n")
    with caplog.at_level(logging.WARNING):
        assert len(find_samples(tree, file, labels=True)) == 3
    assert "line 4" in caplog.text and "walk/a.mp4" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("path,label\n", "no rows"),
        ("file,label\nwalk/a.mp4,0\n", "column path"),
        ("path,lable\nwalk/a.mp4,0\n", "'lable'; rename it to 'label'"),
        ("path,path,label\na,b,0\n", "path"),
        ("path,label\nwalk/a.mp4\n", "line 2: 1 field"),
        ("path,label\nwalk/a.mp4,0\nwalk/B.AVI,1,2\n", "line 3: 3 fields"),
        ("walk/a.mp4 0\nwalk/B.AVI\n", "line 2: 1 field"),
        ("path\nwalk/a.mp4\n", "no labels"),
        ("walk/a.mp4\n", "no labels"),
        ("path,label\nwalk/a.mp4,\n", "line 2: the label is empty"),
        ("path,label\nwalk/a.mp4,1\nwalk/B.AVI,\n", "line 3: the label is empty"),
        ("path,label\nwalk/a.mp4,\nwalk/B.AVI,\n", "line 2: the label is empty (and 1 more)"),
        ("path,label\nwalk/a.mp4,1\nwalk/a.mp4,\n", "line 3: walk/a.mp4 has label none here and 1"),
        ("walk/a.mp4\nwalk/B.AVI 1\n", "line 2: a path and a label (1)"),
        ("path,label\n,1\n", "line 2: the path is empty"),
        ("path,label\nwalk/a.mp4,0\nwalk/B.AVI,1\nrun/deep/c d.webm,x\n", "line 4: label 'x'"),
        ("path,label\nwalk/a.mp4,0\nwalk/a.mp4,1\n", "line 3: walk/a.mp4 has label 1"),
        ("path,label,frames\nwalk/a.mp4,0,many\n", "line 2: frames 'many'"),
        ("path,label,frames\nwalk/a.mp4,0,0\n", "line 2: frames '0'"),
        ("path,label,reader\nwalk/a.mp4,0,opencv\n", "line 2: reader 'opencv'"),
        ("path,label\nwalk/none.mp4,0\n", "none.mp4"),
        ("path,label\nwalk/a.mp4,99999999999\n", "line 2: label 99999999999"),
    ],
)
def test_mistakes_in_a_manifest(tree, text, told):
    message = error(tree, write(tree, text), labels=True)
    assert told in message and "list.csv" in message


def test_other_mistakes(tree):
    assert "missing" in error(tree / "missing")
    assert "missing.csv" in error(tree, tree / "missing.csv")
    assert "neither" in error(None)
    assert "films" in error(tree, kind="films")
    (tree / "bare").mkdir()
    assert "no videos or images" in error(tree / "bare")
    assert "no images" in error(tree, kind="image")
    assert "folder per class" in error(tree / "walk", labels=True)
    assert "'run'" in error(tree, labels=True, classes=["walk"])
    file = write(tree, "path,label\nwalk/a.mp4,3\n")
    assert "label 3 of 3 classes" in error(tree, file, labels=True, classes=["a", "b", "c"])


@pytest.mark.parametrize(
    ("line", "label", "frames"),
    [
        ("walk/a.mp4, 3", 3, None),
        ("walk/a.mp4,3", 3, None),
        ("walk/a.mp4, 70, 3", 3, 70),
        ("walk/a.mp4 0 -1", None, None),
        ("walk/a.mp4, 0, -1", None, None),
    ],
)
def test_lists_without_a_header(tree, line, label, frames):
    found = find_samples(tree, write(tree, f"{line}\n"), labels="optional")
    assert rows(found) == [("walk/a.mp4", label, frames, None)]


def test_names_after_a_comma(tree):
    found = find_samples(
        tree, write(tree, "walk/a.mp4, Walk fast\nwalk/B.AVI, Jump\n"), labels=True
    )
    assert found.classes == ["Jump", "Walk fast"] and found.labels.tolist() == [1, 0]


def test_what_lists_may_not_hold(tree):
    assert "3 fields after the path" in error(tree, write(tree, "walk/a.mp4 1 5 7\n"))
    assert "3 fields after the path" in error(tree, write(tree, "walk/a.mp4, 1, 5, 7\n"))
    for text in ("walk 70 3\n", "walk, 70, 3\n", "path,label\nwalk,3\n"):
        assert "walk is a folder without pictures; list" in error(tree, write(tree, text))


def test_a_second_label_is_not_taken_for_a_length_in_silence(tree, caplog):
    find_samples(tree, write(tree, "walk/a.mp4 3 5\nwalk/B.AVI 1 2\n"), labels=True)
    assert "taken for the number of frames (no more than 3)" in caplog.text


ODD = ["two\nlines.mp4", "u\u2028.mp4", "\x85n.mp4", "caf\udce9.mp4", 'q"u.mp4', "c,d.mp4",
       "c\rr.mp4"]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_any_name_of_a_file_can_be_listed_and_read_back(tree, name):
    (tree / name).write_bytes(b"")
    tables.write_table(tree / "list.csv", ["path", "label"], [[name, "1"], ["walk/a.mp4", "2"]])
    found = find_samples(tree, tree / "list.csv", labels=True)
    assert [found.name(i) for i in range(2)] == [name, "walk/a.mp4"]
    assert found.labels.tolist() == [1, 2] and os.path.exists(found[0].path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_carriage_return_within_a_line_belongs_to_the_name(tree, end):
    (tree / "c\rr.mp4").write_bytes(b"")
    file = tree / "list.csv"
    file.write_bytes(f"c\rr.mp4 1{end}walk/a.mp4 2{end}".encode())
    found = find_samples(tree, file, labels=True)
    assert [found.name(i) for i in range(len(found))] == ["c\rr.mp4", "walk/a.mp4"]


def test_lines_may_end_in_carriage_returns_alone(tree):
    (tree / "list.csv").write_bytes(b"walk/a.mp4 1\rwalk/B.AVI 2\r")
    found = find_samples(tree, tree / "list.csv", labels=True)
    assert [found.name(i) for i in range(2)] == ["walk/a.mp4", "walk/B.AVI"]


def test_of_both_kinds_in_a_list_the_one_that_was_chosen(tree, caplog):
    text = "path,label\nwalk/a.mp4,x\nb.png,y\nc.gif,x\n"
    listed = write(tree, text)
    with pytest.raises(UserError, match="holds images and videos"):
        find_samples(tree, listed, labels=True)
    videos = find_samples(tree, listed, labels=True, kind="video")
    assert [videos.name(i) for i in range(len(videos))] == ["walk/a.mp4"]
    assert "2 of 3 rows are no videos and are left out" in caplog.text
    (tree / "b.png").write_bytes(b"")
    images = find_samples(tree, listed, labels=True, kind="image")
    assert images.labels.tolist() == [1, 0] and images.classes == ["x", "y"]
    (tree / "c.gif").write_bytes(b"")  # which may be read as a video, by name
    assert len(find_samples(tree, write(tree, "c.gif\n"), kind="video")) == 1


BLANKS = "path,label\nwalk/a.mp4,jump\nwalk/B.AVI,\nrun/deep/c d.webm,run\n"


def test_one_blank_label_costs_the_others_nothing(tree, caplog):
    found = find_samples(tree, write(tree, BLANKS), labels="optional")
    assert found.labels.tolist() == [0, -1, 1] and found.classes == ["jump", "run"]
    assert [sample.label for sample in found] == [0, None, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1 of 3 rows have no label (first: line 3, walk/B.AVI)" in caplog.text
    numbers = write(tree, "path,label\nwalk/a.mp4,\nwalk/B.AVI,7\n")
    assert find_samples(tree, numbers, labels="optional").labels.tolist() == [-1, 7]


def test_without_labels_a_blank_one_is_reported_once(tree, caplog):
    found = find_samples(tree, write(tree, BLANKS))
    assert found.labels.tolist() == [-1, -1, -1] and found.classes is None
    assert caplog.text.count("1 of 3 rows have no label") == 1


@pytest.mark.parametrize("text", ["path\nwalk/a.mp4\n", "path,label\nwalk/a.mp4,\nwalk/B.AVI,\n"])
@pytest.mark.parametrize("labels", ["optional", False])
def test_a_list_without_any_label_is_no_reason_to_warn(tree, caplog, text, labels):
    found = find_samples(tree, write(tree, text), labels=labels)
    assert set(found.labels.tolist()) == {-1} and found.classes is None and not caplog.text


def test_mistakes_in_optional_labels_are_mistakes(tree):
    file = write(tree, "path,label\nwalk/a.mp4,0\nwalk/B.AVI,1\nrun/deep/c d.webm,x\n")
    assert "line 4: label 'x'" in error(tree, file, labels="optional")


def test_files_beside_the_class_folders(tree, caplog):
    (tree / "stray.mp4").write_bytes(b"")
    assert "stray.mp4 lies in" in error(tree, labels=True)
    found = find_samples(tree, labels="optional")
    assert found.labels.tolist() == [-1, 0, 1, 1] and found.classes == ["run", "walk"]
    assert "1 of 4 files lie in" in caplog.text and "stray.mp4" in caplog.text
    caplog.clear()
    flat = find_samples(tree / "walk", labels="optional")
    assert flat.classes is None and not caplog.text


letters = st.characters(exclude_characters="\0/", exclude_categories=["Cs"])
paths = st.lists(st.text(letters, max_size=9))


@given(paths, st.integers(0, 99))
def test_the_table_gives_back_its_rows(names, seed):
    rng = np.random.default_rng(seed)
    labels = [None if rng.random() < 0.3 else int(rng.integers(9)) for _ in names]
    frames = [None if rng.random() < 0.3 else int(rng.integers(1, 9)) for _ in names]
    readers = [(None, "pyav", "decord")[rng.integers(3)] for _ in names]
    table = Manifest(names, base="b", labels=labels, frames=frames, readers=readers)
    expected = [
        Sample(os.path.join("b", name), *rest)
        for name, *rest in zip(names, labels, frames, readers, strict=True)
    ]
    assert list(table) == expected
    assert list(pickle.loads(pickle.dumps(table))) == expected
    chosen = rng.integers(len(names), size=5).tolist() if names else []
    assert list(table.subset(chosen)) == [expected[i] for i in chosen]
    keep = rng.random(len(names)) < 0.5
    assert list(table.subset(keep)) == [e for e, k in zip(expected, keep, strict=True) if k]


def test_memory_is_flat():
    """No Python object for a row: what pickles is little more than the text of the paths."""
    names = [f"class/{i:08}.mp4" for i in range(10_000)]
    size = len(pickle.dumps(Manifest(names)))
    assert size < sum(map(len, names)) + 10_000 * 34 + 2_000
