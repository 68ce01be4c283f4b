"""Where the tokens of a feature map lie on an image."""

from typing import NamedTuple

Point = tuple[float, float]  # x and y in pixels of the image


class TokenGrid(NamedTuple):
    """The grid of tokens over an image that is alone in its batch, so that nothing is padded.

    Attributes:
        hw: height and width of the feature map.
        stride: pixels of the resized image from a token to the next.
        size, orig_size: height and width of the image in pixels, after and before resizing.
        offset: top and left edge of the map in pixels of the original image, where a part of the
            resized image was cut out.
    """

    hw: tuple[int, int]
    stride: int
    size: tuple[float, float]
    orig_size: tuple[int, int]
    offset: tuple[float, float] = (0.0, 0.0)

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
        (height, width), (top, left) = self.cell, self.offset
        return left, left + self.hw[1] * width, top + self.hw[0] * height, top

    def contains(self, x: float, y: float) -> bool:
        """Return whether a point, in pixels of the original image, lies on image and map."""
        left, right, bottom, top = self.extent
        on_image = 0 <= x < self.orig_size[1] and 0 <= y < self.orig_size[0]
        return on_image and left <= x < right and top <= y < bottom

    def token_at(self, x: float, y: float) -> tuple[int, int]:
        """Return row and column of the token that a point of the original image belongs to."""
        (height, width), (top, left) = self.cell, self.offset
        row, column = int((y - top) / height), int((x - left) / width)
        return min(row, self.hw[0] - 1), min(column, self.hw[1] - 1)
