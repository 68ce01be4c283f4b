"""What commands that show RPE have in common: tables, and files that are written."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from util.errors import UserError
from util.files import atomic_write

from .bucket_maps import LETTERS
from .choice import Table
from .formula_maps import TITLES
from .plots import Block, save_figure

ARRAYS = "rpe.npz"
STRENGTHS = {
    "bias": "bias, added to the logits",
    "mean": "added to the logits,\nmean over the image's tokens",
    "norm": "norm of the bucket's vector",
    "centred": "bias less its mean,\nadded to the logits",
    "cosine": "mean cosine of the angles",
}
MAX_COLUMNS = 4  # of maps of one layer, or of one map for each layer


def block_of(table: Table) -> Block:
    """Return a table as what `draw_tables` draws: a row for each layer, or wrapped."""
    rows = [
        [(f"layer {i}, {head}", panel) for head, panel in zip(table.heads, maps, strict=True)]
        for i, maps in zip(table.layers, table.maps, strict=True)
    ]
    if 1 in table.maps.shape[:2]:
        panels = [panel for row in rows for panel in row]
        rows = [panels[start : start + MAX_COLUMNS] for start in range(0, len(panels), MAX_COLUMNS)]
    title = TITLES.get(table.letter) or f"encoding on {LETTERS[table.letter]}"
    return Block(title, STRENGTHS[table.kind], table.kind != "norm", rows)


def write_results(folder: Path, figures: dict[str, Figure], arrays: dict[str, np.ndarray]) -> None:
    """Write figures by file name, and all arrays to one file; print the paths."""
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
