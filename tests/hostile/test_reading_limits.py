"""Files that claim or hold too much: one line each, at once.

What else may be wrong with images and archives stands in data.py and archives.py.
"""

import io
import runpy
import time
import warnings
import zipfile

import pytest
from PIL import Image

from datasets import images
from datasets.images import ImageReader
from util.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val2017").mkdir()
    return tmp_path / "val2017"


def refusal(root, name="a.png") -> str:
    """Return the error of reading an image, which has to come quickly and in one line."""
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        ImageReader(root).read(name)
    assert time.monotonic() - start < 5 and "\n" not in str(error.value)
    return str(error.value)


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (width, height)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pillows_bound", [500, None])
def test_a_header_that_claims_too_many_pixels(folder, monkeypatch, pillows_bound):
    """The limit holds whatever Pillow's own is set to."""
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_bound)
    (folder / "a.png").write_bytes(png(40, 26))
    line = refusal(folder)
    assert str(folder / "a.png") in line
    assert "1040 pixels" in line or "40 x 26 pixels, which exceeds the limit of 1000" in line
    (folder / "b.png").write_bytes(png(40, 25))
    assert ImageReader(folder).read("b.png").size == (40, 25)


def test_pillow_does_not_warn_of_large_images(folder, monkeypatch):
    """Above half of its bound; the module's own filter comes after pytest's."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (folder / "a.png").write_bytes(png(15, 8))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with Image.open(folder / "a.png"):
            pass
        reader = runpy.run_module("datasets.images")["ImageReader"]
        assert reader(folder).read("a.png").size == (15, 8)
    large = [w for w in said if w.category is Image.DecompressionBombWarning]
    assert len(large) == 1  # Pillow alone has warned


def test_the_largest_file_that_is_read(folder, monkeypatch):
    content = png(8, 1)
    monkeypatch.setattr(images, "MAX_BYTES", len(content) + 5)
    (folder / "a.png").write_bytes(content + bytes(5))
    assert ImageReader(folder).read("a.png").size == (8, 1)
    (folder / "a.png").write_bytes(content + bytes(6))
    assert f"a.png has {len(content) + 6} bytes, which exceeds the limit of" in refusal(folder)


def test_a_zip_bomb(folder, monkeypatch):
    """A member that says how large it is, as those that zip programs write do."""
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 20)
    archive = folder.with_name("val2017.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("val2017/a.png", bytes((1 << 20) + 1))
        file.writestr("val2017/b.png", png(8, 1))
    folder.rmdir()
    assert archive.stat().st_size < (1 << 20) / 100
    line = refusal(folder)
    assert f"{archive}: member val2017/a.png has 1048577 bytes" in line
    assert "limit of 1048576" in line
    assert ImageReader(folder).read("b.png").size == (8, 1)


def test_a_link_to_an_image_elsewhere_is_followed(folder, tmp_path):
    (tmp_path / "elsewhere.png").write_bytes(png(8, 1))
    (folder / "a.png").symlink_to(tmp_path / "elsewhere.png")
    assert ImageReader(folder).read("a.png").size == (8, 1)


def test_bytes_behind_an_archive_are_no_fault(folder):
    """Some copies append bytes; with more than 64 KiB the file is not an archive."""
    archive = folder.with_name("val2017.zip")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("val2017/a.png", png(8, 1))
    with archive.open("ab") as file:
        file.write(b"x" * 1000)
    assert ImageReader(folder).read("a.png").size == (8, 1)
