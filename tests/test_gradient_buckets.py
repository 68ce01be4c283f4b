"""More than two processes add up gradients in one order, in fresh and in resumed runs."""

import os

import torch
from conftest import MAIN, TINY_RUN, free_port, run_ok
from torch.nn.parallel import DistributedDataParallel

from main import get_args_parser
from models import build_model
from util.checkpoint import load_checkpoint
from util.gradient_buckets import settle_buckets
from util.precision import Precision


def test_four_processes_resume_to_the_bit(shapes, tmp_path):
    def train(out, *options):
        run_ok(
            "-m", "torch.distributed.run", "--nproc_per_node=4", f"--master_port={free_port()}",
            MAIN, *TINY_RUN, "--coco_path", shapes, "--batch_size", "1", "--eval_every", "9",
            "--output_dir", out, *options,
        )  # fmt: skip

    train(tmp_path / "whole", "--epochs", "2")
    train(tmp_path / "parts", "--epochs", "1")
    train(tmp_path / "parts", "--epochs", "2", "--resume", "auto")
    whole, parts = (
        load_checkpoint(str(tmp_path / name / "checkpoint.pth"))["model"]
        for name in ("whole", "parts")
    )
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_settling_changes_nothing_else(monkeypatch):
    for name, value in (
        ("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", str(free_port())),
    ):  # fmt: skip
        monkeypatch.setitem(os.environ, name, value)
    torch.distributed.init_process_group("gloo")
    try:
        model = build_model(get_args_parser().parse_args(TINY_RUN))[0]
        before = {name: value.clone() for name, value in model.state_dict().items()}
        generator = torch.get_rng_state()
        wrapped = DistributedDataParallel(model)
        settle_buckets(wrapped, Precision("off", torch.device("cpu")), torch.device("cpu"))
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(parameter.grad is None for parameter in model.parameters())
        wrapped(torch.zeros(1, 3, 64, 64))
        assert not wrapped.reducer._rebuild_buckets()  # that is done
    finally:
        torch.distributed.destroy_process_group()
