"""Data sets that nobody should have to trust: by name, what breaks one, what is said of it."""

import json
import os
import shutil
import struct
import zipfile
import zlib

from hostile_cases import case, flip

# name: (breaks(folder with good data, folder outside), what the answer has to contain)
DATA = {}


def annotations(name: str, says: str, change) -> None:
    """A change of the content of the training annotations."""

    @case(DATA, name, says)
    def write(folder, outside):
        path = folder / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        changed = change(content) or content
        path.write_text(changed if isinstance(changed, str) else json.dumps(changed))


def first(content: dict, kind: str = "annotations", **values) -> None:
    content[kind][0].update(values)


NAN, INF = float("nan"), float("inf")
annotations("annotations: cut", "not a readable JSON file", lambda c: json.dumps(c)[:-50])
annotations("annotations: nested 200,000 deep", "not a readable JSON file",
            lambda c: "[" * 200_000 + "]" * 200_000)  # fmt: skip
annotations("annotations: a number of 10,000 digits", "not a readable JSON file",
            lambda c: json.dumps(c)[:-1] + ', "x": ' + "9" * 10_000 + "}")  # fmt: skip
annotations("annotations: a list", "no list 'images'", lambda c: "[1, 2]")
annotations("an id of 30 digits", "too large", lambda c: first(c, id=10**30))
annotations("a box with NaN", "annotation 1", lambda c: first(c, bbox=[NAN, 1, 2, 3]))
annotations("an infinite box", "annotation 1", lambda c: first(c, bbox=[1, 1, INF, 3]))
annotations(
    "a box of 1e999",
    "annotation 1",
    lambda c: json.dumps(c).replace('"bbox": [', '"bbox": [1e999, 1, 2, 3, ', 1),
)
annotations("a box of negative width", "annotation 1", lambda c: first(c, bbox=[9, 9, -2, 3]))
annotations("a box outside", "annotation 1", lambda c: first(c, bbox=[900, 9, 5, 5]))
annotations("a box of three numbers", "annotation 1", lambda c: first(c, bbox=[9, 9, 2]))
annotations("an area that is a text", "annotation 1", lambda c: first(c, area="large"))
annotations("an unknown category", "category", lambda c: first(c, category_id=77))
annotations("a negative category", "category id -500 is negative",
            lambda c: c["categories"].append({"id": -500, "name": "x"}))  # fmt: skip
annotations("an annotation twice", "twice|duplicate|more than once|two annotations",
            lambda c: c["annotations"].append(c["annotations"][0]))  # fmt: skip
annotations("an image twice", "twice|duplicate|more than once|two images",
            lambda c: c["images"].append(c["images"][0]))  # fmt: skip
annotations("a size unlike the image's", "64 high and 64 wide",
            lambda c: first(c, "images", height=65, width=64))  # fmt: skip
annotations("a name that is a number", "file_name", lambda c: first(c, "images", file_name=3))
for what, bad in {
    "with ../": "../../outside/secret.jpg",
    "that is absolute": "{outside}/secret.jpg",
    "with ../ inside": "a/../../../outside/secret.jpg",
}.items():  # fmt: skip

    @case(DATA, f"a file name {what}", "leads out of")
    def _(folder, outside, bad=bad):
        path = folder / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        for image in content["images"]:
            image["file_name"] = bad.format(outside=outside)
        path.write_text(json.dumps(content))


annotations("a file name with a zero byte", "image",
            lambda c: [first({"images": [i]}, "images", file_name="a\0b") for i in c["images"]]
            and c)  # fmt: skip
annotations("a file name of 10,000 letters", "image",
            lambda c: [first({"images": [i]}, "images", file_name="a" * 10_000)
                       for i in c["images"]] and c)  # fmt: skip


@case(DATA, "annotations: not UTF-8", "not a readable JSON file")
def _(folder, outside):
    (folder / "annotations" / "instances_train2017.json").write_bytes(b'{"images": ["\xff"]}')


@case(DATA, "annotations: a folder", "instances_train2017.json")
def _(folder, outside):
    path = folder / "annotations" / "instances_train2017.json"
    path.unlink()
    path.mkdir()


def images(name: str, says: str, content) -> None:
    """All training images are these bytes (of a good one's); None removes them."""

    @case(DATA, name, says)
    def write(folder, outside):
        for path in (folder / "train2017").iterdir():
            made = content(path.read_bytes())
            path.unlink()
            if made is not None:
                path.write_bytes(made)


def png(width: int, height: int) -> bytes:
    """A small file that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))  # fmt: skip


images("images: missing", "image missing from", lambda good: None)
images("images: empty", "not a readable image", lambda good: b"")
images("images: text", "not a readable image", lambda good: b"<html>404</html>")
images("images: half", "not a readable image", lambda good: good[: len(good) // 2])
images("a PNG of 100,000 x 100,000", "100,?000", lambda good: png(100_000, 100_000))
images(
    "a PNG of 2^31 x 2^31", "not a readable image|pixels", lambda good: png(2**31 - 1, 2**31 - 1)
)
images("a PNG without its pixels", "not a readable image", lambda good: png(64, 64))


@case(DATA, "images: a pipe", "image")
def _(folder, outside):
    for path in (folder / "train2017").iterdir():
        path.unlink()
        os.mkfifo(path)


@case(DATA, "no images at all", "no such image folder")
def _(folder, outside):
    shutil.rmtree(folder / "train2017")


def archive(name: str, says: str, change) -> None:
    """The images in train2017.zip, whose bytes are changed."""

    @case(DATA, name, says)
    def write(folder, outside):
        path = folder / "train2017.zip"
        with zipfile.ZipFile(path, "w") as made:
            for image in sorted((folder / "train2017").iterdir()):
                made.write(image, f"train2017/{image.name}")
        shutil.rmtree(folder / "train2017")
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content) or content)


def mark_encrypted(content: bytearray) -> None:
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] |= 1


def other_compression(content: bytearray) -> None:
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] = 97


def damage_members(content: bytearray) -> None:
    for place in range(200, content.index(b"PK\x01\x02"), 100):
        content[place] ^= 1


archive("an archive cut in the middle", "train2017.zip", lambda c: c[: len(c) // 2])
archive("a damaged central directory", "train2017.zip",
        flip(lambda c: c.index(b"PK\x01\x02")))  # fmt: skip
archive("a directory that points elsewhere", "train2017.zip",
        flip(lambda c: c.rindex(b"PK\x05\x06") + 17))  # fmt: skip
archive("damaged members", "train2017.zip", damage_members)
archive("an encrypted archive", "train2017.zip", mark_encrypted)
archive("an unknown compression", "train2017.zip", other_compression)
archive("an archive that is text", "not a readable zip", lambda c: b"PK, I am a zip")


@case(DATA, "an archive with ../ names", "leads out of")
def _(folder, outside):
    path = folder / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    with zipfile.ZipFile(folder / "train2017.zip", "w") as made:
        for image in content["images"]:
            name = "../../outside/" + image["file_name"]
            made.write(folder / "train2017" / image["file_name"], f"train2017/{name}")
            image["file_name"] = name
    path.write_text(json.dumps(content))
    shutil.rmtree(folder / "train2017")


@case(DATA, "a bomb in an archive", "train2017.zip")
def _(folder, outside):
    """A member of 3 GB that takes 3 MB."""
    names = [path.name for path in (folder / "train2017").iterdir()]
    shutil.rmtree(folder / "train2017")
    pieces = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    packed = b"".join(pieces.compress(zeros) for _ in range(3000)) + pieces.flush()
    size = 3000 << 20
    with (folder / "train2017.zip").open("wb") as file:
        entries, places = [], []
        for name in sorted(names):
            member = f"train2017/{name}".encode()
            fields = (20, 0, 8, 0, 0, 0, len(packed), size, len(member), 0)
            places.append(file.tell())
            file.write(struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + member + packed)
            entries.append((fields, member))
            break  # one is enough, the others are missing
        start = file.tell()
        for place, (fields, member) in zip(places, entries, strict=True):
            file.write(struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, place))
            file.write(member)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(entries), len(entries),
                               file.tell() - start, start, 0))  # fmt: skip
    content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    content["images"] = [dict(image, file_name=sorted(names)[0]) for image in content["images"]]
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
