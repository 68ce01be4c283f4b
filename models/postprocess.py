"""From the detector's outputs to detections in pixels."""

import torch
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
