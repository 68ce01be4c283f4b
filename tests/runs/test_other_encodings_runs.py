"""Whole runs of main.py with encodings other than iRPE: they learn, and are resumed to the bit."""

import pytest
import torch

from detection_task import build_optimizer
from detector import load_detector
from models import build_model
from tests.helpers.commands import TINY_RUN, error_line, run_ok
from tests.helpers.runs import assert_same_run, command
from util.checkpoint import load_checkpoint

LEARNED = {
    "rope-mixed": ["rope.freqs"],
    "cpb-log": ["cpb.mlp.0.weight", "cpb.mlp.0.bias", "cpb.mlp.2.weight"],
    "rope-axial": [],
}
PREFIX = "transformer.encoder.layers.0.self_attn."
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "options"),
    [
        pytest.param("rope-mixed", [], id="rope-mixed", marks=SLOW),
        pytest.param("rope-axial", ["--ema", "0.9"], id="rope-axial-ema", marks=SLOW),
        pytest.param(
            "cpb-log", ["--gradient_checkpointing", "--amp", "bf16"], id="cpb-log-amp", marks=SLOW
        ),
    ],
)
def test_a_run_is_resumed_to_the_bit(text, options, shapes, tmp_path):
    given = ["--enc_rpe2d", text, "--epochs", "2", *options]
    whole = run_ok(*command(shapes, tmp_path / "whole", 1, *given))
    assert f"enc_rpe2d {text}" in whole.stdout
    parts = command(shapes, tmp_path / "parts", 1, *given, "--resume", "auto")
    run_ok(*parts, "--epochs", "1")
    begun = load_checkpoint(str(tmp_path / "parts" / "checkpoint.pth"))["model"]
    run_ok(*parts)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    ended = load_checkpoint(str(tmp_path / "whole" / "checkpoint.pth"))["model"]
    own = [name for name in ended if ".rope." in name or ".cpb." in name]
    assert own
    for name in own:
        assert torch.equal(begun[name], ended[name]) == (text == "rope-axial"), name
    assert load_detector(tmp_path / "whole" / "checkpoint.pth", "cpu").args.enc_rpe2d == text
    other = command(shapes, tmp_path / "parts", 1, "--enc_rpe2d", "", "--resume", "auto")
    line = error_line(*other)
    assert f"made with --enc_rpe2d {text}" in line


@pytest.mark.parametrize("text", LEARNED)
def test_a_step_is_trained(text, args):
    """In this process: forward, backward and a step change what can be learned."""
    torch.manual_seed(0)
    model, criterion, _ = build_model(args(*TINY_RUN, "--num_classes", "6", "--enc_rpe2d", text))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, args(*TINY_RUN))
    targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}]
    for _ in range(2):  # at the first one the first layer of a bias learns nothing
        losses = criterion(model(torch.randn(1, 3, 64, 96)), targets)
        optimizer.zero_grad()
        sum(losses[name] * weight for name, weight in criterion.weight_dict.items()).backward()
        optimizer.step()
    after = model.state_dict()
    for name in LEARNED[text]:
        assert not torch.equal(after[PREFIX + name], before[PREFIX + name]), name
    for name in after:
        assert after[name].isfinite().all()
        if text == "rope-axial" and ".rope." in name:
            assert torch.equal(after[name], before[name])
