"""Pictures as they are displayed: orientation, depth, and what has no known range."""

import numpy as np
import pytest
from PIL import Image

from videohpm.data import DecodeError, Sample, load_image, read_image
from videohpm.data.scan import check_image

TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_pictures_are_turned_as_their_tag_says(picture, tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif, lossless=True)
    wanted = TURNED[orientation](picture)
    assert np.array_equal(read_image(path), wanted)
    assert np.array_equal(load_image(Sample(str(path)))[0].permute(1, 2, 0).numpy(), wanted)
    found = check_image(str(path))
    assert (found["height"], found["width"]) == wanted.shape[:2] and found["reason"] is None


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.array([[0, 257, 32768, 65535]], np.uint16)).save(path)
    assert read_image(path).tolist() == [[[v] * 3 for v in (0, 1, 128, 255)]]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_of_no_known_range_are_refused_everywhere(tmp_path, dtype):
    path = tmp_path / "a.tif"
    Image.fromarray(np.linspace(0, 1000, 40).reshape(5, 8).astype(dtype)).save(path)
    with pytest.raises(DecodeError, match="whose range is not known"):
        read_image(path)
    assert "whose range is not known" in check_image(str(path))["reason"]


@pytest.mark.parametrize("error", [TypeError("x"), KeyError(1), IndexError("a\nb")])
def test_whatever_pillow_raises_costs_the_file(picture, tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    Image.fromarray(picture).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(DecodeError, match="not readable as an image"):
        read_image(tmp_path / "a.png")
    assert "\n" not in check_image(str(tmp_path / "a.png"))["reason"]


def test_damaged_tags_are_no_damage_to_the_picture(picture, tmp_path, monkeypatch):
    def fail(*arguments):
        raise TypeError("a tag")

    Image.fromarray(picture).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)
