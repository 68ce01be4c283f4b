"""Time and memory of passes of a model, measured in a process of its own for each size of images.

Run as a file, it takes a pickled `Request` from stdin and writes the result as JSON to stdout. A
process that has done nothing else knows how much memory its passes needed, and one that runs out of
memory ends alone.
"""

import json
import pickle
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder

import torch
from torch import Tensor, nn

from rpe_ops.library import LIBRARY, serves_gpu
from tools.model_cost.subjects import Size, Subject
from training.amp import Precision
from util.cli import run_command
from util.distributed import pick_device
from util.machine import keep_freed_memory, machine_facts

WARM_UP = 2  # passes before those that are timed
PASSES = ("forward", "forward_backward")
UNKNOWN = "not known: Linux alone tells the largest memory of a process"
HIDDEN = "not known: the passes needed no more than the start of their process"


@dataclass(frozen=True)
class Request:
    """What is measured.

    Attributes:
        passes: how many of each kind are timed.
        threads: of PyTorch on the CPU.
        train: whether forward and backward passes are, too.
    """

    subject: Subject
    size: Size
    batch_size: int
    device: str
    amp: str
    passes: int
    threads: int
    train: bool


# ---- in the tool's process ----


def measure_apart(request: Request) -> dict[str, Any]:
    """Measure in a process of its own.

    Returns:
        What `measure` returns, or {"error": a line} if the process failed.
    """
    done = subprocess.run(
        [sys.executable, __file__], input=pickle.dumps(request), capture_output=True, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        memory = ", as the system does when memory runs out" * (name == "SIGKILL")
        return {"error": f"its process was ended by {name}{memory}"}
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
    return {"error": lines[-1].removeprefix("error: ")}


def machine(device: torch.device) -> dict[str, str]:
    """Describe what times and memory depend on besides the model."""
    on_gpu = device.type == "cuda"
    compiled = serves_gpu(device.index) if on_gpu else device.type in LIBRARY.devices
    return {**machine_facts(device), "operators": "compiled" if compiled else "not compiled"}


# ---- in the process of a measurement ----


def measure(request: Request) -> dict[str, Any]:
    """Measure forward passes in evaluation mode, then forward and backward passes in training.

    Returns:
        For each of PASSES that is asked for {"milliseconds": median, "peak_bytes": most memory or
        None, "why_not": a line in the place of the memory}; and "start_bytes": resident memory of
        the process when the model was built, None where that is not known.
    """
    keep_freed_memory()  # as main.py does
    torch.set_num_threads(request.threads)
    device = pick_device(request.device)
    torch.manual_seed(0)
    model = request.subject.build().to(device)
    images = torch.randn(request.batch_size, 3, *request.size, device=device)
    precision = Precision(request.amp, device)
    result: dict[str, Any] = {"start_bytes": _status("VmRSS")}
    for name in PASSES[: 1 + request.train]:
        action = _action(name, model.train(name != "forward"), images, precision)
        result[name] = _timed(action, request.passes, device)
    return result


def _action(
    name: str, model: nn.Module, images: Tensor, precision: Precision
) -> Callable[[], None]:
    @torch.no_grad()
    def forward() -> None:
        with precision.autocast():
            model(images)

    def forward_backward() -> None:
        with precision.autocast():
            outputs = model(images)
        torch.stack([output.float().sum() for output in tensors_in(outputs)]).sum().backward()
        model.zero_grad()

    return forward if name == "forward" else forward_backward


def tensors_in(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested dicts, lists and tuples."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict | list | tuple):
        for part in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from tensors_in(part)


def _timed(action: Callable[[], None], passes: int, device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    before = _status("VmHWM")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(WARM_UP + passes):
        begin = time.perf_counter()
        action()
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else _status("VmHWM")
    why_not = None
    if peak is None:
        why_not = UNKNOWN
    elif not on_gpu and peak == before:
        # That was the peak of something earlier: the passes may have needed less.
        peak, why_not = None, HIDDEN
    milliseconds = 1e3 * statistics.median(seconds[WARM_UP:])
    return {"milliseconds": milliseconds, "peak_bytes": peak, "why_not": why_not}


def _status(name: str) -> int | None:
    """Return a number of bytes of /proc/self/status: VmRSS, resident now, or VmHWM, at most."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    # Not what getrusage says: that includes the process which this one was started from.
    found = re.search(rf"^{name}:\s*(\d+) kB", status.read_text(), re.M)
    return int(found[1]) << 10 if found else None


def _answer() -> None:
    request = pickle.load(sys.stdin.buffer)
    print(json.dumps(measure(request)))


if __name__ == "__main__":
    run_command(_answer)
