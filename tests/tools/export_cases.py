"""Small detectors to export, and a comparison of what the exported file finds."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from models import build_model
from tests.helpers.commands import TINY_RUN
from util.misc import nested_tensor_from_tensor_list

NAMES = {1: "disc", 2: "Würfel"}
SIZES = [(300, 500), (200, 96), (49, 40)]  # up to maps of 10 x 16, some offsets beyond gamma


def write_checkpoint(path, args, *options):
    """Of a detector that is not trained, but in which everything counts."""
    torch.manual_seed(0)
    small = ["--enc_layers", "1", "--dec_layers", "1", "--num_classes", "6"]
    parsed = args(*TINY_RUN, *small, *options)
    model, _, _ = build_model(parsed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    for name, parameter in model.named_parameters():
        if "lookup_table" in name:
            nn.init.normal_(parameter, std=2)
        elif "cpb.mlp.2" in name:
            nn.init.normal_(parameter, std=0.5)
        elif "references" in name:
            nn.init.normal_(parameter, std=0.7)
        elif "in_proj_weight" in name:
            parameter.data *= 4  # attention that is not almost uniform
    torch.save({"model": model.state_dict(), "args": parsed, "classes": NAMES}, path)
    return path


def pictures(batch, height, width):
    """The second one is smaller, and padded."""
    generator = torch.Generator().manual_seed(height)
    sizes = [(height, width), (height * 3 // 4, width * 2 // 3)][:batch]
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def assert_finds_the_same(detector, run, sizes=SIZES):
    for batch in (1, 2):
        for size in sizes:
            samples = nested_tensor_from_tensor_list(pictures(batch, *size))
            with torch.no_grad():
                wanted = detector.model(samples)
            found = run({"images": samples.tensors, "mask": samples.mask})
            off = (found["pred_boxes"] - wanted["pred_boxes"]).abs().max()
            assert off < 1e-3, (batch, size, off)
            labels = (found["pred_logits"].argmax(-1), wanted["pred_logits"].argmax(-1))
            assert torch.equal(*labels), (batch, size)
            torch.testing.assert_close(
                found["pred_logits"], wanted["pred_logits"], atol=1e-3, rtol=1e-3
            )
            if "pred_masks" in wanted:
                masks = wanted["pred_masks"]
                assert found["pred_masks"].shape == masks.shape
                torch.testing.assert_close(found["pred_masks"], masks, atol=1e-2, rtol=1e-2)


writes_onnx = pytest.mark.skipif(
    torch.__version__ < (2, 7), reason="PyTorch's exporter before 2.7 cannot"
)
