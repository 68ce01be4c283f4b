"""Train or evaluate DeiT with image relative position encoding on folders of images.

example:
  python classification/main.py --model deit_tiny_patch16_224_ctx_product_50_shared_k \\
      --data-path DIR --output_dir OUT
"""

import importlib
import sys
from pathlib import Path

# Run as a file, from any folder: modules are found from the project's root.
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from classifier_arguments import check_files, get_args_parser
from util.cli import OneLineParser, answer_first, options_given, run_command


def command_parser() -> OneLineParser:
    parser = OneLineParser(description=__doc__, parents=[get_args_parser()])
    parser.file_checks.append(check_files)
    return parser


if __name__ == "__main__":  # a missing timm is an error of one line
    answer_first(command_parser, lambda: importlib.import_module("classification"))

from classification.run import main
from util import distributed as dist


def cli() -> None:
    """Read the command line, and do what it says."""
    parser = command_parser()
    args = parser.parse_args()
    args.given = options_given(parser)
    main(args)
    dist.shut_down()


if __name__ == "__main__":
    run_command(cli)
