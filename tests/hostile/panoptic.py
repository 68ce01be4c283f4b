"""Panoptic data sets with one error each, and the message that a user should get.

Image 1 is panoptic_data.known_picture(), image 2 another.
"""

import io
import json
import math
import struct
import zlib

import numpy as np
from PIL import Image

from datasets.masks import id2rgb
from tests.helpers.panoptic_data import annotation_file, known_picture, random_picture, write_split

ID = "which is not a whole number from 1 to 16777215"


def segment(content, **changes):
    content["annotations"][0]["segments_info"][0].update(changes)


def annotation(content, **changes):
    content["annotations"][0].update(changes)


# name: (breaks the content; what is said after the file's name)
FILES = {
    "no images": (lambda c: c.pop("images"),
                  "not a COCO panoptic annotation file, it has no list 'images'"),
    "no annotations": (lambda c: c.update(annotations={}),
                       "not a COCO panoptic annotation file, it has no list 'annotations'"),
    "an instances file": (lambda c: annotation(c) or (c["annotations"][0].pop("segments_info")
                         ), "not a COCO panoptic annotation file, annotations[0] lacks "
                          "'segments_info'"),
    "no isthing": (lambda c: c["categories"][1].pop("isthing"),
                   "not a COCO panoptic annotation file, categories[1] lacks 'isthing'"),
    "an image's id": (lambda c: c["images"][1].update(id="2"),
                      "images[1] has id '2', not a whole number"),
    "an image's name": (lambda c: c["images"][1].update(file_name=None),
                        "image 2 has file_name None, not a text"),
    "whose": (lambda c: annotation(c, image_id="1"),
              "annotations[0] has image_id '1', not a whole number"),
    "which PNG": (lambda c: annotation(c, file_name=7),
                  "annotations[0] has file_name 7, not the name of a file"),
    "empty name": (lambda c: annotation(c, file_name=""),
                   "annotations[0] has file_name '', not the name of a file"),
    "segments": (lambda c: annotation(c, segments_info={"id": 1}),
                 "annotations[0] has segments_info {'id': 1}, not a list"),
    "a segment": (lambda c: annotation(c, segments_info=[3]),
                  "not a COCO panoptic annotation file, annotations[0].segments_info[0] lacks "
                  "'id'"),
    "no category": (lambda c: annotation(c, segments_info=[{"id": 1}]),
                    "not a COCO panoptic annotation file, annotations[0].segments_info[0] lacks "
                    "'category_id'"),
    "large image id": (lambda c: (c["images"][0].update(id=10**30), annotation(c, image_id=10**30))
                      , "an id or a number in it is too large"),
    "large category": (lambda c: c["categories"][0].update(id=10**30),
                       "an id or a number in it is too large"),
    "a category's name": (lambda c: c["categories"][0].update(name=["cup"]),
                          "categories[0] has name ['cup'], not a text of Unicode"),
    "images twice": (lambda c: c["images"].append({"id": 1, "file_name": "b.png"}),
                     "image id 1 is that of 2 images, 1.png and b.png"),
    "isthing": (lambda c: c["categories"][0].update(isthing=2),
                "category 1 has isthing 2, which is neither 0 nor 1"),
    "isthing text": (lambda c: c["categories"][2].update(isthing="0"),
                     "category 60 has isthing '0', which is neither 0 nor 1"),
    "categories twice": (lambda c: c["categories"].append(dict(c["categories"][0], isthing=0)),
                         "category id 1 is that of 2 categories"),
    "no annotation": (lambda c: c["annotations"].pop(), "image 2 has no annotation"),
    "of no image": (lambda c: c["annotations"].append(dict(c["annotations"][0], image_id=9)),
                    "annotation 1.png is of image 9, which the file does not list"),
    "annotations twice": (lambda c: c["annotations"].append(c["annotations"][0]),
                          "image 1 has 2 annotations"),
    **{f"id {value!r:.30}": (lambda c, value=value: segment(c, id=value),
                             f"segments_info entry 0 of image 1 has id {said}, {ID}")
       for value, said in ((0, "0"), (-3, "-3"), (256**3, "16777216"), ("a\n", "'a\\n'"),
                           (1.0, "1.0"), (None, "None"), ([1], "[1]"), (math.nan, "nan"),
                           (10**30, "1000000000000000000000000000000"))},
    "ids twice": (lambda c: segment(c, id=5), "segment 5 of image 1 has an id that 2 segments "
                  "share"),
    "category text": (lambda c: segment(c, category_id="1"), "segment 16777215 of image 1 has "
                      "category_id '1', which is not a whole number"),
    "unknown category": (lambda c: segment(c, category_id=2), "segment 16777215 of image 1 has "
                         "category_id 2, which is none of the file's categories"),
    "class": (lambda c: (segment(c, category_id=180), c["categories"].append(
        {"id": 180, "name": "x", "isthing": 0})),
        "segment 16777215 of image 1 has category_id 180, the model has classes 0 to 90; give "
        "--num_classes 181 or more"),
}  # fmt: skip


# ---- maps ----


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth: int, colours: int, row: bytes, *chunks: bytes) -> bytes:
    """Return a PNG of 40 x 30 pixels with equal rows."""
    header = struct.pack(">2I5B", 40, 30, depth, colours, 0, 0, 0)
    rows = zlib.compress((b"\0" + row) * 30)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)
            + chunk(b"IDAT", rows) + chunk(b"IEND", b""))  # fmt: skip


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def map_of(ids: np.ndarray) -> bytes:
    return saved(Image.fromarray(id2rgb(ids)))


def with_ids(*ids: int) -> bytes:
    changed = known_picture().ids
    changed[0, : len(ids)] = ids
    return map_of(changed)


EXACT = "ids need RGB or a palette, 8 bits a channel)"
# name: (content of the map of image 1, what is said); None removes it
MAPS = {
    "missing": (None, "image 1: 1.png: image missing from MAPS"),
    "empty": (b"", "image 1: MAPS/1.png: not a readable image (no PNG"),
    "text": (b"404", "image 1: MAPS/1.png: not a readable image (no PNG"),
    "cut": (with_ids()[:120], "image 1: MAPS/1.png: not a readable image ("),
    "a JPEG": (saved(Image.new("RGB", (40, 30)), "JPEG"), "image 1: MAPS/1.png: not a readable "
               "image (no PNG: ids are colours, which other formats change)"),
    "grey": (saved(Image.new("L", (40, 30))),
             f"image 1: MAPS/1.png: not a readable image (its pixels are L: {EXACT}"),
    "grey with alpha": (saved(Image.new("LA", (40, 30))),
                        f"image 1: MAPS/1.png: not a readable image (its pixels are LA: {EXACT}"),
    "16 bits of grey": (saved(Image.new("I;16", (40, 30))), "image 1: MAPS/1.png: not a readable "
                        f"image (its pixels are I;16B: {EXACT}"),
    "16 bits of colour": (png(16, 2, bytes(240)), "image 1: MAPS/1.png: not a readable image "
                          f"(its pixels are RGB;16B: {EXACT}"),
    "a short palette": (png(8, 3, bytes(39) + b"\2", chunk(b"PLTE", bytes(6))),
                        "image 1: MAPS/1.png: not a readable image (its palette lacks colours "
                        "that it uses)"),
    "size": (map_of(known_picture().ids[:, :39]), "image 1 has height 30 and width 40, but "
             "MAPS/1.png is 30 high and 39 wide"),
    "turned": (map_of(known_picture().ids.T), "image 1 has height 30 and width 40, but "
               "MAPS/1.png is 40 high and 30 wide"),
    "a segment of none": (with_ids(6), "image 1: MAPS/1.png has pixels of segment 6, which "
                          "segments_info lacks"),
    "many": (with_ids(256**3 - 2, *range(100, 108), 1), "image 1: MAPS/1.png has pixels of "
             "segment 1, 100, 101, 102, 103 and 5 more, which segments_info lacks"),
}  # fmt: skip


# ---- data with one of them ----


def data(root):
    return write_split(root, [known_picture(), random_picture(0)])


def with_fault(root, name: str) -> str:
    """Write a training split whose annotation file has this error; returns the message."""
    path = annotation_file(data(root))
    change, words = FILES[name]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return f"{path}: {words}"


def with_map(root, name: str) -> str:
    """Write a training split with this map; returns the message, or how it begins."""
    content, words = MAPS[name]
    maps = data(root) / "panoptic" / "panoptic_train2017"
    (maps / "1.png").unlink()
    if content is not None:
        (maps / "1.png").write_bytes(content)
    return f"{annotation_file(root)}: {words}".replace("MAPS", str(maps))
