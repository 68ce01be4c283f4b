"""See what relative position encoding a detector has learned, and what its attention looks at.

Without an image it draws the tables: how strong the encoding is for a key at each offset around a
query. For bias tables that is the bias; for contextual ones the norm of the bucket's vector, which
has no sign, for what it adds depends on the image. With an image it is the mean, over all tokens
of the image, of what the encoding adds to the logits: q . vector on keys, k / sqrt(D) . vector on
queries. On values it is always the norm. `cross` is the sum of its two tables. Blank are buckets
that no feature map of the training reached, as the checkpoint's image_size tells: they still hold
random numbers.

With an image it also draws, over the image, the encoder's attention of the tokens at the points:
as the model computes it, without relative positions (softmax of q . k), and what relative positions
add to the logits; and the last decoder layer's attention of each detection, the mean of its heads.
A feature map has a token for 32 x 32 pixels of the resized image: a larger --image_size has more.

--output_dir receives tables.png, attention.png, decoder.png, and the arrays in rpe.npz, for n
layers, m heads (1 for their mean, or for a table that all share), p points and a map of h x w:
  layers (n), heads (m) text, radius, points (p, 2) x and y, tokens (p, 2) row and column,
  tables_q, tables_k, tables_v (n, m, 2 * radius + 1, 2 * radius + 1): those that the model has; the
      key dr rows below and dc columns right of the query is at [..., radius + dr, radius + dc],
      NaN where it is blank,
  attention (p, n, m, h, w); where the encoding acts on logits attention_without, attention_term,
  extent (4): the map's left, right, bottom and top edge in pixels of the image,
  decoder_attention (d, h, w), decoder_boxes (d, 4) x0, y0, x1, y1, decoder_scores, decoder_labels,
      decoder_names (d) of d detections.

examples:
  python tools/show_rpe.py output/checkpoint.pth --heads all
  python tools/show_rpe.py output/checkpoint.pth photo.jpg --point 320,240 --layers 0,5
  python tools/show_rpe.py output/checkpoint.pth photo.jpg --click
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from arguments import add_detector_options
from datasets.images import ImageReader
from datasets.orientation import upright
from detector import Detector, load_detector
from tools.rpe_inspection.attention_maps import look_at
from tools.rpe_inspection.bucket_maps import LETTERS
from tools.rpe_inspection.plots import (
    Block,
    Row,
    draw_attention,
    draw_decoder,
    draw_tables,
    save_figure,
)
from tools.rpe_inspection.token_grid import TokenGrid
from tools.rpe_inspection.view import Table, View, trained_map
from tools.rpe_inspection.windows import on_click, show_windows, use_windows
from util.cli import (
    OneLineParser,
    number,
    run_command,
    whole_number,
)
from util.errors import UserError
from util.files import atomic_write, check_no_overwrite
from util.memory import keep_freed_memory

TABLES, ATTENTION, DECODER, ARRAYS = "tables.png", "attention.png", "decoder.png", "rpe.npz"
STRENGTHS = {
    "bias": "bias, added to the logits",
    "mean": "added to the logits,\nmean over the image's tokens",
    "norm": "norm of the bucket's vector",
}
WRAPPED = 4  # maps side by side, of one layer or one of each layer
Point = tuple[float, float]


def block_of(table: Table, layers: list[int]) -> Block:
    """A table to be drawn: a row for each layer, or wrapped."""
    rows = [
        [(f"layer {i}, {head}", panel) for head, panel in zip(table.heads, maps, strict=True)]
        for i, maps in zip(layers, table.maps, strict=True)
    ]
    if 1 in table.maps.shape[:2]:
        flat = [panel for row in rows for panel in row]
        rows = [flat[start : start + WRAPPED] for start in range(0, len(flat), WRAPPED)]
    title = f"encoding on {LETTERS[table.letter]}"
    return Block(title, STRENGTHS[table.kind], table.kind != "norm", rows)


def rows_of(view: View, points: list[Point], arrays: dict[str, np.ndarray]) -> list[Row]:
    """What `View.attention` gives, to be drawn."""
    parts = [arrays.get(name) for name in ("attention", "attention_without", "attention_term")]
    return [
        Row(f"layer {layer}, {head}", point, *(a if a is None else a[p, i, j] for a in parts))
        for p, point in enumerate(points)
        for i, layer in enumerate(view.layers)
        for j, head in enumerate(view.heads)
    ]


class Shown:
    """An image that goes through the detector of a view.

    Attributes:
        title: of pictures.
        middle: the image's.
    """

    def __init__(self, view: View, picture: Image.Image, name: str):
        batch = view.detector.prepare([picture])
        self.view, self.picture, self.orig_sizes = view, picture, batch.orig_sizes
        self.seen = look_at(view.detector.model, batch.samples)
        self.grid = TokenGrid(self.seen.hw, tuple(batch.sizes[0].tolist()), picture.size[::-1])
        height, width = self.seen.hw
        self.title = f"{name}, seen as {height} x {width} tokens"
        self.middle = (picture.width / 2, picture.height / 2)

    def attention(
        self, points: list[Point], figure: Figure | None = None
    ) -> tuple[dict[str, np.ndarray], Figure | None]:
        """Arrays of the encoder's attention of points, and their picture, on `figure` or anew."""
        tokens = [self.grid.token_at(*point) for point in points]
        arrays = {"points": np.array(points), "tokens": np.array(tokens)}
        if not self.view.layers:
            return arrays, None
        arrays |= self.view.attention(self.seen, tokens)
        rows = rows_of(self.view, points, arrays)
        return arrays, draw_attention(self.picture, self.grid.extent, rows, self.title, figure)

    def decoder(self, threshold: float) -> tuple[dict[str, np.ndarray], Figure]:
        """Arrays of the decoder's attention, and their picture."""
        found, maps = self.view.decoder(self.seen, self.orig_sizes, threshold)
        arrays = {f"decoder_{n}": found[n].numpy() for n in ("boxes", "scores", "labels")}
        arrays |= {"decoder_attention": maps, "decoder_names": np.array(found["names"], dtype=str)}
        title = (
            f"{len(maps)} detection(s) with a score of at least {threshold:g}: attention of the "
            "last decoder layer, mean of its heads"
        )
        return arrays, draw_decoder(self.picture, self.grid.extent, maps, found, title)

    def click(self) -> None:
        """A window that shows the attention of the point that was clicked at last."""
        _, figure = self.attention([self.middle])
        if figure is None:
            raise UserError("--click: the encoder has no layers, and so no attention")

        def act(x: float, y: float) -> None:
            if self.grid.contains(x, y):
                self.attention([(round(x), round(y))], figure)

        on_click(figure, act)
        show_windows()


def show(args: argparse.Namespace, picture: Image.Image | None) -> None:
    detector = load_detector(args.checkpoint, args.device, args.trust_checkpoint)
    encoding, largest = detector.args.enc_rpe2d, trained_map(detector)
    if args.image_size is not None:
        detector = resized(detector, args.image_size)
    view = View(detector, args.layers, args.heads)
    if not view.has_encoding:
        message = f"{args.checkpoint}: has no relative position encoding"
        if picture is None:
            raise UserError(f"{message}; give an image to see what its attention looks at")
        print(f"{message}: no {TABLES}")
    shown = None if picture is None else Shown(view, picture, args.image.name)
    if args.click:
        shown.click()
        return
    arrays = {"layers": np.array(view.layers), "heads": np.array(view.heads)}
    figures = {}
    if view.has_encoding:
        tables = view.tables(args.radius, shown and shown.seen, largest)
        arrays["radius"] = tables[0].maps.shape[-1] // 2
        arrays |= {f"tables_{table.letter}": table.maps for table in tables}
        title = f"{encoding}: {shown.title}" if shown else encoding
        blocks = [block_of(table, view.layers) for table in tables]
        figures[TABLES] = draw_tables(blocks, shown and shown.seen.hw, title)
    if shown:
        arrays["extent"] = np.array(shown.grid.extent)
        for name, (parts, figure) in {
            ATTENTION: shown.attention(args.point or [shown.middle]),
            DECODER: shown.decoder(args.threshold),
        }.items():
            arrays |= parts
            if figure is not None:
                figures[name] = figure
    write(args.output_dir, figures, arrays)


def resized(detector: Detector, image_size: int) -> Detector:
    """The detector, with images resized to another shorter side."""
    args = argparse.Namespace(**{**vars(detector.args), "image_size": image_size})
    return Detector(detector.model, detector.postprocessors, detector.names, args, detector.device)


def write(folder: Path, figures: dict[str, Figure], arrays: dict[str, np.ndarray]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save_figure(figure, folder / name)
        with atomic_write(folder / ARRAYS) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(f"--output_dir {folder}: {error.strerror or error}") from error
    for name in (*figures, ARRAYS):
        print(folder / name)


def numbers(text: str) -> list[int]:
    """Type of an option that takes numbers: 0,2."""
    return list(dict.fromkeys(whole_number(0)(part) for part in text.split(",")))


def heads(text: str) -> str | list[int]:
    """Type of --heads."""
    return text if text in ("mean", "all") else numbers(text)


def point(text: str) -> Point:
    """Type of --point."""
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"must be X,Y in pixels of the image, is {text!r}")
    return number(0)(parts[0]), number(0)(parts[1])


# fmt: off
def get_args_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="show_rpe.py", description=__doc__)
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="the detector's: a path or an https address")
    add("image", metavar="IMAGE", nargs="?", type=Path, help="an image to look at")
    add("--layers", type=numbers, metavar="0,2", help="of the encoder; all if not given")
    add("--heads", type=heads, metavar="mean|all|0,3",
        help="if not given, mean if all heads share their tables, else all")
    add("--radius", type=whole_number(1), metavar="TOKENS",
        help="of the tables' maps; if not given, one at which all show that were reached")
    add("--point", type=point, action="append", metavar="X,Y",
        help="pixel of the image whose attention is drawn, may be given several times; the middle "
        "if not given")
    add("--click", action="store_true",
        help="write nothing but open a window, in which a click says which point")
    add("--image_size", type=whole_number(32),
        help="shorter side that the image is resized to; the checkpoint's if not given")
    add("--threshold", type=number(0, 1), default=0.5, help="least score of a detection")
    add("--output_dir", type=Path, default=Path("rpe"), help="folder of what is written")
    add("--force", action="store_true", help="write over what is there")
    add_detector_options(parser)
    return parser
# fmt: on


def main() -> None:
    args = get_args_parser().parse_args()
    picture = None if args.image is None else read_image(args.image, args.point or [])
    for name in ("point", "click", "image_size"):
        if picture is None and getattr(args, name):
            raise UserError(f"--{name} needs an image")
    if args.click:
        use_windows("--click")
    else:
        written = (TABLES, ATTENTION, DECODER, ARRAYS) if picture else (TABLES, ARRAYS)
        for name in written:
            check_no_overwrite(args.output_dir / name, args.force, "--output_dir")
    keep_freed_memory()
    show(args, picture)


def read_image(path: Path, points: list[Point]) -> Image.Image:
    picture = upright(ImageReader(path.parent).read(path.name))
    for x, y in points:
        if x >= picture.width or y >= picture.height:
            size = f"{picture.width} x {picture.height} pixels"
            raise UserError(f"--point {x:g},{y:g}: {path} has only {size}, counted from 0,0")
    return picture


if __name__ == "__main__":
    run_command(main)
