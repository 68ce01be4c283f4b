"""Data sets that nobody should have to trust: by name, what breaks one, what is said of it.

The good one is that of `write_good`: in COCO's layout, with the images 1 and 2, a.png and b.png.
What is wrong with single annotations stands in annotations.py.
"""

import json
import os
import re
import shutil
from pathlib import Path

from PIL import Image

from tests.hostile.annotations import Case, write_split
from tests.hostile.cases import case

# name: (breaks(data, outside), what the answer has to contain). A function may return options.
DATA = {}
NAN, INF = float("nan"), float("inf")


def write_good(root: Path) -> Path:
    cases = {"a": Case("", [{}]), "b": Case("", [{}, {}])}
    return write_split(write_split(root, cases), cases, "val")


def annotation_path(data: Path) -> Path:
    return data / "annotations" / "instances_train2017.json"


# ---- the annotation file ----


def annotations(name: str, says: str, change) -> None:
    """A change of the content of the training annotations, or other content."""

    @case(DATA, name, says)
    def write(data, outside):
        path = annotation_path(data)
        content = json.loads(path.read_text())
        changed = change(content)
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            path.write_text(changed if isinstance(changed, str) else json.dumps(content))


def content(name: str, says: str, text: str | bytes) -> None:
    annotations(f"annotations: {name}", says, lambda c: text)


def entry(title: str, says: str, kind: str, **values) -> None:
    """Values of the first image, annotation or category."""
    annotations(title, says, lambda c: c[kind][0].update(values))


def lacking(title: str, says: str, kind: str, place: int, key: str) -> None:
    annotations(title, says, lambda c: c[kind][place].__delitem__(key))


JSON = r"instances_train2017\.json: not a readable JSON file \("
KIND = r"instances_train2017\.json: not a COCO annotation file, "
content("empty", JSON, "")
content("cut", JSON, '{"images": [{"id": 1')
content("a bracket", JSON, "{")
content("nested 200,000 deep", JSON, "[" * 200_000 + "]" * 200_000)
content("a number of 10,000 digits", JSON, '{"images": ' + "9" * 10_000 + "}")
content("not UTF-8", JSON, b'{"images": ["\xff"]}')
content("UTF-16", JSON, '{"images": []}'.encode("utf-16"))
content("a picture", JSON, b"\x89PNG\r\n\x1a\n")
content("a list", f"{KIND}it has no list 'images'", "[1, 2]")
content("null", f"{KIND}it has no list 'images'", "null")
content("no annotations", f"{KIND}it has no list 'annotations'", '{"images": []}')
content("images are no list", f"{KIND}it has no list 'images'", '{"images": {"id": 1}}')
content("no categories", "lists no categories, there is nothing to learn",
        '{"images": [], "annotations": [], "categories": []}')  # fmt: skip
annotations("an image that is a number", rf"{KIND}images\[0\] lacks 'id'",
            lambda c: c.update(images=[3]))  # fmt: skip
lacking(
    "an image without a name", rf"{KIND}images\[0\] lacks 'file_name'", "images", 0, "file_name"
)
lacking("an annotation without a box", rf"{KIND}annotations\[1\] lacks 'bbox'", "annotations", 1,
        "bbox")  # fmt: skip
lacking(
    "a category without a name", rf"{KIND}categories\[2\] lacks 'name'", "categories", 2, "name"
)
annotations("an image twice", r"image id 1 is that of 2 images, a\.png and a\.png",
            lambda c: c["images"].append(c["images"][0]))  # fmt: skip
entry("an image of a text as id", r"images\[0\] has id '1', not a whole number", "images", id="1")
entry("an image of an id of NaN", r"images\[0\] has id nan", "images", id=NAN)
entry("an image of an id of 30 digits", "an id or a number in it is too large", "images",
      id=10**30)  # fmt: skip
entry("a height of 30 digits", "an id or a number in it is too large", "images", height=10**30)
entry("a negative height", "image 1 has height -5 and width 40, but", "images", height=-5)
entry("an annotation of 30 digits", "an id or a number in it is too large", "annotations",
      id=10**30)  # fmt: skip
entry("an annotation of a list of images", "annotation 10 has image_id \\[1\\], not a whole number",
      "annotations", image_id=[1])  # fmt: skip
entry("an annotation of None", "annotation 10 has image_id None", "annotations", image_id=None)
entry("a box of a text", r"annotation 10 of image 1 has bbox \[5, 5, 8, '9'\], not 4 numbers",
      "annotations", bbox=[5, 5, 8, "9"])  # fmt: skip
entry("a box of None", "annotation 10 of image 1 has bbox None, not 4 numbers", "annotations",
      bbox=None)  # fmt: skip
entry("an area of a text", "annotation 10 of image 1 has area '9', not a finite number",
      "annotations", area="9")  # fmt: skip
annotations("a box of 1e999", r"annotation 10 of image 1 has bbox \[inf, 1, 2, 3\], which is not",
            lambda c: json.dumps(c).replace("[5, 5, 10, 10]", "[1e999, 1, 2, 3]", 1))  # fmt: skip


def path(name: str, says: str, put) -> None:
    """Something else in the place of the annotation file."""

    @case(DATA, f"annotations: {name}", says)
    def write(data, outside):
        annotation_path(data).unlink()
        put(annotation_path(data))


path("missing", "no such annotation file, nor is there", lambda p: None)
path("a folder", r"instances_train2017\.json: not a regular file", lambda p: p.mkdir())
path("a pipe", r"instances_train2017\.json: not a regular file", os.mkfifo)
path("a device", r"instances_train2017\.json: not a regular file",
     lambda p: p.symlink_to("/dev/zero"))  # fmt: skip
path("a link to itself", r"instances_train2017\.json: no", lambda p: p.symlink_to(p))
path("a link to nothing", "no such annotation file", lambda p: p.symlink_to("nothing"))


# ---- categories ----

TEXT = r"categories\[0\] has name {}, not a text of Unicode"
for value in (["a"], {"a": 1}, 7, None, True, NAN):
    entry(f"a class name that is {json.dumps(value)}", TEXT.format(re.escape(repr(value))),
          "categories", name=value)  # fmt: skip
entry("a class name of half a character", TEXT.format(r"'a\\ud800'"), "categories", name="a\ud800")
entry("a category of a text as id", r"categories\[0\] has id '1', not a whole number",
      "categories", id="1")  # fmt: skip
entry("a category of true as id", r"categories\[0\] has id True, not a whole number", "categories",
      id=True)  # fmt: skip
entry("a category of 30 digits", "an id or a number in it is too large", "categories", id=10**30)
annotations("a category twice", "category id 1 is that of 2 categories",
            lambda c: c["categories"].append({"id": 1, "name": "1"}))  # fmt: skip
annotations("a negative category", "category id -500 is negative",
            lambda c: c["categories"].append({"id": -500, "name": "x"}))  # fmt: skip


# ---- names of images ----


def file_name(name: str, says: str, given: str, archived: bool = False) -> None:
    """A name of the first image; in an archive that is beside the folder, too."""

    @case(DATA, f"a file name {name}", f"instances_train2017.json: image 1: {says}")
    def write(data, outside):
        content = json.loads(annotation_path(data).read_text())
        content["images"][0]["file_name"] = given.format(outside=outside)
        annotation_path(data).write_text(json.dumps(content))
        if archived:
            shutil.make_archive(str(data / "train2017"), "zip", data, "train2017")


file_name("with ../", r"\.\./\.\./outside/secret\.png: the name of an image leads out of",
          "../../outside/secret.png")  # fmt: skip
file_name("with ../ inside", "a/.*: the name of an image leads out of",
          "a/../../../outside/secret.png")  # fmt: skip
file_name("that is absolute", "/.*: the name of an image leads out of", "{outside}/secret.png")
for windows in ("C:\\a.png", "C:a.png", "\\a.png", "\\\\host\\share\\a.png", "..\\a.png",
                "b\\..\\..\\a.png", "b/..\\a.png"):  # fmt: skip
    file_name(f"of Windows, {windows}", ".*: the name of an image leads out of", windows)
for archived in (False, True):
    beside = " and an archive" * archived
    file_name(f"with a zero byte{beside}", r".*train2017/'?a\\x00b'?: not a readable file", "a\0b",
              archived)  # fmt: skip
    file_name(f"of 10,000 letters{beside}", r".*train2017/a+\.\.\.a*: not a readable file",
              "a" * 10_000, archived)  # fmt: skip
    file_name(f"of 3,000 folders{beside}", r".*(not a readable file|image missing from)",
              "n/" * 3000, archived)  # fmt: skip
    file_name(f"with half a character{beside}", r".*\\ud800\.png", "\ud800.png", archived)
    file_name(f"of nothing{beside}", r".*not a regular file", "", archived)
    file_name(f"in an image{beside}", r"a\.png/b\.png: image missing from", "a.png/b.png", archived)
file_name("with a forged line", r"'?b\\nerror: all is well'?: image missing from .*train2017$",
          "b\nerror: all is well")  # fmt: skip
file_name("with control characters", r"'?\\x1b\[2Jb'?: image missing from", "\x1b[2Jb")


# ---- files of images ----


def image(name: str, says: str, put) -> None:
    """Something else in place of the first image: content, or what makes it."""

    @case(DATA, f"an image: {name}", f"instances_train2017.json: image 1.*{says}")
    def write(data, outside):
        file = data / "train2017" / "a.png"
        good = file.read_bytes()
        file.unlink()
        made = put if isinstance(put, bytes) else put(file, good)
        if isinstance(made, bytes):
            file.write_bytes(made)


def saved(kind: str, mode: str = "RGB", value: int = 7):
    """Of the right size, in that format."""
    return lambda file, good: Image.new(mode, (40, 30), value).save(file, kind)


NO_FORMAT = r"a\.png: not a readable image \(of no known format\)"
image("empty", NO_FORMAT, b"")
image("a page of HTML", NO_FORMAT, b"<html>404</html>")
image("an SVG", NO_FORMAT, b"<svg xmlns='http://www.w3.org/2000/svg'/>")
image("an EPS, which is a program", NO_FORMAT, saved("EPS"))
image("an icon", NO_FORMAT, saved("ICO"))
image("a PDF", NO_FORMAT, b"%PDF-1.7")
image("half of its bytes", "image file is truncated",
      lambda file, good: good[: len(good) // 2])  # fmt: skip
image("of no width", "not a readable image", b"P6 0 30 255\n")
image("32 bits of grey", "its 32-bit grey goes from 4000 to 4000", saved("TIFF", "I", 4000))
image("32-bit floats", "its 32-bit grey goes from 0 to 0,", saved("TIFF", "F", 0))
image("turned, of another size", r"has height 30 and width 40, but a\.png is 31 high and 40 wide",
      lambda file, good: Image.new("RGB", (40, 31)).save(
          file, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"))  # fmt: skip
image("a folder", r"a\.png: not a regular file", lambda file, good: file.mkdir())
image("a pipe", r"a\.png: not a regular file", lambda file, good: os.mkfifo(file))
image("a device", r"a\.png: not a regular file", lambda file, good: file.symlink_to("/dev/zero"))
image("a link to itself", r"a\.png: not a readable file \(.*symbolic links",
      lambda file, good: file.symlink_to(file))  # fmt: skip
image("a link to nothing", r"a\.png: image missing from", lambda file, good: file.symlink_to("no"))


def longer_than_allowed(file: Path, good: bytes) -> None:
    with file.open("wb") as written:
        written.write(good)
        written.truncate(715_827_881)


image("715,827,881 bytes", r"has 715827881 bytes, which exceeds the limit of 715827880 bytes",
      longer_than_allowed)  # fmt: skip


@case(DATA, "no images at all", r"train2017: no such image folder, and no .*train2017\.zip either")
def _(data, outside):
    shutil.rmtree(data / "train2017")
