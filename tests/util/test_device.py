"""Which GPU a process uses, on a machine that pretends to have some."""

from argparse import Namespace

import pytest
import torch

from detector import load_detector
from tests.helpers.commands import answer_of_main
from util import distributed as dist
from util.errors import UserError

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # fmt: skip


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Four GPUs; returns what was asked of CUDA and of the process group, in order."""
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(("set", device)))
    monkeypatch.setattr(
        torch.distributed, "init_process_group",
        lambda *args, **options: made.append(
            ("join", args[0], options["device_id"], options["timeout"].total_seconds())
        ),
    )  # fmt: skip
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    return made


def launch(monkeypatch, **changes):
    for name, value in {**LAUNCHED, **changes}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("name", "index"), [("cuda:2", 2), ("cuda", 0), ("auto", 0)])
def test_the_gpu_of_a_process_alone_is_the_current_one(name, index, calls):
    args = Namespace(dist_url="env://", device=name)
    dist.init_distributed_mode(args)
    assert calls == [("set", torch.device("cuda", index))]
    assert (args.gpu, args.distributed) == (index, False)


def test_a_launched_process_takes_its_own_before_it_joins(calls, monkeypatch):
    launch(monkeypatch)
    args = Namespace(dist_url="env://", device="cuda")
    dist.init_distributed_mode(args)
    own = torch.device("cuda", 1)
    assert calls == [("set", own), ("join", "nccl", own, 7200)]
    assert (args.gpu, args.rank, args.world_size, args.distributed) == (1, 1, 2, True)


def test_on_cpus_nothing_is_asked_of_cuda(calls, monkeypatch):
    launch(monkeypatch)
    dist.init_distributed_mode(Namespace(dist_url="env://", device="cpu"))
    assert calls == [("join", "gloo", None, 7200)]


def test_a_run_sets_the_gpu_before_anything_else(calls, monkeypatch, tmp_path):
    """And before a check of the data ends it."""
    line = answer_of_main("--device", "cuda:3", "--coco_path", tmp_path / "none")
    assert "none" in line and calls[0] == ("set", torch.device("cuda", 3))


@pytest.mark.parametrize("changes", [{}, {"LOCAL_RANK": "0"}, {"LOCAL_WORLD_SIZE": None}])
def test_one_gpu_for_several_processes_is_refused(calls, monkeypatch, tmp_path, changes):
    launch(monkeypatch, **changes)
    line = answer_of_main("--device", "cuda:0", "--coco_path", tmp_path)
    assert "--device cuda:0" in line and "use --device cuda" in line and calls == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cuda:0", {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}),  # two machines with one each
        ("cuda:0", {"LOCAL_WORLD_SIZE": None, "LOCAL_RANK": "0"}),  # srun, each sees its own GPU
        ("cuda", {}),
        ("cpu", {}),
    ],
)
def test_one_for_each_is_not(monkeypatch, name, changes):
    launch(monkeypatch, **changes)
    dist.check_gpu_of_each(name)


def test_without_a_launcher_any_gpu_may_be_named():
    dist.check_gpu_of_each("cuda:3")
    with pytest.raises(UserError, match=r"needs GPU 4, PyTorch sees 4.*; use cuda:3, or use cpu"):
        dist.pick_device("cuda:4")


def test_a_process_too_many(monkeypatch):
    launch(monkeypatch, LOCAL_RANK="4")
    with pytest.raises(UserError, match=r"^--device cuda: .* GPU 4.*; start fewer processes"):
        dist.pick_device("cuda")


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cuda", "^device cuda: PyTorch sees no GPU on this machine; use cpu$"),
        ("cuda:1", "^device cuda:1: PyTorch sees no GPU on this machine; use cpu$"),
        ("gpu", "^device gpu: no such device; use auto, cpu, cuda or cuda:N$"),
        (None, "^device None: no such device; use auto, cpu, cuda or cuda:N$"),
        ("meta", "^device meta: only cpu and cuda are supported$"),
    ],
)
def test_what_python_callers_read_about_a_device(monkeypatch, device, says):
    """Before anything else is looked at; no option of a command is named."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=says):
        load_detector("no such file", device)
