"""Folders of extracted frames as videos, and the lists that go with them."""

import json

import numpy as np
import pytest
from PIL import Image

from videohpm.config import DataConfig
from videohpm.data import VideoDataset, find_samples, read_frames, read_video_info
from videohpm.data.container import DecodeError
from videohpm.data.manifest_parser import IMAGE_SUFFIXES
from videohpm.data.scan import scan
from videohpm.errors import UserError


def colour(number):
    """A colour that says which frame it is."""
    return (number * 5 % 256, 255 - number * 5 % 256, 40)


def write_frames(folder, count, pattern="img_{:05d}.png", size=(20, 16), first=1, step=1):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = Image.new("RGB", size, colour(number))
        picture.save(folder / pattern.format(first + number * step))
    return folder


def frames_of(pixels):
    """Which frames these are, by their colour."""
    return (pixels[:, 0, 0, 0] // 5).tolist()


@pytest.fixture
def clips(tmp_path):
    """walk/a (12 frames), walk/b (9), run/c (20), with things to leave out."""
    for name, count in (("walk/a", 12), ("walk/b", 9), ("run/c", 20)):
        write_frames(tmp_path / name, count)
        (tmp_path / name / "notes.txt").write_text("x")
        (tmp_path / name / ".hidden.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "first", "step"),
    [("img_{:05d}.png", 1, 1), ("{}.png", 0, 1), ("v2_f{}.png", 8, 1), ("{:03d}x.png", 0, 10)],
)
def test_frames_are_in_the_order_of_their_numbers(tmp_path, pattern, first, step):
    folder = str(write_frames(tmp_path / "clip", 12, pattern, first=first, step=step))
    assert frames_of(read_frames(folder, range(12))) == list(range(12))
    assert frames_of(read_frames(folder, [7, 2, 7, 0])) == [7, 2, 7, 0]
    info = read_video_info(folder)
    assert (info.frames, info.height, info.width, info.codec) == (12, 16, 20, "png")


def test_a_frame_is_turned_as_its_tag_says(tmp_path):
    folder = write_frames(tmp_path / "clip", 2, "{}.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in folder.glob("*.jpg"):
        Image.open(file).save(file, exif=exif)
    assert read_frames(folder, [0]).shape == (1, 20, 16, 3)


def reason(folder, indices=(0,)):
    with pytest.raises(DecodeError) as caught:
        read_frames(folder, indices)
    return caught.value.reason


def test_what_the_names_leave_open_is_refused(tmp_path):
    flow = write_frames(tmp_path / "flow", 3)
    write_frames(flow, 3, "flow_x_{:05d}.png")
    assert "flow_x_00001.png and img_00001.png are both frame 1" in reason(flow)
    gap = write_frames(tmp_path / "gap", 6)
    (gap / "img_00004.png").unlink()
    assert "frames between img_00003.png and img_00005.png are missing" in reason(gap)
    named = write_frames(tmp_path / "named", 1, "cover.png")
    assert "cover.png has no number" in reason(named)
    sizes = write_frames(tmp_path / "sizes", 2)
    Image.new("RGB", (8, 8)).save(sizes / "img_00002.png")
    assert "img_00002.png has 8x8 pixels, others have 20x16" in reason(sizes, [0, 1])
    assert "frame 5 asked for; the folder has 2" in reason(sizes, [5])
    (tmp_path / "bare").mkdir()
    assert "without pictures" in reason(tmp_path / "bare")
    broken = write_frames(tmp_path / "broken", 2)
    (broken / "img_00002.png").write_bytes(b"no picture")
    assert "not readable as an image" in reason(broken, [1])


def test_a_folder_of_clips_is_searched_for_folders(clips):
    found = find_samples(clips, kind="frames", labels=True)
    assert [found.name(i) for i in range(3)] == ["run/c", "walk/a", "walk/b"]
    assert found.kind == "video" and found.classes == ["run", "walk"]
    assert found.labels.tolist() == [0, 1, 1]
    assert find_samples(clips).kind == "image"  # pictures, unless it is told that they are frames
    with pytest.raises(UserError, match=r"img_00001\.png lies in .*walk/a itself; .*folder above"):
        find_samples(clips / "walk" / "a", kind="frames")
    (clips / "none").mkdir()
    with pytest.raises(UserError, match="no folders of pictures under"):
        find_samples(clips / "none", kind="frames")


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_what_is_listed_as_a_folder_of_frames_is_read_as_one(tmp_path, suffix):
    folder = tmp_path / "clips/walk"
    folder.mkdir(parents=True)
    for number in range(3):
        mode = "L" if suffix == ".pgm" else "RGB"
        Image.new(mode, (20, 16)).save(folder / f"{number}{suffix}")
    if suffix == ".gif":  # an animation: no frame, and not in the way of those beside it
        with pytest.raises(UserError, match=r"no folders of pictures .* a \.gif is no frame"):
            find_samples(tmp_path / "clips", kind="frames")
        write_frames(folder, 3)
    found = find_samples(tmp_path / "clips", kind="frames")
    assert read_frames(found[0].path, [0, 2]).shape == (2, 16, 20, 3)


@pytest.mark.parametrize(
    "text",
    [
        "walk/a 12 1\nwalk/b 9 1\nrun/c 20 0\n",
        "walk/a, 12, 1\nwalk/b, 9, 1\nrun/c, 20, 0\n",
        "label,path,frames\n1,walk/a,12\n1,walk/b,9\n0,run/c,20\n",
        "label path frames\n1 walk/a 12\n1 walk/b  9\n0 run/c 20\n",
        "frames\tlabel\tpath\n12\t1\twalk/a\n9\t1\twalk/b\n20\t0\trun/c\n",
        "frames,label,file_name\n12,1,walk/a\n9,1,walk/b\n20,0,run/c\n",
    ],
)
def test_lists_name_folders_and_their_frames(clips, text):
    (clips / "list.txt").write_text(text)
    found = find_samples(None, clips / "list.txt", labels=True)
    assert [(found.name(i), s.label, s.frames) for i, s in enumerate(found)] == [
        ("walk/a", 1, 12), ("walk/b", 1, 9), ("run/c", 0, 20),
    ]  # fmt: skip
    assert found.kind == "video"


def test_whole_clips_for_pretraining(clips):
    (clips / "list.csv").write_text("walk/a 0 -1\nrun/c 0 -1\n")
    found = find_samples(None, clips / "list.csv", labels="optional")
    assert [(s.label, s.frames) for s in found] == [(None, None)] * 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("label path frames\n1 walk/a\n", "line 2: 2 fields, the header has 3"),
        ("label path\n1 walk a.mp4\n", "line 2: 3 fields, the header has 2"),
        ("path path\nwalk/a 1\n", "'path' is there more than once"),
        ("path label\nwalk 1\n", "walk is a folder without pictures"),
    ],
)
def test_what_is_ambiguous_in_a_list_is_an_error(clips, text, told):
    (clips / "list.txt").write_text(text)
    with pytest.raises(UserError, match="list.txt") as caught:
        find_samples(None, clips / "list.txt", labels=True)
    assert told in str(caught.value)


ROWS = [("jog", "run/c", "x"), ("stroll", "walk/a", "y"), ("stroll", "walk/b", "z")]


def as_metadata(rows, names, suffix: str) -> str:
    if suffix == "csv":
        return "".join(",".join(row) + "\n" for row in [names, *rows])
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_videofolder_of_hugging_face(clips, caplog, suffix):
    metadata = clips / f"metadata.{suffix}"
    metadata.write_text(as_metadata(ROWS, ("label", "file_name", "text"), suffix))
    found = find_samples(clips, labels=True)
    assert found.classes == ["jog", "stroll"] and found.labels.tolist() == [0, 1, 1]
    assert found.kind == "video" and f"{metadata.name}, not the folders" in caplog.text
    without = [row[1:] for row in ROWS]  # no labels: the folders are the classes
    metadata.write_text(as_metadata(without, ("file_name", "text"), suffix))
    assert find_samples(clips, labels=True, kind="frames").classes == ["run", "walk"]


def test_a_list_of_json_objects(clips):
    lines = [
        {"file_name": "run/c", "label": ["fast", "far"], "other": {"a": 1}},
        {"label": ["far"], "frames": 12, "file_name": "walk/a"},
        {"file_name": "walk/b", "label": []},
    ]
    (clips / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = find_samples(None, clips / "list.jsonl", labels="optional", task="multi_label")
    assert found.classes == ["far", "fast"]
    assert found.label_sets(np.arange(3), 2).tolist() == [[1, 1], [1, 0], [0, 0]]
    assert [sample.frames for sample in found] == [None, 12, None]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"path": "walk/a"}\n[1]\n', "line 2: this is not a JSON object"),
        ('{"path": "walk/a"', "line 1: this is not a JSON object"),
        ("[" * 100000, "line 1: this is not a JSON object"),
        ('{"file": "walk/a"}\n', "no line names a file as path or file_name"),
        ('{"path": "walk/a"}\n{"label": 1}\n', "line 2: the path is empty"),
        ('{"path": "a\\u0000"}\n', "line 1: path has a NUL character"),
    ],
)
def test_objects_that_are_none(clips, text, told):
    (clips / "list.jsonl").write_text(text)
    with pytest.raises(UserError, match="list.jsonl") as caught:
        find_samples(None, clips / "list.jsonl", labels=True)
    assert told in str(caught.value)


def test_training_reads_clips_of_them(clips):
    found = find_samples(clips, kind="frames")
    config = DataConfig(root=str(clips), kind="frames", stride=2, crop="centre", workers=0)
    data = VideoDataset(found, config, frames=4, size=(16, 16), units=4)
    seen = frames_of(data[0, 0]["clips"][0].permute(1, 2, 3, 0).numpy())
    assert np.diff(seen).tolist() == [2, 2, 2] and not data[0, 0]["bad"]


def test_a_scan_counts_their_frames(clips, capsys):
    (clips / "list.csv").write_text("path,label\nwalk/a,1\nrun/c,0\n")
    (clips / "run/c/img_00020.png").write_bytes(b"no picture")
    scan(str(clips / "list.csv"), out=str(clips / "good.csv"), workers=1)
    assert "1 of 2 readable" in capsys.readouterr().out
    found = find_samples(None, clips / "good.csv", labels=True)
    assert (found.name(0), found[0].frames, len(found)) == ("walk/a", 12, 1)
