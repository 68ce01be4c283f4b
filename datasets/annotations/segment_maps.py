"""The PNGs that say which segment a pixel belongs to, and what can be wrong with them."""

import numpy as np
from PIL import Image

from datasets.images import ImageReader
from datasets.panoptic_ids import VOID, ids_of_rgb
from datasets.validation.faults import (
    Fault,
    reading_fault,
    shown_name,
    size_fault,
)
from util.errors import UserError

from .panoptic import PanopticAnnotations

# Pillow's names of what is in a PNG, those from which 8-bit colours come as they are. Of 16 bits
# it drops half, and what grey would mean is not said anywhere.
EXACT = ("RGB", "RGBA", "P", "P;1", "P;2", "P;4")
MOST_NAMED = 5  # ids in a message


class MapReader(ImageReader):
    """Reads the maps of a split as `ImageReader` reads its images, but only where ids survive."""

    formats = ("PNG",)
    no_format = "no PNG: ids are colours, which other formats change"

    def read_ids(self, file_name: str) -> np.ndarray:
        """The ids of a map, (H, W) int32.

        Raises:
            UserError: as `read`; also for files of other formats, and PNGs of grey or 16 bits.
        """
        return ids_of_rgb(np.asarray(self.read(file_name)))

    def _decoded(self, image: Image.Image) -> Image.Image:
        kind = image.tile[0][3] if image.tile else image.mode
        if kind not in EXACT:
            raise ValueError(f"its pixels are {kind}: ids need RGB or a palette, 8 bits a channel")
        image.load()
        if image.mode == "P" and 3 * image.getextrema()[1] >= len(image.getpalette()):
            raise ValueError("its palette lacks colours that it uses")
        return super()._decoded(image)


def read_segments(
    known: PanopticAnnotations, maps: MapReader, index: int, height: int, width: int
) -> np.ndarray:
    """Which segments the pixels of the image at `index` belong to.

    Args:
        height, width: of the image; 0 if not known.

    Returns:
        (H, W) int32: 0 for none, else 1 + the segment's place in segments_info.

    Raises:
        UserError: the map is missing or damaged, of another size, or has ids of no segment.
    """
    image_id, name = int(known.image_ids[index]), known.png_name(index)
    try:
        ids = maps.read_ids(name)
    except UserError as error:
        raise UserError(str(reading_fault(known.path, image_id, error))) from error
    # Images may have the same names: the folder tells.
    shown = f"{maps.folder / name}"
    fault = size_fault(known.path, image_id, shown, (height, width), ids.shape)
    if fault is None:
        numbers, strange = _numbered(ids, known.ids[known.segments(index)])
        if len(strange):
            words = f"image {image_id}: {shown_name(shown)} has pixels of {_listed(strange)}"
            fault = Fault(str(known.path), f"{words}, which segments_info lacks", image_id)
    if fault is not None:
        raise UserError(str(fault))
    return numbers


def _numbered(ids: np.ndarray, segment_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of `read_segments`, and the ids of no segment, sorted."""
    table = np.concatenate([[VOID], segment_ids]).astype(np.int32)
    order = np.argsort(table).astype(np.int32)
    place = np.searchsorted(table[order], ids).clip(max=len(table) - 1)
    numbers = order[place]
    return numbers, np.unique(ids[table[numbers] != ids])


def _listed(ids: np.ndarray) -> str:
    named = ", ".join(map(str, ids[:MOST_NAMED].tolist()))
    more = f" and {len(ids) - MOST_NAMED} more" * (len(ids) > MOST_NAMED)
    return f"segment {named}{more}"
