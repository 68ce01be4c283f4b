"""From detections and masks to one segment for each pixel (DETR, section 4.4)."""

from collections.abc import Container

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .postprocess import MASKS_AT_ONCE, enlarged

COCO_THINGS = range(91)  # category ids; those above are stuff
LARGEST_DROPPED = 4  # pixels


class PostProcessPanoptic(nn.Module):
    """A map of segments for each image.

    Args:
        things: ids of the categories whose objects are segments of their own; all pixels of
            another category are one segment.
        threshold: queries need a higher probability of their class to have a segment.
    """

    def __init__(self, things: Container[int] = COCO_THINGS, threshold: float = 0.85):
        super().__init__()
        self.things = things
        self.threshold = threshold

    @torch.no_grad()
    def forward(
        self, outputs: dict, processed_sizes: Tensor, target_sizes: Tensor | None = None
    ) -> list[dict]:
        """Give every pixel to the query whose mask is the strongest there.

        Args:
            outputs: pred_logits (B, Q, num_classes + 1), pred_masks (B, Q, h, w).
            processed_sizes: (B, 2), height and width of the images that the detector saw, without
                padding.
            target_sizes: (B, 2), those that maps shall have; processed_sizes if None.

        Returns:
            One an image: ids (H, W) int32 on the CPU, 0 where there is no segment, and
            segments_info, a list of dicts with id (from 1 on), isthing, category_id and area.
        """
        if target_sizes is None:
            target_sizes = processed_sizes
        padded = processed_sizes.amax(0).tolist()
        scores, labels = outputs["pred_logits"].softmax(-1).max(-1)
        kept = (labels != outputs["pred_logits"].shape[-1] - 1) & (scores > self.threshold)
        sizes = zip(processed_sizes.tolist(), target_sizes.tolist(), strict=True)
        return [
            self._segments(masks[keep], of_image[keep].tolist(), padded, *size)
            for masks, of_image, keep, size in zip(
                outputs["pred_masks"], labels, kept, sizes, strict=True
            )
        ]

    def _segments(
        self,
        masks: Tensor,
        labels: list[int],
        padded: list[int],
        inside: list[int],
        wanted: list[int],
    ) -> dict:
        """Of one image: masks (n, h, w) of queries with these labels."""
        while labels:
            groups, categories = self._groups(labels)
            winners = _strongest(masks, padded, inside)
            # "nearest-exact" takes the pixels that Pillow's nearest does.
            ids = groups.to(winners.device)[winners].float()
            ids = F.interpolate(ids[None, None], size=wanted, mode="nearest-exact")[0, 0].int()
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
        return {"ids": torch.zeros(wanted, dtype=torch.int32), "segments_info": []}

    def _groups(self, labels: list[int]) -> tuple[Tensor, list[int]]:
        """Which segment (from 0 on) each query belongs to, and the segments' categories."""
        groups, categories, of_stuff = [], [], {}
        for label in labels:
            group = len(categories)
            if label not in self.things:
                group = of_stuff.setdefault(label, group)
            if group == len(categories):
                categories.append(label)
            groups.append(group)
        return torch.tensor(groups), categories


def _strongest(masks: Tensor, padded: list[int], inside: list[int]) -> Tensor:
    """Which of n masks (n, h, w) is the largest: (*inside) int64, the first of equal ones."""
    best = winners = None
    for start in range(0, len(masks), MASKS_AT_ONCE):
        part = enlarged(masks[start : start + MASKS_AT_ONCE], padded, inside)
        value, index = part.max(0)
        index += start
        if best is None:
            best, winners = value, index
        else:
            winners = torch.where(value > best, index, winners)
            best = torch.maximum(value, best)
    return winners
