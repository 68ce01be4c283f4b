"""tools/cost.py: the form of its measurements, never how fast or small they are."""

import json
import re
import subprocess

import pytest
import torch

from arguments import get_args_parser
from tests.helpers.tool_runs import run_tool
from tools import cost
from tools.model_cost import measuring
from tools.model_cost.measuring import Request, measure, measure_apart, tensors_in
from tools.model_cost.subjects import DetectorSubject

COMMAND = [
    "--backbone", "resnet10_tiny", "--hidden_dim", "32", "--nheads", "4", "--enc_layers", "1",
    "--dec_layers", "1", "--dim_feedforward", "64", "--num_queries", "8", "--device", "cpu",
]  # fmt: skip


def request_of(**changes) -> Request:
    args = get_args_parser().parse_args(COMMAND)
    fields = {"size": (64, 96), "batch_size": 2, "device": "cpu", "amp": "off", "passes": 3,
              "threads": 1}  # fmt: skip
    return Request(**{"subject": DetectorSubject(args), "train": False, **fields, **changes})


def assert_measured(found: dict, start_bytes: int) -> None:
    assert found["milliseconds"] > 0
    assert (found["peak_bytes"] is None) == (found["why_not"] is not None)
    assert found["peak_bytes"] is None or found["peak_bytes"] > start_bytes


def test_a_process_of_its_own_answers():
    found = measure_apart(request_of(passes=1))
    assert found.keys() == {"start_bytes", "forward"}, found
    assert_measured(found["forward"], found["start_bytes"])
    assert found["start_bytes"] > 2**26  # Python with PyTorch


@pytest.mark.slow
def test_times_and_memory_of_two_sizes(tmp_path):
    given = ["--size", "64", "96", "--size", "320", "320", "--passes", "2", "--train"]
    run = run_tool(cost, *COMMAND, *given, "--output", tmp_path / "cost.json")
    assert run.code == 0, run.err
    for size in json.loads((tmp_path / "cost.json").read_text())["sizes"]:
        for name in ("forward", "forward_backward"):
            assert_measured(size["measured"][name], size["measured"]["start_bytes"])


def test_what_was_measured_is_printed_and_written(monkeypatch, tmp_path):
    asked = []

    def measured(request):
        asked.append(request)
        forward = {"milliseconds": 1234.56, "peak_bytes": 3 << 30, "why_not": None}
        both = {"milliseconds": 2.0, "peak_bytes": None, "why_not": "not known: so it is"}
        return {"start_bytes": 700 << 20, "forward": forward, "forward_backward": both}

    monkeypatch.setattr(cost, "measure_apart", measured)
    given = ["--size", "64", "96", "--size", "96", "96", "--size", "64", "96", "--passes", "2"]
    others = ["--train", "--batch_size", "3", "--amp", "bf16", "--gradient_checkpointing"]
    run = run_tool(cost, *COMMAND, *given, *others, "--output", tmp_path / "cost.json")
    assert run.code == 0, run.err
    assert [request.size for request in asked] == [(64, 96), (96, 96)]
    first = asked[0]
    assert (first.batch_size, first.amp, first.passes, first.train) == (3, "bf16", 2, True)
    assert first.threads == torch.get_num_threads()
    assert first.subject.args.gradient_checkpointing and first.device == "cpu"
    for line in (
        r"detector: resnet10_tiny, .*, batches of 3",
        r" +parameters  MMAC, 64 x 96  MMAC, 96 x 96",
        r"forward, ms +1,234\.6 +1,234\.6",
        r"forward and backward, ms +2\.0 +2\.0",
        r"  peak memory, MiB +3,072 +3,072",
        r"  peak memory, MiB +- +-",
        r"96 x 96: peak memory, forward and backward: not known: so it is",
        r"memory is the whole process's: it had 700 MiB, .*",
        rf"torch {re.escape(torch.__version__)}, python 3.*, cpu .*, threads 1, device cpu, "
        "operators (not )?compiled",
    ):
        assert re.search(f"^{line}$", run.out, re.M), (line, run.out)
    content = json.loads((tmp_path / "cost.json").read_text())
    assert content["sizes"][1]["measured"]["forward"]["milliseconds"] == 1234.56
    assert content["machine"]["torch"] == torch.__version__ and content["batch_size"] == 3


def test_passes_and_modes(monkeypatch):
    """Two passes more than asked for warm up; modes are those of evaluation and training."""
    seen = []
    build = DetectorSubject.build

    def watched(self):
        model = build(self)
        model.register_forward_hook(
            lambda module, inputs, _: seen.append(
                (module.training, torch.is_grad_enabled(), tuple(inputs[0].shape))
            )
        )
        return model

    monkeypatch.setattr(DetectorSubject, "build", watched)
    monkeypatch.setattr(measuring, "keep_freed_memory", lambda: "")
    result = measure(request_of(train=True))
    shape = (2, 3, 64, 96)
    assert seen == [(False, False, shape)] * 5 + [(True, True, shape)] * 5
    assert result.keys() == {"start_bytes", "forward", "forward_backward"}
    assert measure(request_of()).keys() == {"start_bytes", "forward"}


def test_the_median_is_of_passes_after_the_first_two(monkeypatch):
    ticks = iter([0, 100, 200, 300, 300, 301, 400, 403, 500, 507])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(ticks))
    calls = []
    timed = measuring._timed(lambda: calls.append(1), 3, torch.device("cpu"))
    assert timed["milliseconds"] == 3000 and len(calls) == 5


def test_memory_is_left_out_where_it_cannot_be_trusted(monkeypatch):
    def timed(*peaks):
        values = iter(peaks)
        monkeypatch.setattr(measuring, "_status", lambda name: next(values))
        found = measuring._timed(lambda: None, 1, torch.device("cpu"))
        return found["peak_bytes"], found["why_not"]

    assert timed(100, 150) == (150, None)
    assert timed(100, 100) == (None, measuring.HIDDEN)
    assert timed(None, None) == (None, measuring.UNKNOWN)


@pytest.mark.parametrize(
    "code, stderr, words",
    [
        (-9, b"", "its process was ended by SIGKILL, as the system does when memory runs out"),
        (-11, b"", "its process was ended by SIGSEGV"),
        (1, b"warning\nerror: out of memory\n", "out of memory"),
        (1, b"", "no message"),
    ],
)
def test_a_measurement_that_fails_says_so(monkeypatch, code, stderr, words):
    def fail(command, **_):
        return subprocess.CompletedProcess(command, code, b"", stderr)

    monkeypatch.setattr(subprocess, "run", fail)
    assert measure_apart(request_of()) == {"error": words}
    run = run_tool(cost, *COMMAND, "--size", "64", "96")
    assert run.code == 0 and f"64 x 96: not measured: {words}\n" in run.out
    assert "forward, ms" not in run.out and "total" in run.out


def test_tensors_in_nested_outputs():
    outputs = {"a": torch.ones(1), "b": [(torch.ones(2), 3), {"c": torch.ones(3)}]}
    assert [tensor.numel() for tensor in tensors_in(outputs)] == [1, 2, 3]
