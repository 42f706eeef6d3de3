"""Files that are not as their headers say, or not as usual: what is read, and what it costs."""

import importlib.util

import numpy as np
import pytest
from odd_videos import (
    X264,
    marked_as_key,
    resized,
    rewrite,
    turning,
    with_cover,
    with_matrix,
)
from painted import HEIGHT, WIDTH, decode_all, encode, numbers, painted_frame

from videohpm.data import DataConfig, VideoDataset, find_samples, scan
from videohpm.data.decode import DecodeError, read_frames, read_video_info, verify
from videohpm.data.readers import READERS, pyav
from videohpm.evaluate.views import EvalProtocol, read_views

FAST = ("torchcodec", "decord")
needs_decord = pytest.mark.skipif(
    importlib.util.find_spec("decord") is None, reason="decord is not installed"
)
X265 = {"x265-params": "keyint=12:log-level=none:pools=none:frame-threads=1:open-gop=0"}
X265_NO_B = {"x265-params": X265["x265-params"] + ":bframes=0"}


# --- key frames ----------------------------------------------------------------------------------


LYING = {
    "h264.mp4": ("libx264", X264, {}),
    "h264_fragments.mp4": ("libx264", X264, {"movflags": "frag_custom+empty_moov"}),
    "h264.mkv": ("libx264", X264, {}),
    "hevc.mp4": ("libx265", X265, {}),
    "hevc_no_b.mp4": ("libx265", X265_NO_B, {}),
    "hevc_no_b.mkv": ("libx265", X265_NO_B, {}),
    "vp9.mp4": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}),
    "hevc.mkv": ("libx265", X265, {}),
}


@pytest.mark.parametrize("name", LYING)
def test_containers_that_call_every_frame_a_key_frame(tmp_path, name):
    codec, options, mux = LYING[name]
    good = encode(tmp_path / "good.mp4", codec, 40, options=options)
    path = rewrite(good, tmp_path / name, marked_as_key, options=mux)
    info = read_video_info(path)
    assert (info.frames, info.reader) == (40, "pyav")
    assert scan.check(str(path))["reader"] == "pyav"
    for i in range(40):
        assert numbers(read_frames(path, [i])) == [i]
    assert numbers(read_frames(path, [3, 17, 30])) == [3, 17, 30]


@needs_decord
@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "hevc_no_b.mp4", "vp9.mp4"])
def test_a_table_of_key_frames_that_is_absent(tmp_path, name):
    codec, options, _ = LYING[name]
    path = encode(tmp_path / name, codec, 40, options=options)
    assert read_video_info(path).reader in FAST
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path = tmp_path / f"without_{name}"
    path.write_bytes(data.replace(b"stss", b"free"))
    assert read_video_info(path).reader == "pyav"
    for i in (39, 8, 3, 20):
        assert numbers(read_frames(path, [i])) == [i]


@needs_decord
def test_a_scan_reads_frames_by_themselves(tmp_path, monkeypatch):
    """Right from frame 0 on, wrong where it seeks: the scan names another reader."""
    path = str(encode(tmp_path / "a.mp4", "libx264", 40, options=X264))
    fast = scan.check(path)["reader"]
    assert fast in FAST

    def shifted(path, indices, reader):
        shift = int(reader == fast and indices[0] > 5)
        return read_frames(path, [min(i + shift, 39) for i in indices])

    monkeypatch.setattr(scan, "read_frames", shifted)
    found = scan.check(path)
    assert found["reader"] == "pyav" and fast in found["note"] and not found["damaged"]


# --- size, orientation, fields, colours ----------------------------------------------------------


# Headers inside the packets, as where parts of a broadcast were joined.
IN_BAND = {"x264-params": X264["x264-params"] + ":repeat-headers=1:bframes=0"}
CHANGES = {
    "turn.mp4": ("libx264", "yuv420p", IN_BAND),
    "turn.mkv": ("libx264", "yuv420p", IN_BAND),
    "turn.ts": ("libx264", "yuv420p", IN_BAND),
    "vp8.webm": ("libvpx", "yuv420p", {"b": "800k", "cpu-used": "8"}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_video_ends_where_its_size_changes(tmp_path, name):
    codec, pix_fmt, options = CHANGES[name]
    parts = [
        resized(tmp_path / f"{i}_{name}", codec, size, 20, pix_fmt, options)
        for i, size in enumerate([(48, 96), (96, 48)])
    ]
    path = rewrite(parts[0], tmp_path / name, more=parts[1:])
    info, damage = verify(path)
    assert "changes after 20 frames" in damage
    assert info == read_video_info(path)
    assert (info.frames, info.height, info.width, info.reader) == (20, 48, 96, "pyav")
    assert read_frames(path, [0, 7, 19]).shape == (3, 48, 96, 3)
    for wanted in ([20], [30], [3, 30]):
        with pytest.raises(DecodeError, match="ends after 20"):
            read_frames(path, wanted)
    assert scan.check(str(path))["damaged"]


@pytest.mark.parametrize("matrix", [
    (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
    (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0),
    (0.99995, 0.01, -0.01, 0.99995),
])  # fmt: skip
def test_all_eight_orientations(tmp_path, matrix):
    path = with_matrix(encode(tmp_path / "a.mp4", "libx264", 15, options=X264), *matrix)
    a, b, c, d = np.round(matrix).astype(int)
    stored = painted_frame(5)
    q, p = np.mgrid[:HEIGHT, :WIDTH]
    x, y = a * p + c * q, b * p + d * q
    upright = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1, 3), np.uint8)
    upright[y - y.min(), x - x.min()] = stored
    info, frames = read_video_info(path), read_frames(path, [5, 9])
    assert frames.shape[1:] == upright.shape == (info.height, info.width, 3)
    assert np.abs(frames[0].astype(int) - upright).mean() < 12
    small = read_frames(path, [5], min_side=24)
    assert small.shape[1:] == (upright.shape[0] // 2, upright.shape[1] // 2, 3)
    assert verify(path) == (info, None)


@pytest.mark.parametrize("degrees", [5, 45, 200])
def test_other_angles_are_refused_by_all(tmp_path, degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    path = encode(tmp_path / "a.mp4", "libx264", 5, options=X264)
    with_matrix(path, cos, sin, -sin, cos)
    for function in (read_video_info, verify, lambda path: read_frames(path, [0])):
        with pytest.raises(DecodeError, match="quarter turn"):
            function(path)


def test_a_matrix_of_zeros_is_none(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", 5, options=X264)
    with_matrix(path, 0, 0, 0, 0)
    assert numbers(read_frames(path, [3])) == [3]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_interlaced_videos_are_read_by_one_reader(tmp_path, name):
    options = {"x264-params": X264["x264-params"] + ":tff=1"}
    path, frames = encode(tmp_path / name, "libx264", 20, options=options), None
    frames = decode_all(path)
    assert read_video_info(path).reader == "pyav"
    assert verify(path) == (read_video_info(path), None)
    for i in (0, 7, 19):
        assert np.array_equal(read_frames(path, [i])[0], frames[i])


def test_an_orientation_that_changes_within_the_stream(tmp_path):
    good = encode(tmp_path / "good.mp4", "libx264", 20, options=X264)
    path = rewrite(good, tmp_path / "a.mp4", turning)
    info, damage = verify(path)
    assert "orientation changes after 1 " in damage and info == read_video_info(path)
    assert read_frames(path, [0]).shape == (1, 96, 48, 3) == (1, info.height, info.width, 3)
    for wanted in ([0, 8], [8]):
        with pytest.raises(DecodeError, match="ends after 1"):
            read_frames(path, wanted)


def test_colours_that_cannot_be_converted_are_found_by_all(tmp_path):
    params = X264["x264-params"] + ":colormatrix=YCgCo"
    path = encode(tmp_path / "a.mp4", "libx264", 5, options={"x264-params": params})
    for function in (read_video_info, verify, lambda path: read_frames(path, [0])):
        with pytest.raises(DecodeError, match="RGB"):
            function(path)


def test_pixel_aspect_ratios_are_not_applied_by_any_reader(tmp_path):
    params = X264["x264-params"] + ":sar=4/3"
    path = encode(tmp_path / "a.mp4", "libx264", 20, options={"x264-params": params})
    info = read_video_info(path)
    assert (info.height, info.width) == (HEIGHT, WIDTH)
    for reader in READERS:
        assert read_frames(path, [3], reader=reader).shape == (1, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("codec", ["libx264", "mjpeg", "libvpx-vp9"])
def test_numbers_stay_those_of_the_frames_behind_damage(tmp_path, codec):
    """A scan ends the video at damage; unscanned, what lies behind keeps its number or fails."""

    def emptied(i, packet):
        import av

        if i != 17:
            return None
        new = av.Packet(bytes(len(bytes(packet))))
        new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
        return new

    options = {"libx264": X264, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    good = encode(tmp_path / "g.mp4", codec, 40, options=options.get(codec), pix_fmt=pix_fmt)
    path = rewrite(good, tmp_path / "a.mp4", emptied)
    info, damage = verify(path)
    assert damage and info.reader == "pyav" and info.frames == len(decode_all(path)) < 40
    assert numbers(read_frames(path, range(10))) == [*range(10)]
    for i in range(info.frames, 40):
        try:
            (number,) = numbers(read_frames(path, [i]))
        except DecodeError as error:
            assert "decoding ends" in error.reason
        else:
            assert number == i


# --- what a reader raises ------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, OSError, KeyError, TypeError, MemoryError])
def test_whatever_a_reader_raises_costs_that_file_only(tmp_path, monkeypatch, error):
    for name in "abcd":
        encode(tmp_path / f"{name}.mp4", "libx264", 20, options=X264)
    read = pyav.read

    def fails(path, positions, target):
        if path.endswith("b.mp4"):
            raise error("two\nlines")
        return read(path, positions, target)

    monkeypatch.setattr(pyav, "read", fails)
    for reader in READERS.values():
        monkeypatch.setattr(reader, "can_read", lambda index, reader=reader: reader is pyav)
    with pytest.raises(DecodeError) as caught:
        read_frames(tmp_path / "b.mp4", [0])
    assert caught.value.path.endswith("b.mp4") and "\n" not in str(caught.value)
    manifest = find_samples(tmp_path)
    dataset = VideoDataset(manifest, DataConfig(root=str(tmp_path)), frames=4, size=(32, 32))
    bad = dataset[0, 1]["bad"]
    assert bad and {file.path for file in bad} == {str(tmp_path / "b.mp4")}
    with pytest.raises(DecodeError):
        read_views(manifest[1], EvalProtocol(frames=4, size=(32, 32)), "video")


@pytest.mark.parametrize("error", [ValueError, OSError, KeyError, TypeError])
def test_whatever_probing_raises_too(tmp_path, monkeypatch, error):
    from videohpm.data import decode

    def fails(path):
        raise error("what")

    monkeypatch.setattr(decode, "video_index", fails)
    for function in (read_video_info, verify, lambda path: read_frames(path, [0])):
        with pytest.raises(DecodeError, match="what"):
            function(tmp_path / "a.mp4")
    assert scan.check(str(tmp_path / "a.mp4"))["reason"]


# --- sound with a picture ------------------------------------------------------------------------


def test_sound_with_a_cover_picture_is_no_video(tmp_path):
    path = with_cover(tmp_path / "a.mp4")
    for function in (read_video_info, verify, lambda path: read_frames(path, [0])):
        with pytest.raises(DecodeError, match="cover"):
            function(path)


def test_a_cover_beside_a_video_is_not_read(tmp_path):
    video = encode(tmp_path / "v.mp4", "libx264", 20, options=X264)
    path = with_cover(tmp_path / "a.mp4", video=video)
    info = read_video_info(path)
    assert (info.frames, info.height, info.width) == (20, HEIGHT, WIDTH)
    assert numbers(read_frames(path, [3, 17])) == [3, 17]


# --- files from elsewhere ------------------------------------------------------------------------

CASES = {
    "audio_cover.mp4": None, "mx8.ts": None, "h264_interlaced.mp4": 25, "mirror_h.mp4": 25,
    "nostss_h264.mp4": 25, "nostss_hevc420.mp4": 25, "sei_rot90.mp4": 1,
    "size_change_vp9.webm": 25, "turn.mp4": 20,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cases_that_went_wrong(shared, name):
    path = shared / "cases" / name
    if not path.is_file():
        pytest.skip(f"no {name} beside the checkout")
    if CASES[name] is None:
        assert scan.check(str(path))["reason"]
        for function in (read_video_info, verify, lambda path: read_frames(path, [0])):
            with pytest.raises(DecodeError):
                function(path)
        return
    found, info = scan.check(str(path)), read_video_info(path)
    assert (found["frames"], found["reader"]) == (info.frames, "pyav") == (CASES[name], "pyav")
    frames = decode_all(path)[: info.frames]
    turn = {"mirror_h.mp4": lambda f: f[:, ::-1], "sei_rot90.mp4": np.rot90}.get(name, np.asarray)
    for i in range(info.frames):
        (read,) = read_frames(path, [i])
        assert np.array_equal(read, turn(frames[i])) and read.shape[:2] == (info.height, info.width)
