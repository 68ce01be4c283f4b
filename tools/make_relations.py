"""Draw images whose classes are relations of shapes, in ImageNet's layout, for trials.

In each image there are pairs of a disc and a square beside each other. The class says where the
disc is, seen from the square: above, below, beside (left or right) or aslant. Pairs lie anywhere,
and shapes without a partner lie between them, so that no single place of an image tells the class.
Training may mirror images from left to right, unless --relations has left_of or right_of. The same
arguments give the same bytes (with the same version of Pillow).

OUT gets train/CLASS/NUMBER.png and val/CLASS/NUMBER.png.

example:
  python tools/make_relations.py data/relations --size 30 --train 1600
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.relations.places import DISTANCE, RELATIONS
from util.cli import OneLineParser, answer_first, number, run_command, whole_number

CLASSES = ("above", "below", "beside", "aslant")


def get_args_parser() -> OneLineParser:
    parser = OneLineParser(prog="make_relations.py", description=__doc__)
    add = parser.add_argument
    add("out", type=Path, help="folder to make")
    add("--train", type=whole_number(1), default=1600, help="training images of each class")
    add("--val", type=whole_number(1), default=250, help="validation images of each class")
    add("--size", type=whole_number(24), default=30, help="height and width in pixels")
    add(
        "--radius",
        type=number(0.02, 0.2),
        default=0.073,
        help="of a disc, as a share of --size: smaller shapes lie at more places",
    )
    add(
        "--distance",
        type=number(2.1, 10),
        default=DISTANCE,
        help="least distance of a pair's shapes, in radii of a disc",
    )
    add("--pairs", type=whole_number(1, 8), default=3, help="pairs in an image")
    add("--lone", type=whole_number(0, 16), default=2, help="shapes of no pair in an image")
    add("--relations", nargs="+", default=CLASSES, choices=RELATIONS, metavar="RELATION",
        help=f"classes to draw, of {', '.join(RELATIONS)}")  # fmt: skip
    add("--seed", type=whole_number(0), default=0, help="random seed")
    return parser


if __name__ == "__main__":
    answer_first(get_args_parser)

import numpy as np

from tools.relations.picture import draw_shapes
from tools.relations.places import place_shapes
from training.progress.bar import progress
from util.errors import UserError
from util.files import new_folder


def make_split(out: Path, split: str, count: int, args: argparse.Namespace) -> None:
    """Write `count` images of each class of one split.

    Raises:
        UserError: there is no room for that many shapes.
    """
    for relation in args.relations:
        (out / split / relation).mkdir(parents=True)
    classes = len(args.relations)
    for i in progress(range(count * classes), f"{split} images"):
        number, relation = i // classes + 1, args.relations[i % classes]
        # One random stream an image: another --train does not change the images of both.
        rng = np.random.default_rng([args.seed, split == "val", i])
        shapes = place_shapes(rng, 1 / args.radius, relation, args.pairs, args.lone, args.distance)
        if shapes is None:
            raise UserError(
                f"--pairs {args.pairs} --lone {args.lone}: there is no room for that many shapes; "
                "ask for fewer"
            )
        picture = draw_shapes(rng, shapes, args.size, args.radius)
        picture.save(out / split / relation / f"{number:06}.png")


def check_relations(names: Sequence[str]) -> None:
    """Check that no image could be in two classes.

    Raises:
        UserError: a relation is named twice, or is part of another one.
    """
    if len(set(names)) < len(names):
        raise UserError("--relations: a relation is named twice")
    if "beside" in names and {"left_of", "right_of"} & set(names):
        raise UserError("--relations: left_of and right_of are beside; leave out one or the other")


def main() -> None:
    args = get_args_parser().parse_args()
    check_relations(args.relations)
    with new_folder(args.out) as part:
        make_split(part, "train", args.train, args)
        make_split(part, "val", args.val, args)
    counts = f"{args.train} training and {args.val} validation images"
    print(f"{args.out}: {counts} of each of {len(args.relations)} classes")


if __name__ == "__main__":
    run_command(main)
