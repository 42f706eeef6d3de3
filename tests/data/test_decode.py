"""Frames by index against a sequential decode, for every sort of file that decord gets wrong."""

import importlib.util
import os
import pickle
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from painted import copy_packets, decode_all, encode, numbers, painted_frame

from videohpm.cli import main
from videohpm.data import decode, readers
from videohpm.data.container import decoded
from videohpm.data.decode import DecodeError, read_frames, read_video_info, verify
from videohpm.data.geometry import UPRIGHT, Orientation
from videohpm.data.index import VideoIndex
from videohpm.data.packets import MP4
from videohpm.data.readers import decord, intra, pyav, torchcodec

needs_decord = pytest.mark.skipif(
    importlib.util.find_spec("decord") is None, reason="decord is not installed"
)

needs_torchcodec = pytest.mark.skipif(
    torchcodec.available() is not None, reason=str(torchcodec.available())
)


@pytest.fixture
def no_torchcodec(monkeypatch):
    monkeypatch.setattr(torchcodec, "available", lambda: "torchcodec is not installed")


X264 = "keyint=12:min-keyint=12:scenecut=0:threads=1"
X265 = "keyint=12:log-level=none:pools=none:frame-threads=1"
VFR = [3 * i + 7 * i % 3 for i in range(40)]


def x264(extra: str = "") -> dict:
    return {"options": {"x264-params": X264 + extra}}


def x265(extra: str = "") -> dict:
    return {"options": {"x265-params": X265 + extra}}


INTRA = ":keyint=1"

# name: (codec, arguments of encode, reader that may read it where torchcodec is not there)
FILES = {
    "closed.mp4": ("libx264", x264(), "decord"),
    "closed.mkv": ("libx264", x264(), "decord"),
    "closed.avi": ("libx264", x264(), "pyav"),
    "closed.ts": ("libx264", x264(), "pyav"),
    "plain.avi": ("libx264", x264(":bframes=0"), "pyav"),
    "open.mp4": ("libx264", x264(":open-gop=1:bframes=3"), "pyav"),
    "open.mkv": ("libx264", x264(":open-gop=1:bframes=3"), "pyav"),
    "refresh.mp4": ("libx264", x264(":intra-refresh=1:bframes=0"), "pyav"),
    "ten_bit.mp4": ("libx264", x264() | {"pix_fmt": "yuv420p10le"}, "pyav"),
    "uneven.mp4": ("libx264", x264() | {"ticks": VFR}, "decord"),
    "late.mp4": ("libx264", x264() | {"ticks": [30 + i for i in range(40)]}, "decord"),
    "cut_by_edit_list.mp4": ("libx264", x264() | {"ticks": [i - 9 for i in range(40)]}, "pyav"),
    "two_streams.mp4": ("libx264", x264() | {"streams": 2}, "pyav"),
    "sound.mp4": ("libx264", x264() | {"audio": True}, "decord"),
    "one_frame.mp4": ("libx264", {"count": 1}, "intra"),
    "intra.mp4": ("libx264", x264(INTRA), "intra"),
    "intra_uneven.mov": ("libx264", x264(INTRA) | {"ticks": VFR}, "intra"),
    "intra_late.mp4": ("libx264", x264(INTRA) | {"ticks": [30 + i for i in range(40)]}, "intra"),
    "intra_cut.mp4": ("libx264", x264(INTRA) | {"ticks": [i - 9 for i in range(40)]}, "intra"),
    "intra_ten_bit.mp4": ("libx264", x264(INTRA) | {"pix_fmt": "yuv420p10le"}, "intra"),
    "intra_two_streams.mp4": ("libx264", x264(INTRA) | {"streams": 2}, "intra"),
    "intra_sound.mp4": ("libx264", x264(INTRA) | {"audio": True}, "intra"),
    "intra_hevc.mp4": ("libx265", x265(":keyint=1"), "intra"),
    "intra_mjpeg.mp4": ("mjpeg", {"pix_fmt": "yuvj420p"}, "intra"),
    "intra.mkv": ("libx264", x264(INTRA), "decord"),
    "hevc.mp4": ("libx265", x265(), "pyav"),
    "hevc_closed.mp4": ("libx265", x265(":open-gop=0"), "decord"),
    "no_b.avi": ("mpeg4", {"b_frames": 0}, "pyav"),
    "b.avi": ("mpeg4", {"b_frames": 2}, "pyav"),
    "b.mp4": ("mpeg4", {"b_frames": 2}, "pyav"),
    "vp8.webm": ("libvpx", {"options": {"b": "800k", "cpu-used": "8"}}, "decord"),
    "vp9.webm": ("libvpx-vp9", {"options": {"deadline": "realtime", "cpu-used": "8"}}, "decord"),
    "mjpeg.avi": ("mjpeg", {"pix_fmt": "yuvj420p"}, "pyav"),
    "b.mpg": ("mpeg2video", {"b_frames": 2}, "pyav"),
    "av1.mp4": ("libsvtav1", {"options": {"preset": "12"}}, "pyav"),
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Encodes a file of FILES once."""
    folder, made = tmp_path_factory.mktemp("videos"), {}

    def encoded(name):
        if name not in made:
            codec, arguments, _ = FILES[name]
            made[name] = encode(folder / name, codec, **arguments)
        return made[name]

    return encoded


def index_lists(count: int) -> list[list[int]]:
    """Strided, single, scattered and repeating reads, as training and tests make them."""
    rng = np.random.default_rng(count)
    strided = [np.minimum(start + 4 * np.arange(6), count - 1) for start in (0, count // 3)]
    single = [[count - 1], [count // 2]]
    scattered = [rng.integers(count, size=5) for _ in range(4)]
    return [[int(i) for i in row] for row in (*strided, *single, *scattered)]


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_a_sequential_decode(make, name):
    path, frames = make(name), decode_all(make(name))
    assert read_video_info(path).frames == len(frames)
    for indices in index_lists(len(frames)):
        read = read_frames(path, indices)
        assert read.dtype == np.uint8 and read.flags.c_contiguous
        for position, frame in zip(indices, read, strict=True):
            assert np.array_equal(frame, frames[position])
        by_pyav = read_frames(path, indices, reader="pyav")
        assert np.array_equal(read, by_pyav)


@pytest.mark.parametrize("name", FILES)
def test_frames_show_their_number(make, name):
    shift = 9 * ("cut" in name)
    if "two_streams" in name:
        shift = 500 * (read_video_info(make(name)).width > 96)
    count = read_video_info(make(name)).frames
    for indices in index_lists(count):
        assert numbers(read_frames(make(name), indices)) == [i + shift for i in indices]


@pytest.mark.parametrize("name", FILES)
def test_past_the_end_is_an_error(make, name):
    with pytest.raises(DecodeError, match=name):
        read_frames(make(name), [0, read_video_info(make(name)).frames])


@needs_decord
@pytest.mark.parametrize("name", FILES)
def test_the_reader_is_the_fast_one_only_where_it_is_right(make, name, no_torchcodec):
    assert read_video_info(make(name)).reader == FILES[name][2]
    assert verify(make(name)) == (read_video_info(make(name)), None)


@needs_torchcodec
@pytest.mark.parametrize("name", FILES)
def test_torchcodec_reads_what_it_was_measured_to_read_right(make, name):
    """Every frame by itself, from the last to the first, and several together."""
    path, frames = str(make(name)), decode_all(make(name))
    reader = "torchcodec" if FILES[name][2] == "decord" or name == "av1.mp4" else FILES[name][2]
    assert read_video_info(path).reader == reader
    assert verify(path) == (read_video_info(path), None)
    if reader == "torchcodec":
        for position in reversed(range(len(frames))):
            assert np.array_equal(torchcodec.read(path, [position], None), [frames[position]])
        for indices in index_lists(len(frames)):
            positions = sorted(set(indices))
            read = torchcodec.read(path, positions, None)
            assert np.array_equal(read, [frames[i] for i in positions])
        assert torchcodec.read(path, [0, len(frames)], None) is None


@needs_torchcodec
@pytest.mark.parametrize("name", ["refresh.mp4", "closed.avi", "closed.ts", "b.avi", "b.mpg"])
def test_torchcodec_alone_would_be_wrong(make, name):
    """Were this to fail, torchcodec would have been mended and the rule could be relaxed."""
    frames = decode_all(make(name))
    wrong = 0
    for position in range(len(frames)):
        read = torchcodec.read(str(make(name)), [position], None)
        wrong += read is None or not np.array_equal(read[0], frames[position])
    assert wrong


def test_readers_are_listed_with_the_reason_where_one_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(decord, "available", lambda: "decord is not installed")
    monkeypatch.setattr(torchcodec, "available", lambda: None)
    assert main(["data", "readers"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(readers.READERS)
    assert lines["decord"] == "not here: decord is not installed"
    assert lines["torchcodec"].startswith("Closed groups of H.264, HEVC")


def test_torchcodec_without_what_it_needs_says_what(monkeypatch):
    """Not installed; installed without FFmpeg (its decoder then raises at the first use)."""
    monkeypatch.setattr(torchcodec, "find_spec", lambda name: None)
    assert "videohpm[torchcodec]" in torchcodec.available.__wrapped__()

    class Broken:
        def __init__(self, source):
            raise RuntimeError("Could not load libtorchcodec. Likely causes: ...")

    monkeypatch.setattr(torchcodec, "find_spec", lambda name: name)
    fake = types.SimpleNamespace(VideoDecoder=Broken)
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", fake)
    reason = torchcodec.available.__wrapped__()
    assert "FFmpeg" in reason and "\n" not in reason


@needs_decord
@pytest.mark.parametrize("name", ["open.mp4", "refresh.mp4", "hevc.mp4", "b.mp4", "plain.avi"])
def test_decord_alone_would_be_wrong(make, name):
    """Were this to fail, decord would have been mended and the rule could be relaxed."""
    wrong = 0
    for start in range(0, 30, 3):
        indices = [start, start + 4, start + 8]
        frames = decord.read(str(make(name)), indices, None)
        wrong += frames is None or numbers(frames) != indices
    assert wrong


@pytest.mark.parametrize("name", ["closed.mp4", "open.mkv", "b.mp4", "hevc.mp4"])
def test_sparse_reads_seek(make, name, monkeypatch):
    """PyAV does not decode from the start where time stamps can be trusted."""
    monkeypatch.setattr(pyav, "_first_frames", None)
    assert numbers(read_frames(make(name), [30, 38], reader="pyav")) == [30, 38]


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name][2] == "intra"])
def test_of_key_frames_alone_only_those_asked_for_are_decoded(make, name, monkeypatch):
    """As a manifest leads to them: the file is not demuxed before either."""
    path, frames = str(make(name)), decode_all(make(name))
    wanted = sorted({0, len(frames) // 3, len(frames) - 1})
    decodes = []
    monkeypatch.setattr(decode, "video_index", None)
    monkeypatch.setattr(pyav, "read", None)
    opened = intra.open_video

    class Counted:
        """A container whose packets are counted."""

        def __init__(self, container):
            self.container = container

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.container.close()

        def __getattr__(self, attribute):
            return getattr(self.container, attribute)

        def demux(self, stream):
            for packet in self.container.demux(stream):
                decodes.append(packet.dts)
                yield packet

    monkeypatch.setattr(intra, "open_video", lambda path: Counted(opened(path)))
    read = read_frames(path, wanted, reader="intra", size=frames[0].shape[:2])
    assert np.array_equal(read, [frames[i] for i in wanted])
    assert len(decodes) == len(wanted)


@pytest.mark.parametrize("name", ["closed.mp4", "open.mp4", "b.avi", "hevc.mp4", "b.mp4"])
def test_a_file_of_other_frames_too_is_not_read_as_one_of_key_frames(make, name):
    """Were a list to say so: another reader reads instead, no frame is another."""
    path, frames = make(name), decode_all(make(name))
    for wanted in ([7], [3, 17, 30], [30, 31, 32]):
        read = read_frames(path, wanted, reader="intra")
        assert np.array_equal(read, [frames[i] for i in wanted])


@pytest.mark.parametrize("rotation", [90, 180])
def test_turned_files_of_key_frames(tmp_path, rotation):
    path = encode(tmp_path / "a.mp4", "libx264", 15, rotation=rotation, **x264(INTRA))
    info, (frame,) = read_video_info(path), read_frames(path, [5])
    assert info.reader == "intra" and frame.shape[:2] == (info.height, info.width)
    assert np.array_equal(frame, np.rot90(decode_all(path)[5], rotation // 90))
    small = read_frames(path, [5], min_side=24)
    assert small.shape[1:3] == (info.height // 2, info.width // 2)


def test_without_decord_everything_still_reads(make, monkeypatch, no_torchcodec):
    monkeypatch.setattr(decord, "available", lambda: "decord is not installed")
    assert read_video_info(make("closed.mp4")).reader == "pyav"
    assert numbers(read_frames(make("closed.mp4"), [3, 30], reader="decord")) == [3, 30]


@pytest.mark.parametrize("rotation", [90, 180, -90])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_rotated_files_are_turned_upright(tmp_path, rotation, suffix):
    path = encode(tmp_path / f"turned.{suffix}", "libx264", 15, rotation=rotation, **x264())
    info, (frame,) = read_video_info(path), read_frames(path, [5])
    upright = np.rot90(painted_frame(5), rotation // 90)
    assert frame.shape == upright.shape == (info.height, info.width, 3)
    assert np.abs(frame.astype(int) - upright).mean() < 12
    assert info.reader == "pyav"


@pytest.mark.parametrize("name", ["open.mp4", "hevc.mp4", "closed.mp4"])
@pytest.mark.parametrize("skip", [5, 12])
def test_files_cut_without_encoding(make, tmp_path, name, skip):
    """The first group lacks what its leading frames refer to: fewer frames decode than stored."""
    path = copy_packets(make(name), tmp_path / "cut.mp4", skip=skip)
    frames = decode_all(path)
    assert read_video_info(path).frames == len(frames) > 0
    for indices in index_lists(len(frames)):
        read = read_frames(path, indices)
        assert all(np.array_equal(f, frames[i]) for f, i in zip(read, indices, strict=True))


@pytest.mark.parametrize("name", ["closed.mkv", "no_b.avi", "fast.mp4"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files_give_what_decodes(make, tmp_path, name, share):
    source = make(name) if name in FILES else None
    if source is None:
        options = {"movflags": "faststart"}
        source = copy_packets(make("closed.mp4"), tmp_path / "whole.mp4", options=options)
    path = tmp_path / f"part_{name}"
    path.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])
    try:
        count = read_video_info(path).frames
    except DecodeError as error:
        assert error.path == str(path) and "\n" not in error.reason
        return
    frames = decode_all(path)
    assert count == len(frames)
    assert np.array_equal(read_frames(path, [count - 1, 0]), [frames[-1], frames[0]])


def test_verify_finds_damage_that_packets_do_not_show(make, tmp_path):
    data = make("closed.mkv").read_bytes()
    rng = np.random.default_rng(0)
    found = 0
    for trial in range(6):
        path, damaged = tmp_path / f"{trial}.mkv", bytearray(data)
        for at in rng.integers(len(data) // 4, len(data) * 9 // 10, size=3):
            damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        info, damage = verify(path)
        assert info.frames == len(decode_all(path))
        if damage is not None:
            found += 1
            assert info.reader == "pyav" and "\n" not in damage
    assert found


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_verify_finds_truncation(make, tmp_path, share):
    whole = copy_packets(
        make("closed.mp4"), tmp_path / "whole.mp4", options={"movflags": "faststart"}
    )
    path = tmp_path / "part.mp4"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    info, damage = verify(path)
    assert info.frames == len(decode_all(path)) < 40
    assert damage is not None


def test_a_replaced_file_is_not_read_by_the_old_index(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", 20, **x264())
    assert read_video_info(path).frames == 20
    encode(path, "libx264", 30, **x264())
    os.utime(path, ns=(1, 1))
    assert read_video_info(path).frames == 30


def test_what_is_no_video(tmp_path):
    missing, text, empty = tmp_path / "missing.mp4", tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("not a video")
    empty.write_bytes(b"")
    for path in (missing, text, empty, tmp_path):
        for function in (read_video_info, verify, lambda path: read_frames(path, [0])):
            with pytest.raises(DecodeError) as caught:
                function(path)
            assert caught.value.path == str(path)
            assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path):
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("mp2", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), "s16", "stereo")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DecodeError, match="no video stream"):
        read_video_info(tmp_path / "sound.mp4")


def test_wrong_requests(make):
    with pytest.raises(ValueError, match="indices"):
        read_frames(make("closed.mp4"), [])
    with pytest.raises(ValueError, match="reader"):
        read_frames(make("closed.mp4"), [0], reader="opencv")
    with pytest.raises(DecodeError, match="-1"):
        read_frames(make("closed.mp4"), [-1])


def test_errors_pass_between_processes():
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "two\nlines")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "two lines", "a.mp4: two lines")


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("demo.mp4", "decord"),
        ("demo_spatiotemporal_det.mp4", "decord"),
        ("dog.mp4", "pyav"),  # MPEG-4
        ("h265_video.mp4", "pyav"),  # open groups
        ("nasa_13013.mp4", "pyav"),  # two video streams
        ("part_0.mp4", "decord"),
        ("test.avi", "pyav"),  # MPEG-4 with packed B-frames
        ("test_video_structuralize.mp4", "decord"),
    ],
)
def test_real_clips(shared, name, reader, no_torchcodec):
    path = shared / "videos" / name
    frames = decode_all(path)
    info = read_video_info(path)
    assert (info.frames, info.height, info.width) == (len(frames), *frames[0].shape[:2])
    if importlib.util.find_spec("decord"):
        assert info.reader == reader
    for indices in index_lists(len(frames)):
        read = read_frames(path, indices)
        assert all(np.array_equal(f, frames[i]) for f, i in zip(read, indices, strict=True))


@pytest.mark.parametrize("name", ["closed.mp4", "open.mkv", "b.avi"])
def test_reduced_frames_are_the_same_frames(make, name):
    indices = [3, 11, 30]
    small = read_frames(make(name), indices, min_side=24)
    assert small.shape == (3, 24, 48, 3)
    assert numbers(small.repeat(2, 1).repeat(2, 2)) == indices
    whole = read_frames(make(name), indices)
    assert np.array_equal(read_frames(make(name), indices, min_side=33), whole)
    means = whole.reshape(3, 24, 2, 48, 2, 3).mean((2, 4))
    assert np.abs(means - small).mean() < 6


def test_reduced_frames_of_a_turned_file(tmp_path):
    path = encode(tmp_path / "turned.mp4", "libx264", 15, rotation=90, **x264())
    small = read_frames(path, [5], min_side=24)
    assert small.shape == (1, 48, 24, 3)
    assert numbers(np.rot90(small, -1, (1, 2)).repeat(2, 1).repeat(2, 2)) == [5]


@needs_decord
def test_a_trusted_size_saves_the_demux_pass(make, monkeypatch, no_torchcodec):
    path, size = make("closed.mp4"), (48, 96)
    wanted = read_frames(path, [30], min_side=40)
    monkeypatch.setattr(decode, "video_index", None)
    known = {"reader": "decord", "size": size}
    assert np.array_equal(read_frames(path, [30], min_side=40, **known), wanted)


@pytest.mark.parametrize(
    ("size", "side", "to"),
    [
        ((720, 1280), 340, (340, 606)),
        ((1280, 720), 340, (606, 340)),
        ((500, 900), 340, None),
        ((510, 510), 340, (340, 340)),
        ((1080, 1081), 341, (342, 342)),
        ((0, 0), 340, None),
    ],
)
def test_reduced_size(size, side, to):
    assert decode.reduced_size(*size, side) == to


@pytest.mark.parametrize("header_lies", [False, True])
def test_a_bomb_costs_no_memory(tmp_path, header_lies):
    """Pictures of 30,000 x 30,000 pixels in 7 kB; the container may say so or claim 96 x 48."""
    import resource

    data = bytearray(encode(tmp_path / "a.avi", "mjpeg", 3, pix_fmt="yuvj420p").read_bytes())
    at = data.find(b"\xff\xc0")
    while at >= 0:
        data[at + 5 : at + 9] = (30000).to_bytes(2, "big") * 2
        at = data.find(b"\xff\xc0", at + 9)
    if not header_lies:
        told = (96).to_bytes(4, "little") + (48).to_bytes(4, "little")
        data = data.replace(told, (30000).to_bytes(4, "little") * 2)
    path = tmp_path / "bomb.avi"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for function in (read_video_info, verify, lambda path: read_frames(path, [0])):
        with pytest.raises(DecodeError):
            function(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


def test_a_clip_larger_than_memory_is_refused(make, monkeypatch):
    monkeypatch.setattr(decode, "MAX_CLIP_BYTES", 10 * 48 * 96 * 3)
    assert len(read_frames(make("closed.mp4"), [*range(10)])) == 10
    with pytest.raises(DecodeError, match="11 frames of 96x48"):
        read_frames(make("closed.mp4"), [*range(11)])


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads cannot be counted here")
def test_a_conversion_starts_no_threads(make):
    """They would be as many as cores, for each frame; a frame keeps its own as long as it lives."""
    frame = next(decoded(str(make("closed.mp4"))))
    before = len(os.listdir("/proc/self/task"))
    pyav.rgb(frame, (24, 48), UPRIGHT)
    assert len(os.listdir("/proc/self/task")) == before


def index_of(**changes) -> VideoIndex:
    """What the demux pass finds in a file that decord reads right, with ``changes``."""
    times = np.arange(4)
    found = VideoIndex(
        pts=times, keys=times[:1], closed_groups=True, container=MP4, codec="h264",
        video_streams=1, height=48, width=96, stored=(48, 96), orientation=UPRIGHT,
        interlaced=False, bits=8, fps=30.0, broken=False, pixel_aspect=1.0,
    )  # fmt: skip
    return replace(found, **changes)


@pytest.mark.parametrize("reader", [decord, torchcodec], ids=["decord", "torchcodec"])
def test_a_reader_may_read_only_what_it_was_seen_to_read_right(reader):
    assert reader.can_read(index_of())
    assert torchcodec.can_read(index_of(codec="av1")) and not decord.can_read(index_of(codec="av1"))
    for changes in (
        {"container": "avi"},
        {"codec": "mpeg4"},
        {"closed_groups": False},
        {"video_streams": 2},
        {"orientation": Orientation(flip_rows=True)},
        {"interlaced": True},
        {"width": 95},
        {"height": 47},
        {"bits": 10},
    ):
        assert not reader.can_read(index_of(**changes)), changes
        assert pyav.can_read(index_of(**changes))


def test_a_reader_is_chosen_in_order_and_only_where_it_is_there(monkeypatch):
    monkeypatch.setattr(torchcodec, "available", lambda: None)
    assert readers.choose_reader(index_of()) == "torchcodec"
    assert readers.choose_reader(index_of(bits=10)) == "pyav"
    monkeypatch.setattr(torchcodec, "available", lambda: "torchcodec is not installed")
    monkeypatch.setattr(decord, "available", lambda: None)
    assert readers.choose_reader(index_of()) == "decord"
    assert readers.choose_reader(index_of(bits=10)) == "pyav"
    monkeypatch.setattr(decord, "available", lambda: "decord is not installed")
    assert readers.choose_reader(index_of()) == "pyav"


def test_pyav_reads_what_another_reader_gives_up(make, monkeypatch, no_torchcodec):
    monkeypatch.setattr(decord, "available", lambda: None)
    monkeypatch.setattr(decord, "read", lambda path, positions, target: None)
    assert read_video_info(make("closed.mp4")).reader == "decord"
    assert numbers(read_frames(make("closed.mp4"), [3, 30])) == [3, 30]
