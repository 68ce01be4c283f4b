"""Show what relative position encoding (RPE) a detector has learned, and what it attends to.

Without an image it draws the tables: how strong RPE is for a key at each offset around a query. For
bias tables that is the bias; for contextual ones the norm of the bucket's vector, which has no
sign, because what it adds depends on the image. With an image it is the mean, over all tokens of
the image, of what RPE adds to the logits: q . vector on keys, k / sqrt(D) . vector on queries. On
values it is always the norm. `cross` is the sum of its two tables. Blank are offsets that no
feature map of the training reached, as the checkpoint's image_size tells: their buckets still hold
their random initial values.

Encodings without tables are drawn likewise: of cpb-log the bias of each head, less its mean; of
rope-axial and rope-mixed the mean cosine of the angles, which is how a logit falls off with the
offset if query and key have equal features.

With an image it also draws, over the image, the encoder's attention of the tokens at the points:
as the model computes it, without RPE (softmax of q . k), and what RPE adds to the logits; and the
last decoder layer's attention of each detection, the mean of its heads; and of a model with
--dec_rpe what the reference box of each detection's query adds to the logits of that layer. A
feature map has a token for 32 x 32 pixels of the resized image (16 x 16 with --dilation or
resnet10_tiny): a larger --image_size gives more.

--output_dir receives tables.png, attention.png, decoder.png, boxes.png, and the arrays in rpe.npz,
for n layers, m heads (1 for their mean, or for a table that all share), p points, a map of h x w:
  layers (n), heads (m) text, radius, points (p, 2) x and y, tokens (p, 2) row and column,
  tables_q, tables_k, tables_v, tables_cpb, tables_rope (n, m, 2 * radius + 1, 2 * radius + 1):
      those that the model has; the key dr rows below and dc columns right of the query is at
      [..., radius + dr, radius + dc], NaN where it is blank,
  attention (p, n, m, h, w); where RPE acts on logits attention_without, attention_term,
  extent (4): the map's left, right, bottom and top edge in pixels of the image,
  decoder_attention (d, h, w), decoder_boxes (d, 4) x0, y0, x1, y1, decoder_scores, decoder_labels,
      decoder_names (d) of d detections; with --dec_rpe also decoder_references (d, 4), boxes, and
      decoder_box_bias (d, m, h, w), what they add to the logits.

examples:
  python tools/show_rpe.py output/checkpoint.pth --heads all
  python tools/show_rpe.py output/checkpoint.pth photo.jpg --point 320,240 --layers 0,5
  python tools/show_rpe.py output/checkpoint.pth photo.jpg --click
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from arguments import add_detector_options
from tools.rpe_inspection.options import heads, numbers, point
from training.start.options import add_checkpoint_argument
from util.cli import OneLineParser, answer_first, number, run_command, whole_number
from util.files import check_exists


# fmt: off
def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="show_rpe.py", description=__doc__)
    add = parser.add_argument
    add_checkpoint_argument(parser, before="image")
    add("image", metavar="IMAGE", nargs="?", type=Path, help="an image to look at")
    add("--layers", type=numbers, metavar="0,2", help="of the encoder; all by default")
    add("--heads", type=heads, metavar="mean|all|0,3",
        help="by default mean if all heads share their tables, else all")
    add("--radius", type=whole_number(1), metavar="TOKENS",
        help="of the tables' maps; by default large enough for all buckets that were reached")
    add("--point", type=point, action="append", metavar="X,Y",
        help="pixel of the image whose attention is drawn, may be given several times; the middle "
        "by default")
    add("--click", action="store_true",
        help="open a window, in which a click chooses the point, instead of writing files")
    add("--image_size", type=whole_number(32),
        help="shorter side that the image is resized to; the checkpoint's by default")
    add("--threshold", type=number(0, 1), default=0.5, help="lowest score of a detection")
    add("--output_dir", type=Path, default=Path("rpe"), help="folder to write to")
    add("--force", action="store_true", help="overwrite existing files")
    add_detector_options(parser)
    parser.file_checks.append(lambda args: check_exists(args.image))
    return parser
# fmt: on


if __name__ == "__main__":
    answer_first(get_args_parser)

import numpy as np
from PIL import Image

from datasets.image_inputs import read_image
from detector import Detector, load_detector
from tools.rpe_inspection.command import ARRAYS, block_of, write_results
from tools.rpe_inspection.inspected_image import InspectedImage
from tools.rpe_inspection.plots import draw_tables
from tools.rpe_inspection.view import AttentionView, largest_training_map
from tools.rpe_inspection.windows import use_windows
from util.errors import UserError
from util.files import check_no_overwrite
from util.machine import keep_freed_memory

TABLES, ATTENTION, DECODER, BOXES = "tables.png", "attention.png", "decoder.png", "boxes.png"


def resized(detector: Detector, image_size: int) -> Detector:
    """Return the detector, but with images resized to another shorter side."""
    args = argparse.Namespace(**{**vars(detector.args), "image_size": image_size})
    return Detector(detector.model, detector.postprocessors, detector.names, args, detector.device)


def check_options(args: argparse.Namespace, image: Image.Image | None) -> None:
    """Raise a UserError before anything takes long."""
    for name in ("point", "click", "image_size"):
        if image is None and getattr(args, name):
            raise UserError(f"--{name} needs an image")
    for x, y in args.point or []:
        if x >= image.width or y >= image.height:
            size = f"{image.width} x {image.height} pixels"
            raise UserError(f"--point {x:g},{y:g}: {args.image} has only {size}, counted from 0,0")
    if args.click:
        use_windows("--click")
        return
    written = (TABLES, ARRAYS) if image is None else (TABLES, ATTENTION, DECODER, BOXES, ARRAYS)
    for name in written:
        check_no_overwrite(args.output_dir / name, args.force, "--output_dir")


def main() -> None:
    args = get_args_parser().parse_args()
    image = None if args.image is None else read_image(args.image)
    check_options(args, image)
    keep_freed_memory()
    detector = load_detector(args.checkpoint, args.device, args.trust_checkpoint)
    rpe_name, largest = detector.args.enc_rpe2d, largest_training_map(detector)
    if args.image_size is not None:
        detector = resized(detector, args.image_size)
    view = AttentionView(detector, args.layers, args.heads)
    if not view.has_rpe:
        where = " in its encoder" if detector.args.dec_rpe else ""
        message = f"{args.checkpoint}: has no relative position encoding{where}"
        if image is None:
            raise UserError(f"{message}; give an image to see what its attention looks at")
        print(f"{message}: no {TABLES}")
    inspected = None if image is None else InspectedImage(view, image, args.image.name)
    if args.click:
        inspected.open_window()
        return

    arrays = {"layers": np.array(view.layers), "heads": np.array(view.heads)}
    figures = {}
    if view.has_rpe:
        tables = view.tables(args.radius, inspected and inspected.record, largest)
        arrays["radius"] = tables[0].maps.shape[-1] // 2
        arrays |= {f"tables_{table.letter}": table.maps for table in tables}
        title = f"{rpe_name}: {inspected.title}" if inspected else rpe_name
        blocks = [block_of(table) for table in tables]
        figures[TABLES] = draw_tables(blocks, inspected and inspected.record.hw, title)
    if inspected:
        arrays["extent"] = np.array(inspected.grid.extent)
        for name, (parts, figure) in {
            ATTENTION: inspected.attention(args.point or [inspected.middle]),
            DECODER: inspected.decoder(args.threshold),
            **({BOXES: inspected.box_bias(args.threshold)} if detector.args.dec_rpe else {}),
        }.items():
            arrays |= parts
            if figure is not None:
                figures[name] = figure
    write_results(args.output_dir, figures, arrays)


if __name__ == "__main__":
    run_command(main)
