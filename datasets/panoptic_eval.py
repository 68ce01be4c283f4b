"""COCO's panoptic quality, over what all processes found."""

import io
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from util.distributed import broadcast_from_main, gather_to_main, is_main_process
from util.errors import UserError
from util.files import atomic_write

from .masks import id2rgb
from .scoring.panoptic import ImageMatches, compare, format_quality, panoptic_quality

# How log.txt names the rows of the table.
ROWS = {"PQ_all": "All", "PQ_th": "Things", "PQ_st": "Stuff"}


class Truth(Protocol):
    """A data set with panoptic annotations.

    Attributes:
        annotations: its `categories` are dicts with id, name and isthing.
    """

    annotations: Any

    def truth(self, image_id: int) -> tuple[np.ndarray, list[dict]]:
        """Return segment ids (H, W) int32, and the segments."""


class PanopticEvaluator:
    """Computes panoptic quality: matches images as they come, and counts on the main process.

        evaluator.update(...)                    for each batch
        evaluator.synchronize_between_processes()
        evaluator.summarize()
        evaluator.save(folder)                   if wanted

    Images that were never given do not count.

    Args:
        truth: what to compare with.
        keep_maps: keep the predicted maps for `save`.

    Attributes:
        stats: the table's rows, {"PQ_all", "PQ_th", "PQ_st"}, each {"pq", "sq", "rq", "n"}, on
            every process (after `summarize`).
        by_category: by category id {"pq", "sq", "rq", "tp", "fp", "fn"}, as `stats`.
    """

    def __init__(self, truth: Truth, keep_maps: bool = False):
        self.truth = truth
        self.keep_maps = keep_maps
        self.matches: dict[int, ImageMatches] = {}
        self.maps: dict[int, tuple[bytes, list[dict]]] = {}
        self.stats: dict[str, dict] = {}
        self.by_category: dict[int, dict] = {}

    def update(self, predictions: dict[int, dict]) -> None:
        """Add images.

        Args:
            predictions: by image id {"ids": (H, W) int32, array or tensor, VOID where there is no
                segment, "segments_info": dicts of plain numbers with id, category_id, isthing and
                area}; H and W are those of the image's file.

        Raises:
            ValueError: see `compare`.
        """
        for image_id, prediction in predictions.items():
            ids, segments = prediction["ids"], prediction["segments_info"]
            ids = ids.cpu().numpy() if isinstance(ids, Tensor) else ids
            self.matches[image_id] = compare(*self.truth.truth(image_id), ids, segments)
            if self.keep_maps:
                self.maps[image_id] = _png(ids), segments

    def synchronize_between_processes(self) -> None:
        gathered = gather_to_main((self.matches, self.maps)) or []
        matches = {i: match for part, _ in gathered for i, match in part.items()}
        maps = {i: map_ for _, part in gathered for i, map_ in part.items()}
        # Sorted, so that sums of floats do not depend on which process an image was on.
        self.matches, self.maps = dict(sorted(matches.items())), dict(sorted(maps.items()))

    def summarize(self, table: bool = True) -> None:
        """Compute the numbers and send them to all processes.

        Args:
            table: print the table, too (main process).
        """
        quality = None
        if is_main_process():
            quality = panoptic_quality(self.matches.values(), self.truth.annotations.categories)
            if table:
                print(format_quality(quality[0]), flush=True)
        rows, self.by_category = broadcast_from_main(quality)
        self.stats = {name: rows[row] for name, row in ROWS.items()}

    def save(self, folder: Path) -> None:
        """Write COCO's panoptic results (main process): PNGs, at last predictions.json.

        Raises:
            UserError: the folder cannot be made or written to.
        """
        if not is_main_process():
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            table = folder / "predictions.json"
            table.unlink(missing_ok=True)  # an old one would list other maps
            entries = [_write_map(folder, image_id, *map_) for image_id, map_ in self.maps.items()]
            with atomic_write(table) as file:
                file.write(json.dumps({"annotations": entries}).encode())
        except OSError as error:
            raise UserError(
                f"{folder}: cannot write the panoptic results ({error.strerror}); "
                "make room there or choose another folder"
            ) from error


def _png(ids: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(id2rgb(ids)).save(file, "PNG")
    return file.getvalue()


def _write_map(folder: Path, image_id: int, png: bytes, segments: list[dict]) -> dict:
    """Write an image's map and return its entry in predictions.json."""
    name = f"{image_id:012}.png"
    (folder / name).write_bytes(png)
    return {"image_id": image_id, "file_name": name, "segments_info": segments}
