"""Train or evaluate DeiT with image relative position encoding on folders of images.

    python classification/main.py --model deit_tiny_patch16_224_ctx_product_50_shared_k \
        --data-path DIR --output_dir OUT
"""

import sys
from pathlib import Path

# Run as a file, from any folder: modules are found from the project's root.
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from util.cli import run_command


def cli() -> None:
    """Read the command line, and do what it says."""
    from classification.run import cli  # in here, where a missing timm is an error of one line

    cli()


if __name__ == "__main__":
    run_command(cli)
