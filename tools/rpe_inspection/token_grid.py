"""Map tokens of a feature map to places on the image."""

import math
from typing import NamedTuple


class TokenGrid(NamedTuple):
    """The grid of tokens over an image that is alone in its batch, so that nothing is padded.

    Attributes:
        hw: height and width of the feature map.
        size, orig_size: height and width of the image in pixels, after and before resizing.
    """

    hw: tuple[int, int]
    size: tuple[int, int]
    orig_size: tuple[int, int]

    @property
    def stride(self) -> int:
        """Pixels of the resized image from a token to the next: 32 or 16.

        A backbone halves sides several times, rounding up, and so the quotient falls short of a
        power of 2.
        """
        return 2 ** math.ceil(math.log2(max(self.size) / max(self.hw)))

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of a token, in pixels of the original image."""
        height, width = (
            self.stride * before / after
            for before, after in zip(self.orig_size, self.size, strict=True)
        )
        return height, width

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge of the map, in pixels of the original image.

        The last row and column may reach beyond the image, whose sides need not be multiples of
        the stride.
        """
        height, width = self.cell
        return 0.0, self.hw[1] * width, self.hw[0] * height, 0.0

    def contains(self, x: float, y: float) -> bool:
        """Return whether a point, in pixels of the original image, lies on the image."""
        return 0 <= x < self.orig_size[1] and 0 <= y < self.orig_size[0]

    def token_at(self, x: float, y: float) -> tuple[int, int]:
        """Return row and column of the token that a point of the original image belongs to."""
        height, width = self.cell
        return min(int(y / height), self.hw[0] - 1), min(int(x / width), self.hw[1] - 1)
