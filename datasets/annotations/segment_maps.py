"""The PNGs whose colours say which segment a pixel belongs to, and what can be wrong with them."""

import numpy as np
from PIL import Image

from datasets.images import ImageReader
from datasets.masks import VOID, rgb2id
from datasets.validation.issues import printable_name, size_issue, unreadable_image
from util.errors import UserError

from .panoptic import PanopticAnnotations

# Pillow's names of pixel formats in a PNG from which 8-bit colours come unchanged. It drops half
# of 16 bits, and COCO defines no ids for grey.
EXACT = ("RGB", "RGBA", "P", "P;1", "P;2", "P;4")
MAX_SHOWN = 5  # ids in a message


class MapReader(ImageReader):
    """Reads segment maps as `ImageReader` reads images, but only PNGs that keep ids exact."""

    formats = ("PNG",)
    unknown_format = "no PNG: ids are colours, which other formats change"

    def read_ids(self, file_name: str) -> np.ndarray:
        """Return the ids of a map, (H, W) int32.

        Raises:
            UserError: as `read`; also for files of other formats, and PNGs of grey or 16 bits.
        """
        return rgb2id(np.asarray(self.read(file_name)))

    def _decode(self, image: Image.Image) -> Image.Image:
        pixels = image.tile[0][3] if image.tile else image.mode
        if pixels not in EXACT:
            raise ValueError(
                f"its pixels are {pixels}: ids need RGB or a palette, 8 bits a channel"
            )
        image.load()
        # Pillow takes missing colours as black, which is the id of no segment.
        if image.mode == "P" and 3 * image.getextrema()[1] >= len(image.getpalette()):
            raise ValueError("its palette lacks colours that it uses")
        return super()._decode(image)


def read_segments(
    annotations: PanopticAnnotations, maps: MapReader, index: int, height: int, width: int
) -> np.ndarray:
    """Read which segments the pixels of the image at `index` belong to.

    Args:
        height, width: of the image; 0 if not known.

    Returns:
        (H, W) int32: 0 for no segment, else 1 + the segment's index in segments_info.

    Raises:
        UserError: the map is missing or damaged, of another size, or has ids of no segment.
    """
    path, image_id = annotations.path, int(annotations.image_ids[index])
    name = annotations.png_name(index)
    try:
        ids = maps.read_ids(name)
    except UserError as error:
        raise UserError(str(unreadable_image(path, image_id, error))) from error
    # With the folder, since the image may have the same name.
    full_name = str(maps.folder / name)
    issue = size_issue(path, image_id, full_name, (height, width), ids.shape)
    if issue is not None:
        raise UserError(str(issue))
    numbers, unlisted = _number_segments(ids, annotations.ids[annotations.segments(index)])
    if len(unlisted):
        listed = ", ".join(map(str, unlisted[:MAX_SHOWN].tolist()))
        more = f" and {len(unlisted) - MAX_SHOWN} more" * (len(unlisted) > MAX_SHOWN)
        raise UserError(
            f"{path}: image {image_id}: {printable_name(full_name)} has pixels of segment {listed}"
            f"{more}, which segments_info lacks"
        )
    return numbers


def _number_segments(ids: np.ndarray, segment_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of `read_segments`, and the ids of no segment, sorted."""
    table = np.concatenate([[VOID], segment_ids]).astype(np.int32)
    order = np.argsort(table).astype(np.int32)
    place = np.searchsorted(table[order], ids).clip(max=len(table) - 1)
    numbers = order[place]
    return numbers, np.unique(ids[table[numbers] != ids])
