"""Annotations with one error each, and the message that a user should get."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from pycocotools import mask as coco_mask

from datasets.coco import CocoDetection
from datasets.transforms import make_coco_transforms

WIDTH, HEIGHT = 40, 30
GOOD = {"category_id": 1, "bbox": [5, 5, 10, 10]}
RUNS = [0, 60, HEIGHT * WIDTH - 60]
GONE, CUT, TEXT = "gone", "cut", "text"  # what may be wrong with an image's file


@dataclass
class Case:
    """One image with its annotations, and the one thing that is wrong with it.

    Attributes:
        words: the error, after the annotation file's name; IMAGE, NAME and FOLDER stand for the
            image's id, name and folder. Its annotations have the ids IMAGE * 10, IMAGE * 10 + 1.
        annotations: changes to a good annotation, for each.
        image: changes to the image's entry.
        file: what is wrong with the file, if something is.
        late: the error is found only when the image is read.
    """

    words: str
    annotations: list[dict] = field(default_factory=list)
    image: dict = field(default_factory=dict)
    file: str = ""
    late: bool = True


def of_box(box: list, words: str, late: bool = False, **image) -> Case:
    return Case(f"annotation IMAGE0 of image IMAGE has {words}", [{"bbox": box}], image, late=late)


def of_outline(segmentation: object, words: str) -> Case:
    words = f"annotation IMAGE1 of image IMAGE has {words}"
    good = {"segmentation": [[1, 1, 9, 1, 9, 9]]}
    return Case(words, [good, {"segmentation": segmentation}])


def runs(counts: object, size: object = (HEIGHT, WIDTH)) -> dict:
    return {"counts": counts, "size": list(size) if isinstance(size, tuple) else size}


def compressed(counts: list[int]) -> str:
    """By pycocotools."""
    plain = {"counts": counts, "size": [HEIGHT, WIDTH]}
    return coco_mask.frPyObjects(plain, HEIGHT, WIDTH)["counts"].decode()


IN_IMAGE = f"its image, which is {HEIGHT} high and {WIDTH} wide"
NO_SIZE = {"height": None, "width": None}
CASES = {
    "missing": Case("image IMAGE: NAME: image missing from FOLDER", file=GONE),
    "truncated": Case("image IMAGE: FOLDER/NAME: not a readable image (", file=CUT),
    "text": Case(
        "image IMAGE: FOLDER/NAME: not a readable image (of no known format)", file=TEXT
    ),
    "size": Case(
        f"image IMAGE has height {HEIGHT} and width 39, but NAME is {HEIGHT} high and {WIDTH} wide",
        image={"width": 39},
    ),
    "height": Case(
        f"image IMAGE has height 7, but NAME is {HEIGHT} high and {WIDTH} wide",
        image={"height": 7, "width": None},
    ),
    "outside": of_box([41, 5, 4, 8], f"bbox [41, 5, 4, 8] wholly outside {IN_IMAGE}"),
    "at the border": of_box([0, -8, 4, 8], f"bbox [0, -8, 4, 8] wholly outside {IN_IMAGE}"),
    "outside, size not told": of_box(
        [41, 5, 4, 8], f"bbox [41, 5, 4, 8] wholly outside {IN_IMAGE}", late=True, **NO_SIZE
    ),
    "empty and outside": of_box([5, 31, 4, 0], f"bbox [5, 31, 4, 0] wholly outside {IN_IMAGE}"),
    "negative": of_box([5, 5, -1.5, 8], "bbox [5, 5, -1.5, 8] of negative width or height"),
    "nan": of_box([5, math.nan, 4, 8], "bbox [5, nan, 4, 8], which is not finite"),
    "infinite": of_box([5, 5, math.inf, 8], "bbox [5, 5, inf, 8], which is not finite"),
    "three": of_box([5, 5, 8], "bbox [5, 5, 8], not 4 numbers"),
    "digits": of_box(
        [5, 5, 8, 10**400], f"bbox [5, 5, 8, 1{61 * '0'}...{24 * '0'}], not 4 numbers"
    ),
    "area": Case(
        "annotation IMAGE0 of image IMAGE has area nan, not a finite number",
        [{"area": math.nan}],
        late=False,
    ),
    "category": Case(
        "annotation IMAGE1 of image IMAGE has category_id 3, which is none of the file's "
        "categories",
        [{}, {"category_id": 3}],
        late=False,
    ),
    "category text": Case(
        "annotation IMAGE0 of image IMAGE has category_id 'a\\nb', which is not a whole number",
        [{"category_id": "a\nb"}],
        late=False,
    ),
    "class": Case(
        "annotation IMAGE0 of image IMAGE has category_id 90, the model has classes 0 to 9; give "
        "--num_classes 91 or more",
        [{"category_id": 90}],
        late=False,
    ),
    "repeated": Case(
        "annotation 7 of image IMAGE has an id that 2 annotations share",
        [{"id": 7}, {"id": 7}],
        late=False,
    ),
    "two points": of_outline([[1, 1, 9, 1, 9, 9], [1, 1, 9, 9]],
                             "polygon 1, which has 2 points, not 3 or more"),
    "odd": of_outline([[1, 1, 9, 1, 9, 9, 5]],
                      "polygon 0, which has an odd number of coordinates, 7"),
    "letters": of_outline([[1, 1, "9", 1, 9, 9]], "polygon 0, which is no list of numbers"),
    "flat": of_outline([1, 1, 9, 1, 9, 9], "polygon 0, which is no list of numbers"),
    "nan point": of_outline([[1, 1, 9, math.nan, 9, 9]],
                            "polygon 0, which has the point [9, nan], which is not finite"),
    "far point": of_outline([[1, 1, 10**9, 1, 9, 9]],
                            "polygon 0, which has the point [1000000000, 1], far outside its "
                            "image"),
    "no outline": of_outline("abc", "segmentation 'abc', neither polygons nor RLE"),
    "runs' size": of_outline(runs(RUNS, (WIDTH, HEIGHT)),
                             f"RLE of size [40, 30], not its image's [{HEIGHT}, {WIDTH}]"),
    "runs' size is text": of_outline(runs(RUNS, "30x40"),
                                     "RLE of size '30x40', not 2 whole numbers"),
    "sum": of_outline(runs([0, 60, 1139]),
                      "RLE that covers 1199 pixels, not its image's 30 x 40 = 1200"),
    "below 0": of_outline(runs([0, -60, 1260]), "RLE with negative counts"),
    "floats": of_outline(runs([0, 60.5, 1139.5]),
                         "RLE whose counts are neither whole numbers nor a text"),
    "compressed sum": of_outline(runs(compressed([0, 60, 1139])),
                                 "RLE that covers 1199 pixels, not its image's "
                                 "30 x 40 = 1200"),
    "compressed, cut": of_outline(runs(compressed(RUNS)[:-1]),
                                  "RLE whose compressed counts are malformed"),
    "compressed, letters": of_outline(runs("0äö"),
                                      "RLE whose compressed counts are malformed"),
    "compressed, endless": of_outline(runs("o" * 50),
                                      "RLE whose compressed counts are malformed"),
}  # fmt: skip


def write_split(root: Path, cases: dict[str, Case], split: str = "train") -> Path:
    """Write a split with one image for each case; returns the root."""
    folder = root / f"{split}2017"
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, (name, case) in enumerate(cases.items(), start=1):
        entry = {"id": number, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}
        images.append({k: v for k, v in {**entry, **case.image}.items() if v is not None})
        path = folder / entry["file_name"]
        Image.effect_noise((WIDTH, HEIGHT), 50).save(path)
        if case.file == CUT:
            path.write_bytes(path.read_bytes()[:300])
        elif case.file == TEXT:
            path.write_text("no image")
        elif case.file == GONE:
            path.unlink()
        for i, changes in enumerate(case.annotations):
            annotations.append({"id": number * 10 + i, "image_id": number, **GOOD, **changes})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in (1, 2, 90)],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def annotation_file(root: Path) -> Path:
    return root / "annotations" / "instances_train2017.json"


def error_of(root: Path, cases: dict[str, Case], name: str) -> str:
    """Return the whole message of a case, without what Pillow says about a truncated file."""
    words = cases[name].words
    for mark, value in {
        "IMAGE": str(list(cases).index(name) + 1), "NAME": f"{name}.png",
        "FOLDER": str(root / "train2017"),
    }.items():  # fmt: skip
        words = words.replace(mark, value)
    return f"{annotation_file(root)}: {words}"


def training_data(root: Path, **options) -> CocoDetection:
    return CocoDetection(
        root / "train2017", annotation_file(root), make_coco_transforms("flip", 64),
        return_masks=options.pop("return_masks", False), num_classes=10, **options,
    )  # fmt: skip


def has_outlines(case: Case) -> bool:
    return any("segmentation" in annotation for annotation in case.annotations)
