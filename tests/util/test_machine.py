"""What result files say about the machine."""

import os
import platform

import pytest
import torch

from benchmarks import measure
from tools.model_cost import measuring
from util import machine

CPU = torch.device("cpu")
INFO = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Fast: 9000 @ 3 GHz\n\nmodel name\t: Other\n"


@pytest.fixture
def threads():
    """Return a number of threads that PyTorch has, and the processor has not."""
    before, number = torch.get_num_threads(), os.cpu_count() + 1
    torch.set_num_threads(number)
    yield number
    torch.set_num_threads(before)


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Return the name of a processor that the system tells."""
    (tmp_path / "cpuinfo").write_text(INFO)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    return "Fast: 9000 @ 3 GHz"


def test_a_processor_is_called_by_its_model(processor):
    assert machine.cpu_name() == processor


@pytest.mark.parametrize("content", [None, b"", b"CPU part\t: 0xd0c\n", b"\xff\n"])
def test_a_processor_without_a_name_is_called_by_its_kind(content, tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(machine, "CPUINFO", path)
    assert machine.cpu_name() == (platform.processor() or os.uname().machine)


def test_result_files_agree_about_the_machine(processor, threads):
    facts = {"torch": torch.__version__, "python": platform.python_version(), "cpu": processor,
             "threads": str(threads)}  # fmt: skip
    assert machine.machine_facts() == facts
    of_device = facts | {"device": "cpu"}
    assert machine.machine_facts(CPU) == of_device
    assert {**measure.machine(CPU), "date": ""} == of_device | {"date": ""}
    assert {**measuring.machine(CPU), "operators": ""} == of_device | {"operators": ""}
    study = machine.surroundings(["compare.py"])
    assert (study["cpu"], study["threads"], study["cores"]) == (processor, threads, os.cpu_count())
    assert study["versions"].items() >= {
        ("torch", torch.__version__), ("python", platform.python_version())
    }  # fmt: skip


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "6.1")
    facts = machine.machine_facts(torch.device("cuda", 1))
    assert (facts["device"], facts["gpu"], facts["cuda"]) == ("cuda:1", "GPU 1", "6.1")
