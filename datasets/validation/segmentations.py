"""What can be wrong with a segmentation, checked before pycocotools reads it.

pycocotools' C code trusts its input: with malformed RLE it reads and writes outside of its buffers,
and between distant points of a polygon it draws a line of any length.
"""

import math
import re

from .annotations import NUMBERS
from .issues import short_repr

# COCO's compressed RLE writes a number as characters of 6 bits, lowest first: 5 bits of the number,
# then one that says whether more follow ("P" to "o"). The last character's highest bit is the sign.
# Six characters hold all that an image of at most 2**28 pixels needs; pycocotools shifts by 5 bits
# a character in 32-bit integers, where a seventh would overflow.
RLE_NUMBER = re.compile("[P-o]{0,5}[0-O]")
RLE_TEXT = re.compile(f"(?:{RLE_NUMBER.pattern})*")


def segmentation_problem(segmentation: object, height: int, width: int) -> str | None:
    """Return what is wrong with an annotation's segmentation, or None.

    Args:
        segmentation: the value in the annotation file, of any type.
        height, width: of the image, in pixels.
    """
    if isinstance(segmentation, list):
        for number, polygon in enumerate(segmentation):
            problem = _polygon_problem(polygon, height, width)
            if problem:
                return f"has polygon {number}, which {problem}"
        return None
    if not isinstance(segmentation, dict) or not {"counts", "size"} <= segmentation.keys():
        return f"has segmentation {short_repr(segmentation)}, neither polygons nor RLE"
    problem = _rle_problem(segmentation["counts"], segmentation["size"], height, width)
    return problem and f"has RLE {problem}"


def rle_counts(text: str) -> list[int] | None:
    """Decode the counts of compressed RLE; None if the text is malformed.

    From the fourth on, a number is the difference to the count two before.
    """
    if not RLE_TEXT.fullmatch(text):
        return None
    counts: list[int] = []
    for number in RLE_NUMBER.findall(text):
        digits = [ord(character) - 48 for character in number]
        value = sum((digit & 31) << 5 * place for place, digit in enumerate(digits))
        if digits[-1] & 16:
            value -= 1 << 5 * len(digits)
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _polygon_problem(polygon: object, height: int, width: int) -> str | None:
    if not isinstance(polygon, list) or not NUMBERS.issuperset(map(type, polygon)):
        return "is no list of numbers"
    if len(polygon) % 2:
        return f"has an odd number of coordinates, {len(polygon)}"
    if len(polygon) < 6:
        return f"has {len(polygon) // 2} points, not 3 or more"
    for x, y in zip(polygon[::2], polygon[1::2], strict=True):
        # At most an image's size outside; written so that NaN fails, too.
        if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            point = f"has the point [{short_repr(x)}, {short_repr(y)}]"
            # An integer may be too large for isfinite, which wants a float.
            if not all(math.isfinite(v) for v in (x, y) if isinstance(v, float)):
                return f"{point}, which is not finite"
            return f"{point}, far outside its image"
    return None


def _rle_problem(counts: object, size: object, height: int, width: int) -> str | None:
    if not isinstance(size, list) or [type(value) for value in size] != [int, int]:
        return f"of size {short_repr(size)}, not 2 whole numbers"
    if size != [height, width]:
        return f"of size {short_repr(size)}, not its image's [{height}, {width}]"
    if isinstance(counts, str):
        counts = rle_counts(counts)
        if counts is None:
            return "whose compressed counts are malformed"
    elif not isinstance(counts, list) or not {int}.issuperset(map(type, counts)):
        return "whose counts are neither whole numbers nor a text"
    if min(counts, default=0) < 0:
        return "with negative counts"
    if sum(counts) != height * width:
        return (
            f"that covers {short_repr(sum(counts))} pixels, not its image's {height} x {width} = "
            f"{height * width}"
        )
    return None
