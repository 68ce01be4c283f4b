"""Draw a small data set of shapes, in COCO's format or another, for trials without downloads.

The shapes differ in outline only: their colours, sizes, angles and backgrounds are random, thin
lines cross the picture, and a few images hold a crowd of tiny shapes or nothing at all. The same
arguments give the same bytes (with the same version of Pillow).

With --panoptic most backgrounds are patterns, which are the stuff of panoptic annotations.

examples:
  python tools/make_shapes.py data/shapes --train 2000 --val 300
  python tools/make_shapes.py data/other --layout roboflow --classes star arrow moon
  python tools/make_shapes.py data/labels --layout yolo --test 300
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.layouts import COCO, ROBOFLOW, ROBOFLOW_FILE
from tools.shapes.outlines import OUTLINES
from util.cli import OneLineParser, answer_first, number, run_command, whole_number

CLASSES = ("disc", "square", "triangle", "star", "plus")
# Images and annotations of a split, by layout.
LAYOUTS = {
    "coco": COCO,
    "roboflow": {s: (names[0], f"{names[0]}/{ROBOFLOW_FILE}") for s, names in ROBOFLOW.items()},
    "yolo": {s: (f"images/{s}", f"labels/{s}") for s in COCO},
    "voc": {s: ("JPEGImages", f"ImageSets/Main/{s}.txt") for s in COCO},
}


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="make_shapes.py", description=__doc__)
    add = parser.add_argument
    add("out", type=Path, help="folder to make")
    add("--train", type=whole_number(1), default=2000, help="training images")
    add("--val", type=whole_number(1), default=300, help="validation images")
    add("--test", type=whole_number(0), default=0, help="test images")
    add("--size", type=whole_number(32), default=96, help="shorter side in pixels")
    add("--aspect", type=number(1), default=1.0,
        help="sides vary from --size to this many times --size")  # fmt: skip
    add("--seed", type=whole_number(0), default=0, help="random seed")
    add("--panoptic", action="store_true", help="patterned backgrounds, panoptic annotations")
    add("--classes", nargs="+", default=CLASSES, choices=OUTLINES, metavar="SHAPE",
        help=f"shapes to draw, of {', '.join(OUTLINES)}")  # fmt: skip
    add(
        "--layout",
        default="coco",
        choices=LAYOUTS,
        help="of the folder; main.py reads coco and roboflow, tools/convert_data.py yolo and voc",
    )
    return parser


if __name__ == "__main__":
    answer_first(get_args_parser)

import numpy as np
from PIL import Image, ImageDraw

from tools.shapes.annotations import crowd_annotation, polygon_annotation
from tools.shapes.backgrounds import patterned_background, plain_background
from tools.shapes.labels import LABEL_WRITERS
from tools.shapes.outlines import outline
from training.progress.bar import progress
from util.errors import UserError
from util.files import new_folder

OVERSAMPLING = 4  # shapes are drawn this much larger, for anti-aliased edges
EMPTY_SHARE = 0.03
CROWD_SHARE = 0.03


def coverage(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the share of each pixel inside a polygon: (height, width, 1) float32, 0 to 1."""
    large = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    ImageDraw.Draw(large).polygon([tuple(p) for p in (points * OVERSAMPLING).tolist()], fill=255)
    small = large.resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)[..., None] / 255


def add_lines(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the canvas with a few thin lines as distractors."""
    height, width, _ = canvas.shape
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 5)):
        ends = rng.uniform(0, 1, (2, 2)) * (width, height)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        draw.line([tuple(end) for end in ends.tolist()], fill=colour, width=1)
    return np.asarray(image, dtype=np.float64)


def shape_colour(canvas: np.ndarray, where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a colour that differs from the background it will be painted on."""
    background = (canvas * where).sum((0, 1)) / max(where.sum(), 1e-6)
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - background) > 90:
            return colour


def paint(canvas: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint a shape over the canvas, in place; return its coverage."""
    height, width, _ = canvas.shape
    where = coverage(points, height, width)
    colour = shape_colour(canvas, where, rng) + rng.normal(0, 6, (height, width, 1))
    canvas += where * (colour - canvas)
    return where


def overlaps(box: list[float], others: list[list[float]]) -> bool:
    """Return whether `box` (x, y, w, h) and another share a tenth of the smaller one's area."""
    for other in others:
        width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
        height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
        smaller = min(box[2] * box[3], other[2] * other[3])
        if width > 0 and height > 0 and width * height > 0.1 * smaller:
            return True
    return False


def make_crowd(
    canvas: np.ndarray, classes: Sequence[str], rng: np.random.Generator
) -> tuple[dict, np.ndarray]:
    """Paint a crowd; return its annotation and its mask, (height, width) bool."""
    height, width, _ = canvas.shape
    category = int(rng.integers(len(classes)))
    radius = 0.04 * min(height, width)
    middle = rng.uniform(0.3, 0.7, 2) * (width, height)
    covered = np.zeros((height, width), dtype=bool)
    for _ in range(rng.integers(8, 15)):
        centre = middle + rng.normal(0, 2.5 * radius, 2)
        points = outline(classes[category], rng) * radius + centre
        covered |= paint(canvas, points, rng)[..., 0] >= 0.5
    return crowd_annotation(covered, category + 1), covered


def make_image(
    canvas: np.ndarray, classes: Sequence[str], rng: np.random.Generator
) -> tuple[Image.Image, list[dict], np.ndarray]:
    """Draw an image of objects.

    Args:
        canvas: (height, width, 3) float, the background.
        classes: outlines to choose from; the first has category id 1.

    Returns:
        The image; the objects' annotations, without ids; and (height, width) int64, for each pixel
        the number, from 1 on, of the topmost object that covers at least half of it, or 0.
    """
    height, width, _ = canvas.shape
    canvas = add_lines(canvas, rng)
    side = min(height, width)
    annotations, owners = [], np.zeros((height, width), np.int64)
    kind = rng.uniform()
    if kind < CROWD_SHARE:
        crowd, covered = make_crowd(canvas, classes, rng)
        annotations.append(crowd)
        owners[covered] = 1
    if kind < 1 - EMPTY_SHARE:
        count = rng.integers(1, 6)
        for _ in range(10 * count):
            if len(annotations) >= count:
                break
            category = int(rng.integers(len(classes)))
            radius = (
                side * 0.08 * (0.26 / 0.08) ** rng.uniform()
            )  # log-uniform: as many small as large ones
            centre = rng.uniform(radius, np.array([width, height]) - radius)
            points = outline(classes[category], rng) * radius + centre
            annotation = polygon_annotation(points, category + 1)
            if not overlaps(annotation["bbox"], [a["bbox"] for a in annotations]):
                where = paint(canvas, points, rng)[..., 0] >= 0.5
                annotations.append(annotation)
                owners[where] = len(annotations)
    return Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8)), annotations, owners


def make_split(out: Path, split: str, count: int, args: argparse.Namespace) -> None:
    """Write the images and annotations of one split."""
    folder, ann_file = (out / name for name in LAYOUTS[args.layout][split])
    folder.mkdir(parents=True, exist_ok=True)
    ann_file.parent.mkdir(parents=True, exist_ok=True)
    panoptic, make_background = None, plain_background
    if args.panoptic:
        from tools.shapes.panoptic import PanopticSplit  # imports torchvision: 1.5 s

        panoptic, make_background = PanopticSplit(out, split), patterned_background
    images, annotations = [], []
    for i in progress(range(count), f"{split} images"):
        # One random stream an image: another --train does not change the images of both.
        rng = np.random.default_rng([args.seed, list(COCO).index(split), i])
        height, width = (round(args.size * rng.uniform(1, args.aspect)) for _ in range(2))
        background, patterns = make_background(rng, height, width)
        picture, objects, owners = make_image(background, args.classes, rng)
        prefix = f"{split}_" * (args.layout == "voc")  # whose splits share a folder
        name = f"{prefix}{i + 1:012}.jpg"
        picture.save(folder / name, quality=90)
        images.append({"id": i + 1, "file_name": name, "height": height, "width": width})
        for annotation in objects:
            ids = {"id": len(annotations) + 1, "image_id": i + 1}
            annotations.append({**ids, **annotation})
        if panoptic:
            panoptic.add(i + 1, objects, owners, patterns, rng)
    if args.layout in LABEL_WRITERS:
        LABEL_WRITERS[args.layout](out, split, images, annotations, args.classes)
        return
    content = {
        "info": {"description": "coloured shapes on textured grounds"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(args.classes)],
    }
    if args.layout == "roboflow":  # has the project's name as a category
        content["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none"})
    ann_file.write_text(json.dumps(content))
    if panoptic:
        panoptic.write(images, args.classes)


def check_options(args: argparse.Namespace) -> None:
    if len(set(args.classes)) < len(args.classes):
        raise UserError("--classes: a shape is named twice")
    if args.panoptic and (args.layout != "coco" or len(args.classes) > len(CLASSES)):
        raise UserError(f"--panoptic needs --layout coco and at most {len(CLASSES)} --classes")
    if args.panoptic and args.test:
        raise UserError("--panoptic has no test images")


def main() -> None:
    args = get_args_parser().parse_args()
    check_options(args)
    with new_folder(args.out) as part:
        for split in COCO:
            if getattr(args, split):
                make_split(part, split, getattr(args, split), args)
    tested = f", {args.test} test images" * bool(args.test)
    print(f"{args.out}: {args.train} training and {args.val} validation images{tested}")


if __name__ == "__main__":
    run_command(main)
