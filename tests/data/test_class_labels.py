"""What a label means: numbers and names, in lists and as folders, against known classes."""

import numpy as np
import pytest

from videohpm.data import find_samples
from videohpm.data.class_labels import whole_number
from videohpm.data.prepare import Annotations, Entry, by_stem, write_splits
from videohpm.errors import UserError

TEXT_ORDER = ["0", "1", "10", "11", *(str(i) for i in range(2, 10))]


@pytest.fixture
def folders(tmp_path):
    """A folder with one picture for each of the classes 0 to 11, by name only."""
    for name in TEXT_ORDER:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    return tmp_path


def listed(folder, labels, name="list.csv"):
    rows = [f"{number}/a.png,{label}" for number, label in labels.items()]
    (folder / name).write_text("\n".join(["path,label", *rows]) + "\n")
    return folder / name


def by_path(manifest):
    return {manifest.name(i).split("/")[0]: int(label) for i, label in enumerate(manifest.labels)}


def test_a_number_is_a_name_where_names_are_numbers(folders):
    """Folders 0 to 11 are sorted as text, so that class 2 is the folder 10."""
    trained = find_samples(folders, labels=True)
    assert trained.classes == TEXT_ORDER
    listing = listed(folders, {name: name for name in TEXT_ORDER})
    tested = find_samples(folders, listing, labels=True, classes=trained.classes)
    assert by_path(tested) == by_path(trained)
    with pytest.raises(UserError, match="line 2: class '12' is not among the 12 known"):
        find_samples(folders, listed(folders, {"0": "12"}), labels=True, classes=TEXT_ORDER)


def test_folders_of_numbers_are_those_numbers_for_classes_without_names(folders):
    found = find_samples(folders, labels=True, numbered=True)
    assert by_path(found) == {name: int(name) for name in TEXT_ORDER} and found.classes is None


def test_a_validation_folder_that_lacks_classes_is_not_numbered_anew(folders):
    for name in ("0", "3", "10"):
        (folders / name / "a.png").unlink()
        (folders / name).rmdir()
    found = find_samples(folders, labels=True, numbered=True)
    assert all(label == int(name) for name, label in by_path(found).items())
    found = find_samples(folders, labels=True, classes=TEXT_ORDER)
    assert all(TEXT_ORDER[label] == name for name, label in by_path(found).items())


def test_names_are_refused_where_only_numbers_are_known(folders):
    (folders / "cat").mkdir()
    (folders / "cat/a.png").write_bytes(b"")
    with pytest.raises(UserError, match="data.root: .*class 'cat' is no number"):
        find_samples(folders, labels=True, numbered=True)
    with pytest.raises(UserError, match="line 3: class 'cat' is no number"):
        find_samples(folders, listed(folders, {"0": 0, "1": "cat"}), labels=True, numbered=True)


def test_folders_of_numbers_are_not_the_classes_of_names(folders):
    with pytest.raises(UserError, match="class '0' is not among the 2 known"):
        find_samples(folders, labels=True, classes=["cat", "dog"])
    found = find_samples(folders, listed(folders, {"0": 1, "1": 0}), labels=True,
                         classes=["cat", "dog"])  # fmt: skip
    assert found.labels.tolist() == [1, 0], "in a list a number is a position"


@pytest.mark.parametrize("written", ["3.0", "3.", "3", "03"])
def test_one_number_has_many_spellings(folders, written):
    """Tables with a gap in a column of integers are written as floats."""
    listing = listed(folders, {"0": "0.0", "1": written})
    assert find_samples(folders, listing, labels=True).labels.tolist() == [0, 3]
    assert find_samples(folders, listing, labels=True, numbered=True).labels.tolist() == [0, 3]
    found = find_samples(folders, listing, labels=True, classes=TEXT_ORDER)
    assert [TEXT_ORDER[label] for label in found.labels] == ["0", "3"]


@pytest.mark.parametrize("text", ["", "-1", "3.5", "1e3", "x", "3,0", ".0", "٣x", "²"])
def test_what_is_no_whole_number(text):
    assert whole_number(text) is None


def test_an_ambiguous_spelling_is_refused(folders):
    listing = listed(folders, {"0": "7.0", "1": "07"})
    with pytest.raises(UserError, match="class '7.0' is not among"):
        find_samples(folders, listing, labels=True, classes=["7", "07"])


@pytest.mark.parametrize("several", ["1;5", "[1, 5]", "1|5|7", "3 4"])
def test_several_labels_are_no_name(folders, several):
    listing = listed(folders, {"0": f'"{several}"', "1": '"2;3"'})
    with pytest.raises(UserError, match="line 2: label .* holds several numbers"):
        find_samples(folders, listing, labels=True)


def test_renumbered_labels_keep_their_names(folders):
    listing = listed(folders, {"0": "b", "1": "", "2": "a"})
    found = find_samples(folders, listing, labels="optional")
    moved = found.renumbered(["c", "b", "a"])
    assert moved.labels.tolist() == [1, -1, 2] and moved.classes == ["c", "b", "a"]
    assert found.labels.tolist() == [1, -1, 0], "the first is as it was"


def test_manifests_of_classes_that_are_numbers_hold_names(folders):
    """Readers would take a position for a name."""
    for name in TEXT_ORDER:
        (folders / name / "a.png").rename(folders / name / f"{name}.png")
    entries = [Entry(name, name) for name in TEXT_ORDER]
    annotations = Annotations({"train": entries}, TEXT_ORDER, by_stem, kind="image")
    write_splits(folders, folders / "out", annotations)
    found = find_samples(folders, folders / "out/train.csv", labels=True, classes=TEXT_ORDER)
    assert np.array_equal(found.labels, np.arange(12))
