"""What the benchmarks share: timing side by side, the machine's description, result files."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch


def medians(
    actions: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, float]:
    """Median seconds of each action; the actions take turns, so that all see the same machine."""
    for action in actions.values():
        for _ in range(2):
            action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(_seconds(action, device))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        action()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def machine(device: torch.device) -> dict[str, str]:
    """What a result depends on besides the code."""
    facts = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "threads": str(torch.get_num_threads()),
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def show(facts: dict[str, str]) -> None:
    for name, fact in facts.items():
        print(f"{name:8} {fact}")


def write_json(path: Path | None, facts: dict[str, str], results: list[dict]) -> None:
    """The result file, if one is wanted; says where it is."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": facts, "results": results}, indent=1) + "\n")
    print(f"\nwritten to {path}")
