"""Draw detections or panoptic segments on one image, at a size at which captions can be read."""

import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from util.errors import one_line

from .colours import Colour, colour_of, ink_on

# Images with a shorter side below the first are enlarged, unless their longer side would exceed
# the second.
SHORT_SIDE, LONG_SIDE = 320, 1280
MASK_OPACITY = 0.5
FONT = "fonts/ttf/DejaVuSans-Bold.ttf"  # which comes with Matplotlib

Box = tuple[int, int, int, int]  # left, top, right, bottom; both ends are inside


def drawn_on(
    image: Image.Image, found: dict, threshold: float = 0, side: int | None = None
) -> Image.Image:
    """Return a copy of an image with its detections; surer ones lie over less sure ones.

    Small images are enlarged by a whole number.

    Args:
        found: what `detector.Detector` returns for the image, in any order.
        threshold: detections of a lower score have dashed boxes, and captions that say so.
        side: length of the copy's longer side in pixels; by default as above.
    """
    order = found["scores"].argsort(stable=True).tolist()
    colours = [colour_of(label) for label in found["labels"].tolist()]
    if "masks" in found:
        image = _tinted(image, ((found["masks"][i].cpu().numpy(), colours[i]) for i in order))
    canvas = Canvas(image, side)
    scores, boxes = found["scores"].tolist(), found["boxes"].tolist()
    captions = []
    for i in order:
        sure = scores[i] >= threshold
        box = canvas.draw_box(boxes[i], colours[i], dashed=not sure)
        # Rounded down, or 0.4996 would be said to be 0.50, and below 0.5.
        score = scores[i] if sure else math.floor(100 * scores[i] + 1e-4) / 100
        tail = f" {score:.2f}" if sure else f" {score:.2f} < {threshold:g}"
        captions.append(Caption(found["names"][i], tail, box, colours[i]))
    canvas.draw_captions(captions)
    return canvas.picture


def segments_on(
    image: Image.Image, found: dict, names: dict[int, str], side: int | None = None
) -> Image.Image:
    """Return a copy of an image with its panoptic segments.

    Args:
        found: as from `models.postprocess.PostProcessPanoptic`.
        names: category names by id.
        side: as of `drawn_on`.
    """
    ids, segments = found["ids"].numpy(), found["segments_info"]
    colours = [colour_of(segment["category_id"]) for segment in segments]
    masks = [ids == segment["id"] for segment in segments]
    canvas = Canvas(_tinted(image, zip(masks, colours, strict=True)), side)
    captions = []
    for segment, mask, colour in zip(segments, masks, colours, strict=True):
        rows, columns = mask.nonzero()
        if len(rows):
            middle = len(rows) // 2
            x, y = canvas.scaled([columns[middle], rows[middle]])
            name = names.get(segment["category_id"], str(segment["category_id"]))
            captions.append(Caption(name, "", (x, y, x, y), colour))
    canvas.draw_captions(captions)
    return canvas.picture


class Caption(NamedTuple):
    """What is written at a box; of a name that is too long for the picture, the middle is left out.

    Attributes:
        tail: follows the name, and is never shortened.
    """

    name: str
    tail: str
    box: Box
    colour: Colour


class Canvas:
    """A copy of an image to draw on, whose lines and letters have sizes that suit it.

    Args:
        side: length of the longer side; by default that of the image, or a multiple of it.

    Attributes:
        picture: the copy.
    """

    def __init__(self, image: Image.Image, side: int | None = None):
        shorter, longer = sorted(image.size)
        if side is None:
            scale: float = max(1, min(math.ceil(SHORT_SIDE / shorter), LONG_SIDE // longer))
        else:
            scale = side / longer
        self.size = tuple(max(1, round(scale * length)) for length in image.size)
        self._scales = [new / old for new, old in zip(self.size, image.size, strict=True)]
        sampling = Resampling.BICUBIC if scale > 1 else Resampling.LANCZOS
        self.picture = image.convert("RGB").resize(self.size, sampling)
        self._draw = ImageDraw.Draw(self.picture)
        self.line = max(3, round(min(self.size) / 180))
        self.font = _font(max(13, round(min(self.size) / 36)))

    def scaled(self, values: Sequence[float]) -> list[int]:
        """Return x, y, x, y, ... in pixels of the image as the nearest ones inside of the copy."""
        return [
            min(max(round(value * self._scales[i % 2]), 0), self.size[i % 2] - 1)
            for i, value in enumerate(values)
        ]

    def draw_box(self, box: Sequence[float], colour: Colour, dashed: bool = False) -> Box:
        """Draw (x0, y0, x1, y1) in pixels of the image; returns where it lies on the copy."""
        left, top, right, bottom = self.scaled(box)
        x0, x1, y0, y1 = *sorted((left, right)), *sorted((top, bottom))
        drawn = (x0, y0, x1, y1)
        # Between two lines of black or white, a colour is seen on a ground of the same colour.
        casing = max(1, self.line // 3)
        edge = self.line + 2 * casing
        self._draw.rectangle(drawn, outline=ink_on(colour), width=edge)
        inner = (x0 + casing, y0 + casing, max(x1 - casing, x0), max(y1 - casing, y0))
        if inner[0] > inner[2] or inner[1] > inner[3]:
            return drawn
        if not dashed:
            self._draw.rectangle(inner, outline=colour, width=self.line)
            return drawn
        dash = 4 * self.line
        for x in range(inner[0], inner[2] + 1, 2 * dash):
            end = min(x + dash, inner[2])
            for y in (inner[1], max(inner[3] - self.line + 1, inner[1])):
                self._draw.rectangle((x, y, end, min(y + self.line - 1, inner[3])), fill=colour)
        for y in range(inner[1], inner[3] + 1, 2 * dash):
            end = min(y + dash, inner[3])
            for x in (inner[0], max(inner[2] - self.line + 1, inner[0])):
                self._draw.rectangle((x, y, min(x + self.line - 1, inner[2]), end), fill=colour)
        return drawn

    def draw_captions(self, captions: Sequence[Caption]) -> None:
        """Draw captions, the last ones over others; where there is room, beside each other."""
        pad = self.font.size // 5
        height = sum(self.font.getmetrics()) + pad
        if height > self.size[1]:
            return
        placed: list[tuple[Box, str, Caption]] = []
        for caption in reversed(captions):  # the surest one has the first choice
            text = self._fitting(caption, self.size[0] - 2 * pad)
            width = math.ceil(self.font.getlength(text)) + 2 * pad
            if width <= self.size[0]:
                taken = [place for place, _, _ in placed]
                placed.append((self._place(caption.box, width, height, taken), text, caption))
        for place, text, caption in reversed(placed):
            ink = ink_on(caption.colour)
            self._draw.rectangle(place, fill=caption.colour, outline=ink)
            self._draw.text((place[0] + pad, place[1] + pad // 2), text, ink, self.font)

    def _place(self, box: Box, width: int, height: int, taken: list[Box]) -> Box:
        """Return where a caption goes: over its box, or where no other caption is."""
        x0, y0, x1, y1 = box
        outside, inside = (y0 - height, y1 + 1), (y0, y1 - height + 1)
        corners = [
            (x, y) for edges in (outside, inside) for y in edges for x in (x0, x1 - width + 1)
        ]
        places = []
        for x, y in corners:
            left = min(max(x, 0), self.size[0] - width)
            top = min(max(y, 0), self.size[1] - height)
            places.append((left, top, left + width - 1, top + height - 1))
        free = (place for place in places if not any(_overlap(place, other) for other in taken))
        return next(free, places[0])

    def _fitting(self, caption: Caption, width: int) -> str:
        """Return a caption of at most this width in pixels if letters can be left out for that."""
        name = one_line(caption.name)
        for kept in range(len(name), 0, -1):
            shown = (
                name if kept == len(name) else f"{name[: -(-kept // 2)]}…{_end(name, kept // 2)}"
            )
            if self.font.getlength(shown + caption.tail) <= width:
                return shown + caption.tail
        return caption.tail.strip()


def _end(text: str, length: int) -> str:
    return text[len(text) - length :]


def _overlap(one: Box, other: Box) -> bool:
    return (one[0] <= other[2] and other[0] <= one[2]) and (
        one[1] <= other[3] and other[1] <= one[3]
    )


def _tinted(image: Image.Image, layers: Iterable[tuple[np.ndarray, Colour]]) -> Image.Image:
    """Return a copy with masks (H, W) bool in their colours, each over those before it."""
    pixels = np.array(image.convert("RGB"))
    tints, covered = pixels.copy(), np.zeros(pixels.shape[:2], bool)
    edges = np.zeros_like(covered)
    width = max(1, min(image.size) // 300)
    for mask, colour in layers:
        tints[mask] = colour
        covered |= mask
        edges = (edges & ~mask) | (mask & ~_inside(mask, width))
    tinted = covered & ~edges
    pixels[tinted] = ((1 - MASK_OPACITY) * pixels[tinted] + MASK_OPACITY * tints[tinted]).round()
    pixels[edges] = tints[edges]
    return Image.fromarray(pixels)


def _inside(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of a mask whose neighbours at this distance on all four sides are in it."""
    wide = np.pad(mask, width)
    rows, columns = mask.shape
    across = wide[width : width + rows, 2 * width :] & wide[width : width + rows, :columns]
    return (
        across & wide[2 * width :, width : width + columns] & wide[:rows, width : width + columns]
    )


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / FONT), size)
