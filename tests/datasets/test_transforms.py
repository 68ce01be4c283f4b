"""Sizes, flips and crops: boxes stay on their objects, sizes are those of DETR."""

import resource
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from datasets.coco import CocoDetection
from datasets.transforms import RandomResize, ToModelInput, make_coco_transforms
from datasets.transforms_functional import resized_shape
from tests.helpers.data import make_split
from util.misc import nested_tensor_from_tensor_list

# Of red, green and blue, as published weights want them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def detr_size(width, height, size, max_size):
    """The published rule, word by word: (height, width)."""
    short, long = float(min(width, height)), float(max(width, height))
    if long / short * size > max_size:
        size = round(max_size * short / long)
    if (width <= height and width == size) or (height <= width and height == size):
        return height, width
    if width < height:
        return int(size * height / width), size
    return size, int(size * width / height)


def test_sizes_follow_the_published_rule():
    generator = torch.Generator().manual_seed(0)
    for width, height in torch.randint(20, 2000, (500, 2), generator=generator).tolist():
        for size in (480, 608, 800):
            assert resized_shape(height, width, size, 1333) == detr_size(width, height, size, 1333)
    assert resized_shape(480, 640, 800, 1333) == (800, 1066)
    assert resized_shape(300, 1000, 800, 1333) == (400, 1333)


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [
        (1, 1, (800, 800)),
        (2, 900, (3, 1350)),  # as published
        (1, 3000, (1, 1333)),  # published: no pixel high
        (3000, 1, (1333, 1)),
        (1, 100_000, (1, 1333)),
        (2, 100_000, (1, 1333)),
    ],
)
def test_lines_of_pixels_stay_a_pixel_high(height, width, wanted):
    assert resized_shape(height, width, 800, 1333) == wanted


@pytest.mark.parametrize("augment", ["none", "flip", "detr"])
@pytest.mark.parametrize("size", [(1, 900), (900, 1), (2, 700), (1, 1), (3000, 1)])
def test_samples_of_tiny_images(tmp_path, augment, size):
    """And no image of a billion pixels on the way: more than 300 MB would be out of memory."""
    box = {"category_id": 1, "bbox": [0, 0, *size], "iscrowd": 0}
    images, annotations = make_split(tmp_path, [box], size=size)
    dataset = CocoDetection(images, annotations, make_coco_transforms(augment))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, limits[1]))
    try:
        for epoch in range(6):
            dataset.set_epoch(epoch)
            image, target = dataset[0]
            assert min(image.shape[1:]) >= 1 and max(image.shape[1:]) <= 1400
            assert image.isfinite().all() and len(target["boxes"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_validation_is_pillows_resize(tmp_path):
    picture = Image.effect_noise((50, 40), 80).convert("RGB")
    image, _ = make_coco_transforms("none", 64)(
        picture, {"boxes": torch.zeros(0, 4).reshape(0, 4), "labels": torch.zeros(0)}
    )
    pillow = picture.resize((80, 64), Image.Resampling.BILINEAR)
    raw = torch.tensor(list(pillow.tobytes())).view(64, 80, 3).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(image, (raw - mean) / std)


def validation(picture: Image.Image, size: int) -> torch.Tensor:
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}
    return make_coco_transforms("none", size)(picture, target)[0]


def test_validation_shrinks_as_pillow_does():
    picture = Image.effect_noise((300, 200), 80).convert("RGB")
    pillow = picture.resize((96, 64), Image.Resampling.BILINEAR)
    raw = torch.tensor(list(pillow.tobytes())).view(64, 96, 3).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(validation(picture, 64), (raw - mean) / std)


def test_validation_sizes_are_those_of_detr():
    """The shorter side is 800, or less where the longer one would pass 1333."""
    for size, wanted in (((640, 480), (800, 1066)), ((480, 640), (1066, 800)),
                         ((640, 300), (625, 1333)), ((100, 100), (800, 800))):  # fmt: skip
        assert validation(Image.new("RGB", size), 800).shape[1:] == wanted


@pytest.mark.parametrize("size", [480, 200])
def test_training_is_within_one_level_of_pillows_resize(size):
    picture = Image.effect_noise((500, 400), 80).convert("RGB")
    resize = RandomResize((size,))
    pillow = F.pil_to_tensor(resize(picture)[0]).int()
    off = (resize(F.to_image(picture))[0].int() - pillow).abs()
    assert off.max() <= 1  # of how many values depends on torchvision's version


def test_model_input_is_normalised_as_torchvision_does_it():
    picture = Image.effect_noise((53, 41), 80).convert("RGB")
    image, _ = ToModelInput()(picture, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)})
    raw = F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True)
    assert torch.equal(image, F.normalize(raw, MEAN, STD))
    assert image.is_contiguous()  # else padding a batch takes four times as long


def test_padding_is_zero_whatever_was_in_memory():
    generator = torch.Generator().manual_seed(0)
    sizes = ((5, 9), (8, 3), (8, 9), (1, 1))
    images = [torch.rand(3, h, w, generator=generator) for h, w in sizes]
    for _ in range(20):
        torch.full((4, 3, 8, 9), float("nan"))  # freed at once, for the batch to find
        batch = nested_tensor_from_tensor_list(images)
        for image, padded, padding in zip(images, batch.tensors, batch.mask, strict=True):
            h, w = image.shape[1:]
            assert torch.equal(padded[:, :h, :w], image) and not padding[:h, :w].any()
            assert (padded[:, padding] == 0).all()
            assert (~padding).sum() == h * w


def test_training_transforms_move_boxes_with_the_image(tmp_path):
    """A white rectangle on black must lie under its box after flips, sizes and crops."""
    images, annotations = make_split(
        tmp_path, [{"category_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 0}], size=(90, 120)
    )
    picture = Image.new("RGB", (90, 120))
    picture.paste((255, 255, 255), (10, 20, 40, 60))
    picture.save(tmp_path / "images" / "a.png")
    dataset = CocoDetection(images, annotations, make_coco_transforms("detr", 200))
    shapes, flipped, missing = set(), 0, 0
    for epoch in range(60):
        dataset.set_epoch(epoch)
        image, target = dataset[0]
        height, width = image.shape[1:]
        shapes.add((height, width))
        assert target["size"].tolist() == [height, width]
        assert max(height, width) <= round(1333 / 4)
        bright = image[0] > 0
        if len(target["boxes"]) == 0:
            missing += 1
            assert bright.float().mean() < 0.01
            continue
        cx, cy, w, h = target["boxes"][0].tolist()
        flipped += cx > 0.5
        ys, xs = bright.nonzero(as_tuple=True)
        edges = ((cx - w / 2) * width, (cy - h / 2) * height,
                 (cx + w / 2) * width, (cy + h / 2) * height)  # fmt: skip
        found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        for edge, pixel in zip(edges, found, strict=True):
            assert abs(edge - pixel.item()) < 3
    assert len(shapes) > 20  # sizes and crops differ
    assert 15 < flipped < 45
    assert missing < 20


def test_crops_are_as_small_as_those_of_detr_and_no_smaller():
    """Of 400, 500 or 600 pixels 384 to 600 stay: at least 0.64 of a side, measured by colours."""
    ramp = torch.arange(200).expand(200, 200).to(torch.uint8)  # its columns are numbered
    picture = Image.fromarray(torch.stack([ramp, ramp.T, ramp], -1).numpy())
    transforms = make_coco_transforms("detr", 200)  # a quarter of DETR's sizes
    torch.manual_seed(0)
    shares = []
    for _ in range(150):
        target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}
        image, _ = transforms(picture, target)
        for channel in (0, 1):
            values = image[channel] * STD[channel] + MEAN[channel]
            shares.append((values.max() - values.min()).item() * 255 / 199)
    assert 0.62 < min(shares) < 0.67
    assert 0.2 < sum(share > 0.99 for share in shares) / len(shares) < 0.8


def test_training_sizes_are_those_of_detr(tmp_path):
    """An eighth of 480, 512, ... 800."""
    images, annotations = make_split(tmp_path, [], size=(80, 60))
    dataset = CocoDetection(images, annotations, make_coco_transforms("detr", 100))
    shorter = set()
    for epoch in range(120):
        dataset.set_epoch(epoch)
        shorter.add(min(dataset[0][0].shape[1:]))
    resized = set(range(60, 101, 4))
    assert resized <= shorter
    # After a crop of extreme shape the longer side's limit may make the shorter one smaller.
    assert all(size in resized or size < 100 for size in shorter)
