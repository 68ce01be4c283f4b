"""Archives of images from untrusted sources; they are added to the table of data.py."""

import os
import shutil
import struct
import zipfile
import zlib

from tests.hostile.cases import case, flip
from tests.hostile.data import DATA, image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes = bytes(1000)) -> bytes:
    """Return a small PNG that claims to be of this size."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))  # fmt: skip


image("a PNG of 100,000 x 100,000", "10000000000 pixels", png(100_000, 100_000))
image("a PNG of 2^31 x 2^31", "4611686014132420609 pixels", png(2**31 - 1, 2**31 - 1))
image("a PNG without its pixels", "not a readable image", png(40, 30))


def archive(name: str, says: str, change, method: int = zipfile.ZIP_STORED, **members) -> None:
    """Add a case: the images in train2017.zip, with some of its bytes changed."""

    @case(DATA, name, says)
    def write(data, outside):
        path = data / "train2017.zip"
        with zipfile.ZipFile(path, "w", method) as made:
            for file in sorted((data / "train2017").iterdir()):
                content = members.get(file.stem, file.read_bytes())
                made.writestr(f"train2017/{file.name}", content)
        shutil.rmtree(data / "train2017")
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content) or content)


def headers(content: bytearray, local: int, central: int, value: bytes) -> None:
    """Write a value at an offset of each member's header, and at one of its directory entry."""
    for signature, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset : place + offset + len(value)] = value


def directory(offset: int, value: bytes):
    """Write a value into the first entry of the directory alone."""

    def change(content):
        place = content.index(b"PK\x01\x02") + offset
        content[place : place + len(value)] = value

    return change


def damage_members(content: bytearray) -> None:
    for place in range(200, content.index(b"PK\x01\x02"), 100):
        content[place] ^= 1


ZIP = r"train2017\.zip: not a readable zip archive \("
MEMBER = r"train2017\.zip: member train2017/a\.png is damaged or of an unknown kind \("
archive("an archive cut in the middle", ZIP, lambda c: c[: len(c) // 2])
archive("an archive cut at its end", ZIP, lambda c: c[:-3])
archive("an archive that is text", ZIP, lambda c: b"PK, I am a zip")
archive("an archive that is empty", ZIP, lambda c: b"\0")
archive("a damaged directory", ZIP, flip(lambda c: c.index(b"PK\x01\x02")))
archive("a directory that points elsewhere", MEMBER, flip(lambda c: c.rindex(b"PK\x05\x06") + 17))
archive("damaged members", MEMBER, damage_members)
archive("an encrypted archive", f"{MEMBER}.*encrypted", lambda c: headers(c, 6, 8, b"\1"))
archive("an unknown compression", f"{MEMBER}.*compression method",
        lambda c: headers(c, 8, 10, b"\x61"))  # fmt: skip
for offset in (6, 10, 16, 42):
    archive(f"a directory with ones from byte {offset} on", r"train2017\.zip",
            directory(offset, b"\xff" * 4))  # fmt: skip
archive("a member that claims 4 GiB", "a.png has 4294967294 bytes, which exceeds the limit",
        directory(24, struct.pack("<I", 2**32 - 2)))  # fmt: skip
for kind in ("DEFLATED", "BZIP2", "LZMA"):
    archive(f"20 MB that claim to be 100 bytes, {kind.lower()}", MEMBER,
            directory(24, struct.pack("<I", 100)), getattr(zipfile, f"ZIP_{kind}"),
            a=bytes(20_000_000))  # fmt: skip
archive("an archive in an archive", "a.png: not a readable image", lambda c: None,
        a=b"PK\x05\x06" + bytes(18))  # fmt: skip
archive("an archive without members", r"a\.png: image missing from .*train2017\.zip",
        lambda c: b"PK\x05\x06" + bytes(18))  # fmt: skip
archive("70,000 bytes behind an archive", ZIP, lambda c: c + bytes(70_000))


@case(DATA, "an archive that is a pipe", "no such image folder, and no .* either")
def _(data, outside):
    shutil.rmtree(data / "train2017")
    os.mkfifo(data / "train2017.zip")


@case(DATA, "an archive that is a folder", "no such image folder, and no .* either")
def _(data, outside):
    (data / "train2017").rename(data / "train2017.zip")
