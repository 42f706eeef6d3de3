"""What a file is, its first bytes say: neither its suffix nor a manifest's column ``reader``."""

import importlib.util

import numpy as np
import pytest
from odd_videos import X264
from painted import encode, numbers
from PIL import Image, ImageFile

from videohpm.data import DataConfig, DecodeError, VideoDataset, find_samples, read_image, scan
from videohpm.data import container as video_container
from videohpm.data.decode import read_frames, read_video_info
from videohpm.data.readers import READERS

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{part}\n#EXT-X-ENDLIST\n"
SCRIPT = "ffconcat version 1.0\nfile {part}\n"
DASH = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>\n'
SESSION = "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
TEXTS = {"hls": HLS, "marked": "\ufeff" + HLS, "script": SCRIPT, "dash": DASH, "session": SESSION}
READER_NAMES = [None, *READERS]


@pytest.mark.parametrize("what", TEXTS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_texts_that_name_other_files_are_refused_by_every_reader(tmp_path, what, suffix):
    part = encode(tmp_path / "part.ts", "mpeg2video", 20)
    path = tmp_path / f"a.{suffix}"
    path.write_text(TEXTS[what].format(part=part.name))
    for reader in READER_NAMES:
        with pytest.raises(DecodeError, match="which may name other files: refused"):
            read_frames(path, [0, 5], reader=reader, size=(48, 96))
    with pytest.raises(DecodeError, match="refused"):
        read_video_info(path)
    assert "refused" in scan.check(str(path))["reason"]


def test_a_manifest_cannot_have_a_playlist_read(tmp_path):
    encode(tmp_path / "part.ts", "mpeg2video", 20)
    (tmp_path / "a.mp4").write_text(HLS.format(part="part.ts"))
    encode(tmp_path / "b.mp4", "libx264", 20, options=X264)
    (tmp_path / "list.csv").write_text(
        "path,frames,reader,height,width\na.mp4,20,decord,48,96\nb.mp4,20,decord,48,96\n"
    )
    manifest = find_samples(tmp_path, tmp_path / "list.csv")
    dataset = VideoDataset(manifest, DataConfig(root=str(tmp_path)), frames=4, size=(32, 32))
    item = dataset[0, 0]
    assert item["index"] == 1 and "refused" in str(item["bad"])


@pytest.mark.parametrize("name", ["a.avi", "a.ts", "a.flv", "mpeg4.mp4"])
def test_a_reader_that_is_not_of_the_file_s_kind_is_not_asked(tmp_path, name, monkeypatch):
    """Other containers and codecs are known to crash decord; PyAV reads them."""
    if importlib.util.find_spec("decord"):
        import decord

        monkeypatch.setattr(decord, "VideoReader", lambda *a, **k: pytest.fail("decord was asked"))
    else:
        monkeypatch.setattr(READERS["decord"], "available", lambda: None)
    path = encode(tmp_path / name, "flv" if name == "a.flv" else "mpeg4", 20)
    assert numbers(read_frames(path, [0, 7, 13], reader="decord", size=(48, 96))) == [0, 7, 13]


@pytest.mark.parametrize("reader", READER_NAMES)
def test_pictures_that_are_too_large_are_refused_whatever_reader_is_named(
    tmp_path, reader, monkeypatch
):
    path = encode(tmp_path / "a.mp4", "libx264", 20, options=X264)
    monkeypatch.setattr(video_container, "MAX_PIXELS", 48 * 96 - 1)
    monkeypatch.setattr(READERS["decord"], "available", lambda: None)
    with pytest.raises(DecodeError, match="96x48 are too large"):
        read_frames(path, [0, 5], reader=reader, size=(48, 96))


def test_a_picture_called_a_video_and_the_other_way_round(tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    with pytest.raises(DecodeError, match="cannot be opened as a video"):
        read_frames(tmp_path / "a.mp4", [0])
    encode(tmp_path / "b.mp4", "mpeg4", 4).rename(tmp_path / "b.jpg")
    with pytest.raises(DecodeError, match="no known format"):
        read_image(tmp_path / "b.jpg")


def test_a_small_file_of_a_huge_picture_is_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (8200, 8200)).save(path)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(DecodeError, match="8200x8200, more than 67,108,864 pixels"):
        read_image(path)


def test_formats_that_run_programs_are_not_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(DecodeError, match="format EPS, which is not read"):
        read_image(tmp_path / "a.jpg")
