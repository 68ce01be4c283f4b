"""What can be wrong with an outline, found before pycocotools reads it.

pycocotools' C code trusts what it is given: bad run lengths make it read and write outside of its
memory, and distant corners make it trace a line of any length.
"""

import math

from .faults import shown

# Of compressed run lengths: five bits a character, from this one on, the sixth says "more".
FIRST_CHARACTER = 48
MOST_CHARACTERS = 7  # of one number: 35 bits hold any 32
LARGEST_RUN = 2**32 - 1


def why_not_outline(segmentation: object, height: int, width: int) -> str | None:
    """What is wrong with an annotation's segmentation, or None.

    Args:
        segmentation: what the annotation file has, of any type.
        height, width: of the image, in pixels.
    """
    if isinstance(segmentation, list):
        reasons = (_why_not_polygon(polygon, height, width) for polygon in segmentation)
        wrong = ((number, reason) for number, reason in enumerate(reasons) if reason)
        number, reason = next(wrong, (0, None))
        return reason and f"has polygon {number}, which {reason}"
    if not isinstance(segmentation, dict) or not {"counts", "size"} <= segmentation.keys():
        return f"has segmentation {shown(segmentation)}, neither polygons nor run lengths"
    reason = _why_not_runs(segmentation, height, width)
    return reason and f"has run lengths {reason}"


def _why_not_polygon(polygon: object, height: int, width: int) -> str | None:
    if not isinstance(polygon, list) or not {type(v) for v in polygon} <= {int, float}:
        return "is no list of numbers"
    if len(polygon) % 2:
        return f"has an odd number of coordinates, {len(polygon)}"
    if len(polygon) < 6:
        return f"has {len(polygon) // 2} points, not 3 or more"
    for x, y in zip(polygon[::2], polygon[1::2], strict=True):
        # Not a whole image away; written so that NaN fails, too.
        if not (-width <= x <= 2 * width and -height <= y <= 2 * height):
            where = f"[{shown(x)}, {shown(y)}]"
            if not all(math.isfinite(v) for v in (x, y) if isinstance(v, float)):
                return f"has the point {where}, which is not finite"
            return f"has the point {where}, far outside its image"
    return None


def _why_not_runs(runs: dict, height: int, width: int) -> str | None:
    size, counts = runs["size"], runs["counts"]
    if not isinstance(size, list) or [type(v) for v in size] != [int, int]:
        return f"of size {shown(size)}, not 2 whole numbers"
    if size != [height, width]:
        return f"of size {shown(size)}, not its image's [{height}, {width}]"
    if isinstance(counts, str):
        counts = decompressed(counts)
        if counts is None:
            return "whose compressed counts are damaged"
    elif not isinstance(counts, list) or not {type(v) for v in counts} <= {int}:
        return "whose counts are neither whole numbers nor a text"
    if min(counts, default=0) < 0:
        return "with negative counts"
    if sum(counts) != height * width:
        return (
            f"that cover {shown(sum(counts))} pixels, not its image's {height} x {width} = "
            f"{height * width}"
        )
    return None


def decompressed(text: str) -> list[int] | None:
    """The numbers in COCO's compressed run lengths; None if the text is not such.

    A number is written five bits a character, lowest first, with a sixth bit that says that more
    follow; the highest bit of the last five is the sign. From the fourth number on it is the
    difference to the number two before.
    """
    counts: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - FIRST_CHARACTER
        if not 0 <= code < 64 or bits >= 5 * MOST_CHARACTERS:
            return None
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << bits
        if len(counts) > 2:
            value += counts[-2]
        if abs(value) > LARGEST_RUN:
            return None
        counts.append(value)
        value = bits = 0
    return None if bits else counts
