"""Losses of masks, and masks of detections, pixel by pixel from the formulas."""

import math

import pytest
import torch

from models.mask_losses import mask_losses
from models.postprocess import PostProcessSegm


def bilinear(mask, height, width):
    """Enlarge mask[h][w]; the value of a pixel is that at its centre."""
    rows, columns = len(mask), len(mask[0])
    out = [[0.0] * width for _ in range(height)]
    for i in range(height):
        for j in range(width):
            y = max((i + 0.5) * rows / height - 0.5, 0)
            x = max((j + 0.5) * columns / width - 0.5, 0)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            fy, fx = y - y0, x - x0
            top = mask[y0][x0] * (1 - fx) + mask[y0][x1] * fx
            bottom = mask[y1][x0] * (1 - fx) + mask[y1][x1] * fx
            out[i][j] = top * (1 - fy) + bottom * fy
    return out


def loop_of_losses(logits, masks, height, width, num_boxes):
    total_focal = total_dice = 0
    for of_image, wanted in zip(logits, masks, strict=True):
        for logit, mask in zip(of_image.tolist(), wanted.tolist(), strict=True):
            focal = shared = found = area = 0
            for i, row in enumerate(bilinear(logit, height, width)):
                for j, value in enumerate(row):
                    p = 1 / (1 + math.exp(-value))
                    inside = i < len(mask) and j < len(mask[0]) and mask[i][j]
                    right = p if inside else 1 - p
                    alpha = 0.25 if inside else 0.75
                    focal += -alpha * (1 - right) ** 2 * math.log(right)
                    shared += p * inside
                    found += p
                    area += inside
            total_focal += focal / (height * width)
            total_dice += 1 - (2 * shared + 1) / (found + area + 1)
    return total_focal / num_boxes, total_dice / num_boxes


@pytest.mark.parametrize("at_once", [1, 8])
def test_losses_equal_the_loop(monkeypatch, at_once):
    monkeypatch.setattr("models.mask_losses.OBJECTS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(n, 4, 6, generator=generator) * 2 for n in (3, 0, 1)]
    sizes = ((15, 22), (16, 20), (9, 23))  # the batch is 16 x 23
    masks = [
        torch.rand(len(of_image), *size, generator=generator) > 0.5
        for of_image, size in zip(logits, sizes, strict=True)
    ]
    losses = mask_losses(logits, masks, torch.tensor(2.5))
    focal, dice = loop_of_losses(logits, masks, 16, 23, 2.5)
    assert losses["loss_mask"].item() == pytest.approx(focal, rel=1e-5)
    assert losses["loss_dice"].item() == pytest.approx(dice, rel=1e-5)


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_masks_have_the_size_of_the_original_image(threshold):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 5, 7, generator=generator) * 3
    sizes, originals = [(20, 13), (11, 27)], [(40, 26), (7, 31)]
    results = PostProcessSegm(threshold)(
        [{}, {}], {"pred_masks": logits}, torch.tensor(originals), torch.tensor(sizes)
    )
    for image, result in enumerate(results):
        (height, width), (rows, columns) = originals[image], sizes[image]
        assert result["masks"].shape == (9, height, width) and result["masks"].dtype == torch.bool
        for mask, logit in zip(result["masks"], logits[image].tolist(), strict=True):
            enlarged = bilinear(logit, 20, 27)  # of the padded images
            for i in range(height):
                for j in range(width):
                    value = enlarged[i * rows // height][j * columns // width]
                    assert mask[i, j] == (1 / (1 + math.exp(-value)) > threshold)
