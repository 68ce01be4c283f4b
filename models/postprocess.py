"""From the detector's outputs to detections in pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy


class PostProcess(nn.Module):
    @torch.no_grad()
    def forward(self, outputs: dict, target_sizes: Tensor) -> list[dict[str, Tensor]]:
        """The best class and the box of every query.

        Args:
            outputs: pred_logits (B, Q, num_classes + 1), pred_boxes (B, Q, 4).
            target_sizes: (B, 2), height and width of the images that boxes shall be given in.

        Returns:
            One a image: scores (Q,), labels (Q,), boxes (Q, 4) as (x0, y0, x1, y1) in pixels.
        """
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
    """What `PostProcess` gives, and masks as from `PostProcessSegm` where the model has them.

    Args:
        postprocessors: as from `build_model`.
        outputs, orig_target_sizes, target_sizes: see `PostProcessSegm`.
    """
    results = postprocessors["bbox"](outputs, orig_target_sizes)
    if "segm" in postprocessors:
        results = postprocessors["segm"](results, outputs, orig_target_sizes, target_sizes)
    return results


MASKS_AT_ONCE = 8  # that are enlarged together


class PostProcessSegm(nn.Module):
    """The masks of detections.

    Args:
        threshold: least probability of a pixel that belongs to an object.
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
        """Add masks to what `PostProcess` gives.

        Args:
            results: one an image, changed in place.
            outputs: pred_masks (B, Q, h, w).
            orig_target_sizes: (B, 2), height and width that masks shall have.
            target_sizes: (B, 2), those of the images that the detector saw, without padding.

        Returns:
            `results`, each with masks (Q, H, W) bool.
        """
        padded = target_sizes.amax(0).tolist()
        sizes = zip(target_sizes.tolist(), orig_target_sizes.tolist(), strict=True)
        for result, logits, size in zip(results, outputs["pred_masks"], sizes, strict=True):
            parts = [self._masks(part, padded, *size) for part in logits.split(MASKS_AT_ONCE)]
            result["masks"] = torch.cat(parts)
        return results

    def _masks(
        self, logits: Tensor, padded: list[int], inside: list[int], wanted: list[int]
    ) -> Tensor:
        """(n, h, w) -> (n, H, W) bool: enlarged, cut to the image, then brought to its own size."""
        probability = enlarged(logits, padded, inside).sigmoid()
        masks = (probability > self.threshold).byte()
        return F.interpolate(masks[:, None], size=wanted)[:, 0].bool()


def enlarged(logits: Tensor, padded: list[int], inside: list[int]) -> Tensor:
    """Masks (n, h, w) of a padded image -> (n, *inside) in pixels of the image in its corner."""
    full = F.interpolate(logits[:, None].float(), size=padded, mode="bilinear")[:, 0]
    return full[:, : inside[0], : inside[1]]
