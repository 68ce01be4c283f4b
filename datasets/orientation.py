"""Which way up an image is: phones store it as the sensor saw it, and write beside it how to turn.

The EXIF orientation is 1 for an image that stands upright, 2 to 8 for one that is to be flipped or
turned first; from 5 on, height and width change places. PIL does not turn by itself.
"""

from PIL import ExifTags, Image
from PIL.Image import Transpose

from .annotations.store import AnnotatedImages
from .images import ImageReader

UPRIGHT = 1
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # damaged EXIF fails in any way; nothing but the orientation is lost with it
        return UPRIGHT
    return value if value in TURNS else UPRIGHT


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; what is turned has none any more."""
    # Not ImageOps.exif_transpose: it writes the rest of the EXIF anew, which may be damaged.
    turn = TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {}
    return turned


def as_annotated(image: Image.Image, height: int, width: int) -> Image.Image:
    """The image as it is stored, or turned, whichever the annotations are of.

    It is turned only if it is not of the annotated size as it is stored, and is when turned. So
    images of COCO with an orientation stay as COCO annotates and DETR reads them.

    Args:
        height, width: as annotated, 0 where the file does not tell.
    """
    if _is_of_size(image, height, width):
        return image
    turned = upright(image)
    return turned if _is_of_size(turned, height, width) else image


def read_as_annotated(known: AnnotatedImages, index: int, reader: ImageReader) -> Image.Image:
    """The image at `index` as RGB, as its annotations are of it.

    Raises:
        UserError: see `ImageReader.read`.
    """
    height, width = int(known.heights[index]), int(known.widths[index])
    return as_annotated(reader.read(known.file_name(index)), height, width)


def _is_of_size(image: Image.Image, height: int, width: int) -> bool:
    return height in (0, image.height) and width in (0, image.width)
