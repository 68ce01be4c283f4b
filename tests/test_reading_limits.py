"""Files that claim or hold too much, or that are not what they seem: one line each, at once."""

import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import pytest
from conftest import ROOT
from PIL import Image

from datasets.images import MAX_BYTES, MAX_PIXELS, ImageReader
from util.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val2017").mkdir()
    return tmp_path / "val2017"


def refusal(root, name="a.png") -> str:
    """What reading must say, quickly and in one line."""
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        ImageReader(root).read(name)
    assert time.monotonic() - start < 5 and "\n" not in str(error.value)
    return str(error.value)


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )  # fmt: skip


def png(width: int, height: int) -> bytes:
    """A grey PNG with one row of pixels, which is enough for Pillow: the others are black."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(width + 1))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def write_archive(folder, method=zipfile.ZIP_DEFLATED, content=b"", name="a.png"):
    """The archive beside `folder` with one member, of `content` or the good image."""
    archive = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr(f"{folder.name}/{name}", content or png(8, 1))
    return archive


def change(path, offset: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


def central_directory(path) -> int:
    return path.read_bytes().rindex(b"PK\x01\x02")


# ---- sizes ----


@pytest.mark.parametrize("pillows_bound", [Image.MAX_IMAGE_PIXELS, None])
def test_a_header_that_claims_too_many_pixels(folder, monkeypatch, pillows_bound):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_bound)
    (folder / "a.png").write_bytes(png(100_000, 100_000))
    line = refusal(folder)
    assert str(folder / "a.png") in line and str(MAX_PIXELS) in line
    assert "10000000000 pixels" in line or "100000 x 100000 pixels" in line
    (folder / "b.png").write_bytes(png(8, 1))  # the same, with a size that can be
    assert ImageReader(folder).read("b.png").size == (8, 1)


def test_pillow_does_not_warn_of_large_images(folder):
    """In a fresh process, as pytest has its own filters: above Pillow's bound, below ours."""
    (folder / "a.png").write_bytes(png(10_000, 10_000))
    program = (
        "from datasets.images import ImageReader\n"
        "from util.command_line import run_command\n"
        f"run_command(lambda: ImageReader({str(folder)!r}).read('a.png'))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and result.stderr == ""


def test_a_file_that_is_too_large(folder):
    with (folder / "a.png").open("wb") as file:
        file.write(png(8, 1))
        file.truncate(MAX_BYTES + 1)
    line = refusal(folder)
    assert f"a.png has {MAX_BYTES + 1} bytes" in line and f"limit of {MAX_BYTES} bytes" in line


def test_a_zip_bomb(folder):
    """A member that says how large it is, as those that zip programs write do."""
    archive = folder.with_name("val2017.zip")
    block = bytes(1 << 20)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("val2017/a.png", "w") as member:
            for _ in range(MAX_BYTES // len(block) + 1):
                member.write(block)
        file.writestr("val2017/b.png", png(8, 1))
    folder.rmdir()
    assert archive.stat().st_size < MAX_BYTES / 100
    line = refusal(folder)
    assert f"{archive}: member val2017/a.png has" in line and f"limit of {MAX_BYTES}" in line
    assert ImageReader(folder).read("b.png").size == (8, 1)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_that_claims_little(folder, method):
    archive = write_archive(folder, method, bytes(20_000_000))
    change(archive, central_directory(archive) + 24, struct.pack("<I", 100))
    assert "member val2017/a.png is damaged" in refusal(folder)


def test_a_member_that_claims_too_much_is_not_read(folder):
    archive = write_archive(folder)
    change(archive, central_directory(archive) + 24, struct.pack("<I", 2**32 - 2))
    assert f"has {2**32 - 2} bytes, which exceeds the limit of {MAX_BYTES}" in refusal(folder)


# ---- archives ----


def test_an_encrypted_member(folder):
    archive = write_archive(folder)
    for start, offset in ((0, 6), (central_directory(archive), 8)):  # flags of both headers
        change(archive, start + offset, struct.pack("<H", 1))
    assert "member val2017/a.png" in refusal(folder) and "encrypted" in refusal(folder)


def test_an_unknown_compression_method(folder):
    archive = write_archive(folder)
    for start, offset in ((0, 8), (central_directory(archive), 10)):
        change(archive, start + offset, struct.pack("<H", 97))
    line = refusal(folder)
    assert "member val2017/a.png" in line and "compression method" in line


@pytest.mark.parametrize("offset", [0, 6, 10, 16, 42])
def test_a_damaged_central_directory(folder, offset):
    archive = write_archive(folder)
    change(archive, central_directory(archive) + offset, b"\xff\xff\xff\xff")
    assert str(archive) in refusal(folder)


def test_an_archive_cut_short(folder):
    archive = write_archive(folder)
    archive.write_bytes(archive.read_bytes()[:-30])
    assert f"{archive}: not a readable zip archive" in refusal(folder)


def test_a_member_with_bytes_of_its_own(folder):
    archive = write_archive(folder, zipfile.ZIP_STORED)
    change(archive, archive.read_bytes().index(b"IDAT") + 6, b"\0\0\0")
    assert "member val2017/a.png is damaged" in refusal(folder)


# ---- names and kinds of files ----


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    "name", ["a\0b.png", "n" * 300, "n/" * 3000, "\ud800.png", "a\nb.png", "", ".", "a.png/b.png"]
)
def test_names_that_no_image_can_have(folder, name, archived):
    (folder / "a.png").write_bytes(png(8, 1))
    if archived:
        write_archive(folder)
    line = refusal(folder, name)
    assert line.isprintable()


@pytest.mark.parametrize(
    "name", ["C:\\a.png", "C:a.png", "\\a.png", "\\\\host\\share\\a.png", "..\\a.png",
             "b\\..\\..\\a.png", "b/..\\a.png"]
)  # fmt: skip
def test_names_that_lead_out_on_windows(folder, name):
    """Refused everywhere: an annotation file means the same on every system."""
    assert "leads out of" in refusal(folder, name)


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "a.png")
    assert f"{folder / 'a.png'}: not a regular file" in refusal(folder)


def test_a_device_is_not_read(folder):
    (folder / "a.png").symlink_to("/dev/zero")
    assert "not a regular file" in refusal(folder)


def test_a_link_to_an_image_elsewhere_is_followed(folder, tmp_path):
    (tmp_path / "elsewhere.png").write_bytes(png(8, 1))
    (folder / "a.png").symlink_to(tmp_path / "elsewhere.png")
    assert ImageReader(folder).read("a.png").size == (8, 1)


def test_programs_are_not_run_for_a_format(folder):
    """Pillow hands PostScript to another program."""
    Image.new("RGB", (8, 8)).save(folder / "a.png", "EPS")
    assert "of no known format" in refusal(folder)
