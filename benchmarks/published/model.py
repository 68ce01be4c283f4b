"""The detector run the way the code published with the paper runs it, for comparison.

The same weights, and the same results up to rounding, but: attention makes explicit logits,
looks RPE up by one flat index into the flattened table, and returns its weights;
batch norm is a pass of its own over images in the contiguous layout; dropout is PyTorch's; each
decoder layer is matched and scored by itself; the optimizer updates one parameter after the other.
"""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import generalized_box_iou

from models.backbone import FoldedBasicBlock, FoldedBottleneck, _resize_mask
from models.criterion import SetCriterion
from models.layers import Dropout, Linear
from models.transformer import TransformerDecoderLayer, TransformerEncoderLayer
from rpe_ops.irpe import _cached_bucket_ids
from util.box_ops import box_cxcywh_to_xyxy
from util.misc import NestedTensor


class BaselineBackbone(nn.Module):
    """A backbone with batch norm as a layer of its own and contiguous memory layout."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.body = backbone.body.to(memory_format=torch.contiguous_format)
        for module in self.body.modules():
            unfolded = {FoldedBasicBlock: BasicBlock, FoldedBottleneck: Bottleneck}
            module.__class__ = unfolded.get(type(module), type(module))

    def forward(self, images: NestedTensor) -> dict[str, NestedTensor]:
        x = self.body(images.tensors)
        return {"0": NestedTensor(x, _resize_mask(images.mask, x))}


class BaselineEncoderLayer(TransformerEncoderLayer):
    def attend(self, x: Tensor, padding: Tensor, pos: Tensor, hw: tuple[int, int]) -> Tensor:
        attention = self.self_attn
        length, batch, width = x.shape
        heads = attention.num_heads
        q_weight, k_weight, v_weight = attention.in_proj_weight.chunk(3)
        q_bias, k_bias, v_bias = attention.in_proj_bias.chunk(3)
        q = F.linear(x + pos, q_weight, q_bias) * (width // heads) ** -0.5
        k = F.linear(x + pos, k_weight, k_bias)
        v = F.linear(x, v_weight, v_bias)
        q, k, v = (
            t.contiguous().view(length, batch * heads, -1).transpose(0, 1) for t in (q, k, v)
        )
        logits = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
        if attention.rpe_k is not None:
            settings = attention.rpe_k.settings
            ids = _cached_bucket_ids(settings, length, *hw, x.device).long()
            table = q.view(batch, heads, length, -1) @ attention.rpe_k.lookup_table_weight
            buckets = table.shape[-1]
            flat = ids + torch.arange(length, device=x.device)[:, None] * buckets
            looked_up = table.flatten(2)[:, :, flat.flatten()].view_as(logits)
            logits = logits + looked_up
        logits = logits.masked_fill(padding[:, None, None], float("-inf"))
        weights = F.softmax(logits, dim=-1)
        weights = F.dropout(weights, attention.dropout, self.training)
        out = torch.bmm(weights.view(batch * heads, length, length), v)
        out = out.transpose(0, 1).contiguous().view(length, batch, width)
        weights.sum(dim=1).div(heads)  # averaged over heads, for a caller that drops them
        return attention.out_proj(out)


class BaselineDecoderLayer(TransformerDecoderLayer):
    def attend_queries(self, x: Tensor, query_pos: Tensor, box_bias: None = None) -> Tensor:
        q = k = x + query_pos
        return self.self_attn(q, k, x)[0]

    def attend_memory(
        self,
        x: Tensor,
        query_pos: Tensor,
        memory: Tensor,
        padding: Tensor,
        pos: Tensor,
        box_bias: None = None,
    ) -> Tensor:
        return self.multihead_attn(x + query_pos, memory + pos, memory, padding)[0]


class BaselineCriterion(SetCriterion):
    """A criterion that matches each decoder layer by itself, with a copy to the host for each."""

    @torch.no_grad()
    def match(self, layer: dict, targets: list[dict]) -> list[tuple[Tensor, Tensor]]:
        labels = torch.cat([target["labels"] for target in targets])
        wanted = torch.cat([target["boxes"] for target in targets])
        batch, queries = layer["pred_logits"].shape[:2]
        probability = layer["pred_logits"].flatten(0, 1).softmax(-1)[:, labels]
        boxes = layer["pred_boxes"].flatten(0, 1)
        overlap = generalized_box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted))
        cost = (
            self.matcher.cost_bbox * torch.cdist(boxes, wanted, p=1)
            - self.matcher.cost_class * probability
            - self.matcher.cost_giou * overlap
        )
        of_images = (
            cost.view(batch, queries, -1).cpu().split([len(t["labels"]) for t in targets], 2)
        )
        return [
            tuple(map(torch.as_tensor, linear_sum_assignment(of_image[i])))
            for i, of_image in enumerate(of_images)
        ]

    def forward(self, outputs: dict, targets: list[dict]) -> dict[str, Tensor]:
        num_boxes = max(sum(len(target["labels"]) for target in targets), 1)
        losses = {}
        layers = {"": outputs}
        layers.update((f"_{i}", layer) for i, layer in enumerate(outputs["aux_outputs"]))
        for suffix, layer in layers.items():
            matches = self.match(layer, targets)
            image = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(matches)])
            query = torch.cat([q for q, _ in matches])
            pairs = list(zip(targets, matches, strict=True))
            labels = torch.cat([t["labels"][objects] for t, (_, objects) in pairs])
            wanted = torch.cat([t["boxes"][objects] for t, (_, objects) in pairs])
            logits = layer["pred_logits"]
            classes = labels.new_full(logits.shape[:2], self.num_classes)
            classes[image, query] = labels
            boxes = layer["pred_boxes"][image, query]
            overlap = generalized_box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted))
            losses[f"loss_ce{suffix}"] = F.cross_entropy(
                logits.transpose(1, 2), classes, self.class_weight
            )
            losses[f"loss_bbox{suffix}"] = F.l1_loss(boxes, wanted, reduction="sum") / num_boxes
            losses[f"loss_giou{suffix}"] = (1 - overlap.diag()).sum() / num_boxes
        return losses


def make_baseline(
    model: nn.Module, criterion: SetCriterion, optimizer: torch.optim.Optimizer
) -> None:
    """Make a freshly built model, criterion and optimizer compute the published way, in place."""
    published = {
        Dropout: nn.Dropout,
        Linear: nn.Linear,
        TransformerEncoderLayer: BaselineEncoderLayer,
        TransformerDecoderLayer: BaselineDecoderLayer,
    }
    for module in model.modules():
        module.__class__ = published.get(type(module), type(module))
    for group in optimizer.param_groups:
        group["fused"] = None
    model.backbone[0] = BaselineBackbone(model.backbone[0])
    for layer in model.transformer.decoder.layers:
        # The decoder has no RPE, so that PyTorch's module computes the same.
        layer.self_attn.__class__ = layer.multihead_attn.__class__ = nn.MultiheadAttention
    criterion.__class__ = BaselineCriterion
