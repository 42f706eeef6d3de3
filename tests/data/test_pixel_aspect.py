"""Pixels that are not square: frames are read as stored, counted by the scan, squared in copies."""

import json
from fractions import Fraction

import numpy as np
import pytest
from painted import decode_all

from videohpm.cli import main
from videohpm.data import read_frames, read_video_info, verify
from videohpm.data.readers import READERS

SIZES = [(48, 96), (54, 70), (47, 95)]


def oblong(path, aspect, size=(48, 96), rotation=None):
    import av

    height, width = size
    even = height % 2 == width % 2 == 0
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p" if even else "yuv444p"
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i in range(20):
            slope = np.linspace(20, 200, width).astype(np.uint8)[None, :, None]
            picture = np.broadcast_to(slope, (height, width, 3)) + np.uint8(2 * i)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(16, 11), Fraction(8, 9)])
def test_every_reader_gives_the_stored_pixels(tmp_path, aspect, size):
    path = oblong(tmp_path / "a.mp4", aspect, size)
    info, right = read_video_info(path), decode_all(path)
    assert (info.height, info.width) == size and verify(path)[0] == info
    assert info.pixel_aspect == pytest.approx(float(aspect))
    for reader in (None, *READERS) if size[0] % 2 == 0 else (None, "pyav"):
        found = read_frames(path, [0, 7, 19], reader=reader)
        assert found.shape[1:3] == size
        assert np.array_equal(found, [right[0], right[7], right[19]])


def test_pixels_of_a_turned_video_are_turned(tmp_path):
    path = oblong(tmp_path / "a.mp4", Fraction(4, 3), rotation=90)
    info = read_video_info(path)
    assert (info.height, info.width) == (96, 48) and info.pixel_aspect == pytest.approx(3 / 4)


def test_the_scan_counts_them(tmp_path, capsys):
    oblong(tmp_path / "a.mp4", Fraction(4, 3))
    oblong(tmp_path / "b.mp4", Fraction(1, 1))
    arguments = ["data", "scan", str(tmp_path), "--out", str(tmp_path / "out/list.csv")]
    for _ in range(2):  # the second from the journal
        assert main(arguments) == 0
        assert "1 files have pixels that are not square" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("squared", "size"), [("false", (48, 96)), ("true", (48, 128))], ids=["stored", "displayed"]
)
def test_a_copy_has_the_shape_that_was_asked_for(tmp_path, squared, size):
    (tmp_path / "data").mkdir()
    oblong(tmp_path / "data/a.mp4", Fraction(4, 3))
    out = tmp_path / "copy"
    arguments = ["data", "transcode", str(tmp_path / "data"), str(out), "--workers", "1"]
    assert main([*arguments, "--square_pixels", squared, "--quality", "5"]) == 0
    info = read_video_info(out / "a.mp4")
    assert (info.height, info.width, info.pixel_aspect) == (*size, 1.0)
    row = read_frames(out / "a.mp4", [0])[0, 24, :, 0].astype(int)
    assert np.abs(row - np.linspace(20, 200, size[1])).max() < 8
    other = {"true": "false", "false": "true"}[squared]
    assert main([*arguments, "--square_pixels", other, "--quality", "5"]) == 2
    note = json.loads((out / "transcode.json").read_text())
    note.pop("square_pixels")  # as folders have it that were made before
    (out / "transcode.json").write_text(json.dumps(note))
    assert (
        main([*arguments, "--square_pixels", squared, "--quality", "5"]) == (squared == "true") * 2
    )
