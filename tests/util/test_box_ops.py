"""The GIoU of pairs of boxes."""

import pytest
import torch
from torchvision import ops

from util.box_ops import box_cxcywh_to_xyxy, generalized_box_iou_loss


def boxes(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two times (3, 50, 4) boxes as (cx, cy, w, h)."""
    one, other = torch.rand(2, 3, 50, 4, generator=torch.Generator().manual_seed(3))
    one[..., 2:] *= 0.4
    other[..., 2:] *= 0.4
    if kind == "same":
        other[:, :20] = one[:, :20]
    elif kind == "touching":
        other = one.clone()
        other[..., 0] += one[..., 2]
    return one, other


@pytest.mark.parametrize("kind", ["any", "same", "touching"])
def test_loss_and_gradient_are_torchvisions_to_the_bit(kind):
    one, other = boxes(kind)
    weights = torch.linspace(0.1, 2, 150).view(3, 50)

    def loss_and_gradient(function, **options):
        x = one.clone().requires_grad_()
        loss = function(box_cxcywh_to_xyxy(x), box_cxcywh_to_xyxy(other), **options)
        (loss * weights).sum().backward()
        return loss, x.grad

    found = loss_and_gradient(generalized_box_iou_loss)
    wanted = loss_and_gradient(ops.generalized_box_iou_loss, eps=0)
    assert all(map(torch.equal, found, wanted))


def test_a_loss_by_hand():
    box = torch.tensor([0.0, 0, 2, 2])
    # Areas of 4 and 6 share 2, their union and their hull are 8.
    other = torch.tensor([1.0, 0, 4, 2])
    assert generalized_box_iou_loss(box, other).item() == pytest.approx(1 - 2 / 8)
    # The second one is within the first: of areas 4 and 12, 4 is shared; the hull is the union.
    around = torch.tensor([[0.0, 0, 4, 3]])
    assert generalized_box_iou_loss(box, around).tolist() == [pytest.approx(1 - 4 / 12)]
    # Apart: nothing is shared, and 8 - 5 of the hull's 8 is in neither.
    apart = torch.tensor([3.0, 0, 4, 1])
    assert generalized_box_iou_loss(box, apart).item() == pytest.approx(1 + (8 - 5) / 8)
