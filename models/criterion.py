"""DETR's set prediction loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from util.box_ops import box_cxcywh_to_xyxy
from util.distributed import all_reduce_sum, get_world_size

from .mask_losses import mask_losses
from .matcher import Matches


class SetCriterion(nn.Module):
    """Match predictions with objects, then supervise each matched pair's class, box and mask.

    The decoder layers are stacked and go through each loss together.

    Args:
        num_classes: class ids 0 .. num_classes - 1, "no object" is num_classes.
        matcher: see `models.matcher.HungarianMatcher`.
        weight_dict: what each loss counts in the sum that is minimised, by name.
        eos_coef: weight of "no object" in the cross entropy.
    """

    def __init__(
        self, num_classes: int, matcher: nn.Module, weight_dict: dict[str, float], eos_coef: float
    ):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = weight_dict
        class_weight = torch.ones(num_classes + 1)
        class_weight[-1] = eos_coef
        # Follows the module's device but is no part of a checkpoint's weights.
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, outputs: dict, targets: list[dict]) -> dict[str, Tensor]:
        """All losses by name, not yet weighted; those of aux_outputs[i] end in _i.

        Args:
            outputs: what `models.detr.DETR` or `models.segmentation.DETRsegm` returns.
            targets: one a image: labels (n,), boxes (n, 4) as (cx, cy, w, h) in [0, 1], and for
                pred_masks masks (n, H, W) bool.
        """
        logits, boxes = _stacked(outputs)
        suffixes = [*(f"_{i}" for i in range(len(logits) - 1)), ""]
        matches = outputs["matches"] if "matches" in outputs else self.match(outputs, targets)
        picked, labels, wanted = self._pairs(matches, targets, boxes.device)
        num_boxes = self._mean_num_boxes(targets, boxes.device)
        by_layer = {
            "loss_ce": self._cross_entropy(logits, picked, labels),
            **self._box_losses(boxes[picked], wanted, num_boxes),
            "cardinality_error": self._cardinality_error(logits, targets),
        }
        losses = {
            name + suffix: value
            for name, values in by_layer.items()
            for suffix, value in zip(suffixes, values.unbind(), strict=True)
        }
        if "pred_masks" in outputs:
            losses |= self._mask_losses(outputs, matches[-1], targets, num_boxes)
        losses["class_error"] = self._class_error(logits[picked][-1], labels[-1])
        return losses

    def match(self, outputs: dict, targets: list[dict]) -> list[Matches]:
        """The matches of each decoder layer, the last one's last; see `HungarianMatcher`."""
        return self.matcher.match_layers(*_stacked(outputs), targets)

    def _pairs(
        self, matches: list[Matches], targets: list[dict], device: torch.device
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """The matched pairs; each layer has as many, M.

        Returns:
            index (layer, image, query) of the predictions, which broadcasts to (layers, M), and
            the labels (layers, M) and boxes (layers, M, 4) of their objects.
        """
        image = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(matches[0])])
        query = torch.stack([torch.cat([q for q, _ in layer]) for layer in matches])
        thing = torch.stack([torch.cat([o for _, o in layer]) for layer in matches])
        # Where the objects of all images stand in one row, an image's begin behind the others'.
        counts = torch.tensor([len(target["labels"]) for target in targets])
        thing += (counts.cumsum(0) - counts)[image]
        index = torch.stack([image.expand_as(query), query, thing]).to(device)
        layer = torch.arange(len(matches), device=device)[:, None]
        labels = torch.cat([target["labels"] for target in targets])[index[2]]
        wanted = torch.cat([target["boxes"] for target in targets])[index[2]]
        return (layer, index[0], index[1]), labels, wanted

    def _mask_losses(
        self, outputs: dict, matches: Matches, targets: list[dict], num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """loss_mask and loss_dice of the last layer's matched queries."""
        masks = outputs["pred_masks"]
        if "matches" in outputs:  # they are those of matched queries alone
            found = masks.split([len(queries) for queries, _ in matches])
        else:
            found = [
                of_image[queries.to(of_image.device)]
                for of_image, (queries, _) in zip(masks, matches, strict=True)
            ]
        wanted = [
            target["masks"][things.to(masks.device)]
            for target, (_, things) in zip(targets, matches, strict=True)
        ]
        return mask_losses(found, wanted, num_boxes)

    def _mean_num_boxes(self, targets: list[dict], device: torch.device) -> Tensor:
        """Objects per process, at least 1.

        In evaluation processes may have different numbers of batches, so each counts its own.
        """
        num_boxes = torch.tensor(
            sum(len(target["labels"]) for target in targets), dtype=torch.float32, device=device
        )
        if self.training:
            num_boxes = all_reduce_sum(num_boxes) / get_world_size()
        return num_boxes.clamp(min=1)

    def _cross_entropy(self, logits: Tensor, picked: tuple, labels: Tensor) -> Tensor:
        """Weighted mean over the queries of a batch: (layers,)."""
        classes = torch.full_like(logits[..., 0], self.num_classes, dtype=torch.int64)
        classes[picked] = labels
        terms = F.cross_entropy(
            logits.flatten(0, 2), classes.flatten(), self.class_weight, reduction="none"
        )
        weights = self.class_weight[classes].flatten(1)
        return terms.view_as(weights).sum(1) / weights.sum(1)

    def _box_losses(self, boxes: Tensor, wanted: Tensor, num_boxes: Tensor) -> dict[str, Tensor]:
        """L1 and generalised IoU loss of pairs (layers, M, 4): each (layers,)."""
        giou_loss = generalized_box_iou_loss(
            box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted), eps=0
        )
        return {
            "loss_bbox": (boxes - wanted).abs().sum((1, 2)) / num_boxes,
            "loss_giou": giou_loss.sum(1) / num_boxes,
        }

    @torch.no_grad()
    def _class_error(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Percentage of matched queries (M, num_classes + 1) with another class; only logged."""
        correct = (logits.argmax(-1) == labels).float()
        return 100 * (1 - correct.sum() / max(len(labels), 1))

    @torch.no_grad()
    def _cardinality_error(self, logits: Tensor, targets: list[dict]) -> Tensor:
        """Mean absolute error of the number of objects predicted: (layers,); only logged."""
        found = (logits.argmax(-1) != self.num_classes).sum(2)
        present = torch.tensor([len(t["labels"]) for t in targets], device=logits.device)
        return (found - present).abs().float().mean(1)


def _stacked(outputs: dict) -> tuple[Tensor, Tensor]:
    """Logits (layers, B, Q, num_classes + 1) and boxes (layers, B, Q, 4), the last layer last."""
    layers = [*outputs.get("aux_outputs", ()), outputs]
    return tuple(torch.stack([layer[k] for layer in layers]) for k in ("pred_logits", "pred_boxes"))
