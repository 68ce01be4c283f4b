"""EXIF orientation: phones store a photo as the sensor saw it, with a note on how to turn it.

The orientation is 1 for an image that is upright, 2 to 8 for one that is to be flipped or rotated
first; from 5 on, height and width change places. PIL does not turn images by itself.
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
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # damaged EXIF raises exceptions of any type; its loss does no other harm
        return UPRIGHT
    return value if value in TURNS else UPRIGHT


def upright(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF orientation says, then without metadata."""
    # Not ImageOps.exif_transpose, which rewrites the other EXIF tags and fails if one is damaged.
    turn = TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {}
    return turned


def as_annotated(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the image as stored, or turned upright if only then it has the annotated size.

    So images of COCO with an EXIF orientation stay as COCO annotates and DETR reads them.

    Args:
        height, width: as annotated, 0 where the annotation file lacks them.
    """
    if _has_size(image, height, width):
        return image
    turned = upright(image)
    return turned if _has_size(turned, height, width) else image


def read_as_annotated(annotations: AnnotatedImages, index: int, reader: ImageReader) -> Image.Image:
    """Read the image at `index` as RGB, turned as its annotations are.

    Raises:
        UserError: see `ImageReader.read`.
    """
    image = reader.read(annotations.file_name(index))
    return as_annotated(image, *annotations.annotated_size(index))


def _has_size(image: Image.Image, height: int, width: int) -> bool:
    return height in (0, image.height) and width in (0, image.width)
