"""Find the images that a command line names."""

import glob
from pathlib import Path

from datasets.layouts import SUFFIXES
from util.errors import UserError


def find_images(names: list[str]) -> list[Path]:
    """Return the images of files, folders and patterns, each once, those of a folder sorted.

    Raises:
        UserError: a name stands for no image.
    """
    images: dict[Path, None] = {}  # an ordered set
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
            if not inside:
                raise UserError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
        elif path.exists():
            inside = [path]
        else:
            inside = [p for p in map(Path, sorted(glob.glob(name, recursive=True))) if p.is_file()]
            if not inside:
                raise UserError(f"{name}: no such file or folder, and no file matches the pattern")
        images.update(dict.fromkeys(inside))
    return list(images)
