"""Training resumes from a checkpoint whose parameters are in the order of the published code."""

import argparse
import copy

import pytest
import torch
from torchvision.models.resnet import BasicBlock, ResNet

from checkpoints.compatibility import check_same_model, load_weights
from detection_task import DETECTION, build_optimizer
from models import build_model
from tests.helpers.commands import TINY_MODEL
from training.amp import Precision
from training.state import TrainState
from util.checkpoint import load_checkpoint

# The order in which DETR and the published DETR with iRPE register parameters.
ATTENTION = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
ENCODER_LAYER = [
    *(f"self_attn.{name}" for name in ATTENTION), "self_attn.rpe_k.lookup_table_weight",
    "linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias",
    "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
]  # fmt: skip
DECODER_LAYER = [
    *(f"self_attn.{name}" for name in ATTENTION), *(f"multihead_attn.{name}" for name in ATTENTION),
    "linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias",
    "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "norm3.weight", "norm3.bias",
]  # fmt: skip
DETECTOR = [
    *(f"transformer.encoder.layers.{i}.{name}" for i in (0, 1) for name in ENCODER_LAYER),
    *(f"transformer.decoder.layers.{i}.{name}" for i in (0, 1) for name in DECODER_LAYER),
    "transformer.decoder.norm.weight", "transformer.decoder.norm.bias",
    "class_embed.weight", "class_embed.bias",
    "bbox_embed.layers.0.weight", "bbox_embed.layers.0.bias", "bbox_embed.layers.1.weight",
    "bbox_embed.layers.1.bias", "bbox_embed.layers.2.weight", "bbox_embed.layers.2.bias",
    "query_embed.weight", "input_proj.weight", "input_proj.bias",
]  # fmt: skip
BACKBONE = [
    f"backbone.0.body.{name}"
    for name in ResNet(BasicBlock, [1, 1, 1, 1]).state_dict()
    if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
]
MASK_HEAD = [
    "bbox_attention.q_linear.weight", "bbox_attention.q_linear.bias",
    "bbox_attention.k_linear.weight", "bbox_attention.k_linear.bias",
    *(f"mask_head.{part}{i}.{name}" for i in range(1, 6) for part in ("lay", "gn")
      for name in ("weight", "bias")),
    "mask_head.out_lay.weight", "mask_head.out_lay.bias",
    *(f"mask_head.adapter{i}.{name}" for i in (1, 2, 3) for name in ("weight", "bias")),
]  # fmt: skip
TRAINED = ("layer2", "layer3", "layer4")  # of the backbone, the convolutions


def step(model, optimizer, number):
    """Train for one step on random images."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(number))
    outputs = model.train()(images)
    last = [outputs, *outputs["aux_outputs"]]
    loss = sum(o["pred_logits"].square().mean() + o["pred_boxes"].mean() for o in last)
    if "pred_masks" in outputs:
        loss = loss + outputs["pred_masks"].square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("masks", ["", "masks", "frozen"])
def test_the_next_steps_are_those_of_the_run_that_was_not_stopped(args, tmp_path, masks):
    path = tmp_path / "published.pth"
    options = args(
        *TINY_MODEL, "--backbone_weights", "imagenet", "--dropout", "0", "--resume", path,
        "--lr", "1e-3", "--lr_backbone", "1e-3", *["--masks"] * bool(masks),
        *["--frozen_weights", "detector.pth"] * (masks == "frozen"),
    )  # fmt: skip
    torch.manual_seed(0)
    model, _, _ = build_model(options)
    begin = "detr." if masks else ""
    names = [f"{begin}{name}" for name in (*DETECTOR, *BACKBONE)] + MASK_HEAD * bool(masks)
    parameters = dict(model.named_parameters())
    trained = [n for n in names if n in parameters]
    if masks == "frozen":
        trained = [n for n in names if not n.startswith("detr.")]
    trained = [n for n in trained if "backbone" not in n or any(part in n for part in TRAINED)]
    groups = [
        {"params": [parameters[n] for n in trained if "backbone" not in n]},
        {"params": [parameters[n] for n in trained if "backbone" in n], "lr": options.lr_backbone},
    ]
    optimizer = torch.optim.AdamW(groups, options.lr, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 200)
    for number in range(3):
        step(model, optimizer, number)
    schedule.step()
    state = model.state_dict()
    assert state.keys() == set(names)
    saved = {
        "model": {name: state[name] for name in names},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 0,
        "args": argparse.Namespace(**vars(options)),
    }
    for group in saved["optimizer"]["param_groups"]:  # as PyTorch 1.7 wrote them
        for name in ("foreach", "maximize", "capturable", "differentiable", "fused",
                     "decoupled_weight_decay"):  # fmt: skip
            group.pop(name, None)
    torch.save(saved, path)

    checkpoint = load_checkpoint(str(path))
    check_same_model(checkpoint, options)
    torch.manual_seed(1)
    resumed, _, _ = build_model(copy.copy(options))
    load_weights(resumed, checkpoint, "published.pth", to_train_on=True)
    own = build_optimizer(resumed, options)
    own_schedule = torch.optim.lr_scheduler.StepLR(own, options.lr_drop)
    precision = Precision("off", torch.device("cpu"))
    run = TrainState(DETECTION, resumed, own, own_schedule, precision, options)
    run.load_state_dict(checkpoint, 3)
    assert (run.epoch, own_schedule.last_epoch) == (0, 1)
    for number in (3, 4):
        step(model, optimizer, number)
        step(resumed, own, number)
    wanted = model.state_dict()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, wanted[name]), name
