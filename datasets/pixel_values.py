"""From the pixels of an image file to 8 bits a channel."""

import numpy as np
from PIL import Image

GREY_16 = "I;16"  # PIL's mode; those of other byte orders begin the same
GREY_32 = ("I", "F")  # whole numbers, floats


def as_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB, 8 bits a channel; EXIF and the like are kept.

    16 bits of grey are divided by 257, so that 65535 becomes 255. 32 bits have no agreed white:
    they are taken as they are if the largest value is from 2 to 255 and none is negative.

    Raises:
        ValueError: an image with 32 bits of grey has other values.
    """
    if image.mode == "RGB":
        return image  # most images are: converting them would only copy them
    if image.mode.startswith(GREY_16):
        grey = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
        grey.info = image.info
        return grey.convert("RGB")
    if image.mode in GREY_32:
        low, high = image.getextrema()
        if not (low >= 0 and 2 <= high <= 255):
            raise ValueError(
                f"its 32-bit grey goes from {low:g} to {high:g}, and which of it is white is not "
                "known; save it with 8 or 16 bits"
            )
    return image.convert("RGB")
