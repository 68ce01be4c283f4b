"""Read images, and say which cannot be read."""

import sys
from pathlib import Path

from PIL import Image

from datasets.image_inputs import read_image
from util.errors import UserError


def read_or_report(path: Path) -> Image.Image | None:
    """Read an image; if it cannot be read, print the error and return None."""
    try:
        return read_image(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return None
