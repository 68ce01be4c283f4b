"""Show what a classifier's class token and patches attend to, and its relative positions (RPE).

With an image it draws for each layer, over the image, the attention of the class token and of the
patches at the points: as the model computes it, without RPE (softmax of q . k), and what RPE adds
to the logits. It measures how local attention is: the mean distance, in patches, of what patches
attend to. In the last layer only the class token is drawn: queries of patches reach no logit there,
and its encoding on keys gives the class token's query the same for all keys. Neither was trained.

The tables show how strong RPE is for a key at each offset around a query, as tools/show_rpe.py has
them: with an image the mean over its patches of what RPE adds to the logits, else the norm of the
bucket's vector; a bias is its own strength.

--output_dir receives tables.png, a layer_NN.png for each layer, locality.png, and the arrays in
rpe.npz, for n layers, m heads (1 for their mean), H heads of the model, t extra tokens, p points
and a map of h x w:
  layers (n), heads (m) text, points (p, 2) x and y, tokens (p, 2) row and column, extent (4): the
      map's left, right, bottom and top edge in pixels of the image,
  attention_NN (t + p, m, h, w); where RPE acts on logits also attention_without_NN and
      attention_term_NN, NN the layer; of the last layer (t, m, h, w),
  distance, distance_without, distance_term (n, H), distance_even,
  radius, tables_q, tables_k, tables_v (layers that have it, m, 2 * radius + 1, 2 * radius + 1).

examples:
  python classification/tools/show_rpe.py output/checkpoint.pth photo.jpg
  python classification/tools/show_rpe.py output/checkpoint.pth photo.jpg --point 320,240
  python classification/tools/show_rpe.py output/checkpoint.pth photo.jpg --click
"""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arguments import add_detector_options
from tools.rpe_inspection.options import heads, numbers, point
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, run_command, whole_number
from util.files import check_exists


# fmt: off
def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="show_rpe.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser, "classifier", before="image")
    add("image", metavar="IMAGE", nargs="?", type=Path, help="an image to look at")
    add("--layers", type=numbers, metavar="0,2", help="all by default")
    add("--heads", type=heads, metavar="mean|all|0,3",
        help="by default mean if all heads share their tables, else all")
    add("--radius", type=whole_number(1), metavar="PATCHES",
        help="of the tables' maps; by default large enough for all buckets that were reached")
    add("--point", type=point, action="append", metavar="X,Y",
        help="pixel of the image whose patch's attention is drawn, may be given several times; the "
        "middle by default")
    add("--click", action="store_true",
        help="open a window, in which a click chooses the point, instead of writing files")
    add("--image_size", type=whole_number(1),
        help="side of the square that the model sees; the checkpoint's by default")
    add("--average", action="store_true", help="take the averaged weights of the checkpoint")
    add("--output_dir", type=Path, default=Path("rpe"), help="folder to write to")
    add("--force", action="store_true", help="overwrite existing files")
    add_detector_options(parser)
    parser.file_checks.append(lambda args: check_exists(args.image))
    return parser
# fmt: on


if __name__ == "__main__":  # a missing timm is an error of one line
    answer_first(get_args_parser, lambda: importlib.import_module("classification"))

import numpy as np

from classification.classifier import load_classifier
from classification.tools.inspection.locality import draw_locality, locality
from classification.tools.inspection.view import ClassifierView, InspectedImage
from datasets.image_inputs import read_image
from tools.rpe_inspection.command import ARRAYS, block_of, write_results
from tools.rpe_inspection.plots import draw_tables
from tools.rpe_inspection.windows import use_windows
from util.errors import UserError
from util.files import check_no_overwrite
from util.machine import keep_freed_memory

TABLES, LOCALITY = "tables.png", "locality.png"


def check_points(inspected: InspectedImage, args: argparse.Namespace) -> None:
    """Raise a UserError for a point that the model does not see."""
    left, right, bottom, top = inspected.grid.extent
    for x, y in args.point or []:
        if not inspected.grid.contains(x, y):
            raise UserError(
                f"--point {x:g},{y:g}: the model sees of {args.image} x from {left:.1f} to "
                f"{right:.1f}, y from {top:.1f} to {bottom:.1f}"
            )


def results_of_image(inspected: InspectedImage, args: argparse.Namespace) -> tuple[dict, dict]:
    """Return figures by file name and arrays; print how local attention is."""
    points = args.point or [inspected.middle]
    figures, arrays = {}, {
        "points": np.array(points),
        "tokens": np.array([inspected.grid.token_at(*each) for each in points]),
        "extent": np.array(inspected.grid.extent),
    }  # fmt: skip
    for layer in inspected.view.layers:
        parts, figures[f"layer_{layer:02}.png"] = inspected.layer_figure(layer, points)
        arrays |= {f"{name}_{layer:02}": part for name, part in parts.items()}
    far = locality(inspected.record, inspected.view.layers)
    for line in far.lines():
        print(line)
    figures[LOCALITY] = draw_locality(far, inspected.title)
    arrays |= {"distance": far.model, "distance_without": far.without, "distance_term": far.term}
    arrays["distance_even"] = np.array(far.even)
    return figures, arrays


def main() -> None:
    args = get_args_parser().parse_args()
    image = None if args.image is None else read_image(args.image)
    for name in ("point", "click", "image_size"):
        if image is None and getattr(args, name):
            raise UserError(f"--{name} needs an image")
    if args.click:
        use_windows("--click")
    keep_freed_memory()
    options = {"img_size": args.image_size} if args.image_size else {}
    classifier = load_classifier(
        args.checkpoint, args.device, args.average, args.trust_checkpoint, **options
    )
    view = ClassifierView(classifier, args.layers, args.heads)
    if not args.click:  # before anything takes long
        pictures = [f"layer_{layer:02}.png" for layer in view.layers]
        for name in (TABLES, ARRAYS, *([LOCALITY, *pictures] if image else [])):
            check_no_overwrite(args.output_dir / name, args.force, "--output_dir")
    if not view.has_rpe:
        message = f"{args.checkpoint}: has no relative position encoding in these layers"
        if image is None:
            raise UserError(f"{message}; give an image to see what its attention looks at")
        print(f"{message}: no {TABLES}")
    inspected = None if image is None else InspectedImage(view, image, args.image.name)
    if inspected is not None:
        check_points(inspected, args)
        if args.click:
            inspected.open_window()
            return

    figures, arrays = results_of_image(inspected, args) if inspected else ({}, {})
    arrays |= {"layers": np.array(view.layers), "heads": np.array(view.heads)}
    if view.has_rpe:
        record, hw = (inspected.record, inspected.grid.hw) if inspected else (None, None)
        tables = view.tables(args.radius, record)
        arrays["radius"] = np.array(tables[0].maps.shape[-1] // 2)
        arrays |= {f"tables_{table.letter}": table.maps for table in tables}
        name = classifier.options.enc_rpe2d
        title = f"{name}: {inspected.title}" if inspected else name
        blocks = [block_of(table) for table in tables]
        figures[TABLES] = draw_tables(blocks, hw, title)
    write_results(args.output_dir, figures, arrays)


if __name__ == "__main__":
    run_command(main)
