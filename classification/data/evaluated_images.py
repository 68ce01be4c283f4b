"""How an image is prepared for evaluation, as published: in training, in use and in pictures."""

from collections.abc import Callable

from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD

SMALL = 32  # pixels: images of at most this size are neither resized nor scaled, as published
CROP_SHARE = 0.875  # of the resized image's shorter side; 256 pixels for a crop of 224


def evaluation_transform(img_size: tuple[int, int]) -> Callable[[Image.Image], Tensor]:
    """Return the published preparation: PIL's RGB to float32 (3, height, width).

    The shorter side becomes 256 / 224 of the model's, bicubic; the middle is cut out; ImageNet's
    mean and standard deviation. Up to 32 pixels nothing is resized or cut off of images that have
    the model's size, as published; the published code takes no others, here they are resized to it.

    Args:
        img_size: height and width of the model's images; the crop has them.
    """
    return transforms.Compose(
        [
            _CoveringResize(img_size),
            transforms.CenterCrop(img_size),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def resized_size(size: tuple[int, int], img_size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width that an image of height and width `size` has before it is cropped."""
    scale = 1.0 if min(img_size) <= SMALL else CROP_SHARE
    height, width = (int(side / scale) for side in img_size)
    # torchvision's rounding; the side that decides has exactly its length.
    if height * size[1] <= width * size[0]:
        return int(width * size[0] / size[1]), width
    return height, int(height * size[1] / size[0])


class _CoveringResize:
    """Resizes images to `resized_size`."""

    def __init__(self, img_size: tuple[int, int]):
        self.img_size = img_size

    def __call__(self, image: Image.Image) -> Image.Image:
        size = resized_size((image.height, image.width), self.img_size)
        return functional.resize(image, list(size), transforms.InterpolationMode.BICUBIC)
