"""The demo's model scores the same however its attention is computed, and nearly so in 16 bits.

Evaluates what `make demo` leaves behind on its validation images; interpreted kernels, which take
five seconds for an image, on the first 16.
"""

import functools
import itertools

import pytest
import torch

from checkpoints.compatibility import load_weights
from datasets.loaders import build_loaders
from engine import evaluate
from models import build_model
from tests.helpers.commands import ROOT
from training.amp import Precision
from util.checkpoint import load_checkpoint

CHECKPOINT = ROOT / "output" / "demo" / "checkpoint.pth"
SHAPES = ROOT / "data" / "shapes"
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKPOINT.exists(), reason="make demo makes the model to evaluate"),
]


@functools.cache
def coco_numbers(attention: str, amp: str = "off", batches: int | None = None) -> torch.Tensor:
    """COCO's 12 numbers, of all images or those of the first batches."""
    checkpoint = load_checkpoint(str(CHECKPOINT))
    args = checkpoint["args"]
    args.attention, args.coco_path, args.resume = attention, str(SHAPES), str(CHECKPOINT)
    model, criterion, postprocessors = build_model(args)
    load_weights(model, checkpoint, args.resume)
    _, loader = build_loaders(args)
    stats, _ = evaluate(
        model,
        criterion,
        postprocessors,
        list(itertools.islice(loader, batches)),
        loader.dataset.annotations,
        CPU,
        precision=Precision(amp, CPU),
    )
    return torch.tensor(stats["coco_eval_bbox"], dtype=torch.float64)


@pytest.mark.parametrize(("attention", "batches"), [("auto", None), ("math", None), ("fused", 1)])
def test_the_same_numbers_by_each_way_of_attention(attention, batches):
    expected = coco_numbers("sdpa", batches=batches)
    assert expected[0] > (0.4 if batches is None else 0.01)  # other images count as missed
    found = coco_numbers(attention, batches=batches)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_nearly_the_same_average_precision_in_bfloat16():
    expected, found = coco_numbers("sdpa"), coco_numbers("auto", "bf16")
    assert not torch.equal(found, expected)
    assert abs(found[0] - expected[0]) <= 0.005
