"""Turn the detector's outputs into boxes, masks and panoptic segments in pixels."""

from collections.abc import Container

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy

MASKS_AT_ONCE = 8  # upsampled together, which bounds memory
COCO_THINGS = range(91)  # category ids of COCO's objects; larger ids are stuff
LARGEST_DROPPED = 4  # pixels

# ---- boxes ----


class PostProcess(nn.Module):
    """A module that turns logits and relative boxes into detections."""

    @torch.no_grad()
    def forward(self, outputs: dict, target_sizes: Tensor) -> list[dict[str, Tensor]]:
        """Return each query's most probable class, its probability, and its box in pixels.

        Args:
            outputs: pred_logits (B, Q, num_classes + 1), pred_boxes (B, Q, 4).
            target_sizes: (B, 2), height and width of the images to give boxes in: the original
                sizes for evaluation.

        Returns:
            One dict per image: scores (Q,), labels (Q,), boxes (Q, 4) as (x0, y0, x1, y1).
        """
        # "No object" is left out of the maximum, not of the softmax: all queries are returned, and
        # COCO's evaluation ranks them by score.
        scores, labels = outputs["pred_logits"].softmax(-1)[..., :-1].max(-1)
        height, width = target_sizes.unbind(1)
        scale = torch.stack([width, height, width, height], dim=1)
        boxes = box_cxcywh_to_xyxy(outputs["pred_boxes"]) * scale[:, None]
        return [
            {"scores": s, "labels": c, "boxes": b}
            for s, c, b in zip(scores, labels, boxes, strict=True)
        ]


def postprocess(
    postprocessors: dict[str, nn.Module],
    outputs: dict,
    orig_target_sizes: Tensor,
    target_sizes: Tensor,
) -> list[dict[str, Tensor]]:
    """Return detections (see `PostProcess`), with masks if the model has a mask head.

    Args:
        postprocessors: from `build_model`.
        outputs, orig_target_sizes, target_sizes: see `PostProcessSegm`.
    """
    results = postprocessors["bbox"](outputs, orig_target_sizes)
    if "segm" in postprocessors:
        results = postprocessors["segm"](results, outputs, orig_target_sizes, target_sizes)
    return results


# ---- masks ----


class PostProcessSegm(nn.Module):
    """A module that adds masks in pixels of the original images to detections.

    Args:
        threshold: a pixel belongs to an object if its probability is above this.
    """

    def __init__(self, threshold: float = 0.5):
        super().__init__()
        self.threshold = threshold

    @torch.no_grad()
    def forward(
        self,
        results: list[dict[str, Tensor]],
        outputs: dict,
        orig_target_sizes: Tensor,
        target_sizes: Tensor,
    ) -> list[dict[str, Tensor]]:
        """Add masks to the results of `PostProcess`.

        Args:
            results: one dict per image, changed in place.
            outputs: pred_masks (B, Q, h, w).
            orig_target_sizes: (B, 2), height and width of the original images.
            target_sizes: (B, 2), height and width of the resized images that the detector saw,
                without padding.

        Returns:
            `results`, each with masks (Q, H, W) bool.
        """
        padded_size = target_sizes.amax(0).tolist()
        sizes = zip(target_sizes.tolist(), orig_target_sizes.tolist(), strict=True)
        for result, logits, size in zip(results, outputs["pred_masks"], sizes, strict=True):
            parts = [self._masks(part, padded_size, *size) for part in logits.split(MASKS_AT_ONCE)]
            result["masks"] = torch.cat(parts)
        return results

    def _masks(
        self,
        logits: Tensor,
        padded_size: list[int],
        image_size: list[int],
        target_size: list[int],
    ) -> Tensor:
        """Binarise logits (n, h, w) and resize them to (n, *target_size) bool."""
        probability = upsample_masks(logits, padded_size, image_size).sigmoid()
        masks = (probability > self.threshold).byte()
        # As published: thresholded at the detector's resolution, then resized to the nearest.
        return F.interpolate(masks[:, None], size=target_size)[:, 0].bool()


def upsample_masks(logits: Tensor, padded_size: list[int], image_size: list[int]) -> Tensor:
    """Upsample mask logits to the padded image and crop the padding.

    Args:
        logits: (n, h, w), in the coordinates of the padded image.
        padded_size: height and width of the padded image.
        image_size: height and width of the image in its upper left corner.

    Returns:
        (n, *image_size) float32.
    """
    full = F.interpolate(logits[:, None].float(), size=padded_size, mode="bilinear")[:, 0]
    return full[:, : image_size[0], : image_size[1]]


# ---- panoptic segments ----


class PostProcessPanoptic(nn.Module):
    """A module that merges masks into one segment for each pixel (DETR, section 4.4).

    Args:
        things: ids of the categories whose objects are segments of their own. All pixels of any
            other category (stuff) form one segment.
        threshold: only queries whose class has a higher probability take part.
    """

    def __init__(self, things: Container[int] = COCO_THINGS, threshold: float = 0.85):
        super().__init__()
        self.things = things
        self.threshold = threshold

    @torch.no_grad()
    def forward(
        self, outputs: dict, processed_sizes: Tensor, target_sizes: Tensor | None = None
    ) -> list[dict]:
        """Assign every pixel to the query whose mask logit is the largest there.

        Args:
            outputs: pred_logits (B, Q, num_classes + 1), pred_masks (B, Q, h, w).
            processed_sizes: (B, 2), height and width of the resized images that the detector saw,
                without padding.
            target_sizes: (B, 2), height and width of the results; processed_sizes if None.

        Returns:
            One dict per image: ids (H, W) int32 on the CPU, 0 where there is no segment, and
            segments_info, a list of dicts with id (from 1 on), isthing, category_id and area.
        """
        if target_sizes is None:
            target_sizes = processed_sizes
        padded_size = processed_sizes.amax(0).tolist()
        scores, labels = outputs["pred_logits"].softmax(-1).max(-1)
        kept = (labels != outputs["pred_logits"].shape[-1] - 1) & (scores > self.threshold)
        sizes = zip(processed_sizes.tolist(), target_sizes.tolist(), strict=True)
        return [
            self._segments(masks[keep], image_labels[keep].tolist(), padded_size, *size)
            for masks, image_labels, keep, size in zip(
                outputs["pred_masks"], labels, kept, sizes, strict=True
            )
        ]

    def _segments(
        self,
        masks: Tensor,
        labels: list[int],
        padded_size: list[int],
        image_size: list[int],
        target_size: list[int],
    ) -> dict:
        """Return the segments of one image; masks: (n, h, w), of queries with these n labels."""
        # Dropping tiny segments gives their pixels to others, so it is repeated until all are
        # large enough.
        while labels:
            groups, categories = self._groups(labels)
            winners = _argmax_masks(masks, padded_size, image_size)
            # "nearest-exact" takes the pixels that Pillow's nearest does.
            ids = groups.to(winners.device)[winners].float()
            ids = F.interpolate(ids[None, None], size=target_size, mode="nearest-exact")[0, 0].int()
            areas = ids.flatten().bincount(minlength=len(categories)).tolist()
            large = [area > LARGEST_DROPPED for area in areas]
            if all(large):
                segments = [
                    {"id": i, "isthing": label in self.things, "category_id": label, "area": area}
                    for i, (label, area) in enumerate(zip(categories, areas, strict=True), start=1)
                ]
                return {"ids": ids.cpu() + 1, "segments_info": segments}
            stays = [large[group] for group in groups.tolist()]
            masks = masks[torch.tensor(stays, device=masks.device)]
            labels = [label for label, stay in zip(labels, stays, strict=True) if stay]
        return {"ids": torch.zeros(target_size, dtype=torch.int32), "segments_info": []}

    def _groups(self, labels: list[int]) -> tuple[Tensor, list[int]]:
        """Return the segment (from 0 on) of each of n queries, (n,), and each segment's category.

        Queries of the same stuff category share a segment.
        """
        groups: list[int] = []
        categories: list[int] = []
        stuff_groups: dict[int, int] = {}
        for label in labels:
            group = len(categories)
            if label not in self.things:
                group = stuff_groups.setdefault(label, group)
            if group == len(categories):
                categories.append(label)
            groups.append(group)
        return torch.tensor(groups), categories


def _argmax_masks(masks: Tensor, padded_size: list[int], image_size: list[int]) -> Tensor:
    """Return which of n masks (n, h, w) is the largest: (*image_size) int64, the first of equals.

    This is upsample_masks(...).argmax(0), in groups of MASKS_AT_ONCE.
    """
    best, winners = upsample_masks(masks[:MASKS_AT_ONCE], padded_size, image_size).max(0)
    for start in range(MASKS_AT_ONCE, len(masks), MASKS_AT_ONCE):
        part = upsample_masks(masks[start : start + MASKS_AT_ONCE], padded_size, image_size)
        value, index = part.max(0)
        winners = torch.where(value > best, index + start, winners)
        best = torch.maximum(value, best)
    return winners
