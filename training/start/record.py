"""args.json: how a run was made, an entry for each time that it was started."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

from rpe_ops.library import LIBRARY
from training.output_dir import STARTS, first_free
from util.distributed import print_main
from util.errors import UserError
from util.files import atomic_write, read_text
from util.machine import surroundings

ROOT = Path(__file__).resolve().parents[2]
# Values of a process in args, and what is recorded otherwise.
NOT_OPTIONS = {"rank", "gpu", "distributed", "dist_backend", "given", "world_size"}
# Options that may differ between runs that learn the same: where a run is, and matters of the
# machine.
NOT_COMPARED = {
    "output_dir", "resume", "given", "num_workers", "device", "checkpoint_every", "tensorboard",
    "trust_checkpoint", "dist_url", "world_size", "release_memory", "cache_images", "coco_eval",
    "pin_mem", "dist_eval", "eval_table",
}  # fmt: skip


def record_start(folder: Path | None, args: argparse.Namespace, data: Callable[[], str]) -> None:
    """Add how the run is started now to args.json.

    Args:
        folder: of the run; None, for nowhere and on all processes but the main one, does nothing.
        args: of the run, completed.
        data: returns the fingerprint of the validation data.

    Raises:
        UserError: the file cannot be written.
    """
    if folder is None:
        return
    before = read_starts(folder)
    if not before and (folder / STARTS).is_file():
        aside = first_free(folder, "damaged_args_{}.json")
        (folder / STARTS).rename(aside)
        print_main(f"{folder / STARTS} could not be read; it is {aside.name} now")
    starts = [*before, start_of(args, data())]
    with atomic_write(folder / STARTS) as file:
        file.write(f"{json.dumps({'starts': starts}, indent=1, default=str)}\n".encode())


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of args.json, oldest first; none where there is no such file, or no sense.

    Each entry has a dict of "options"; all else is to be checked by who uses it.
    """
    try:
        content = json.loads(read_text(folder / STARTS, errors="replace"))
    except (FileNotFoundError, UserError, ValueError, RecursionError):
        return []
    starts = content.get("starts") if isinstance(content, dict) else None
    return [
        start
        for start in (starts if isinstance(starts, list) else [])
        if isinstance(start, dict) and isinstance(start.get("options"), dict)
    ]


def last_start(folder: Path) -> dict[str, Any]:
    """Return the newest entry of args.json; {} where there is none."""
    return next(reversed(read_starts(folder)), {})


def validation_data(start: dict[str, Any]) -> str:
    """Tell the data of evaluations: equal texts are equal data; empty if unknown.

    Args:
        start: an entry of args.json, or {}.
    """
    return str(start.get("validation_data") or "")


def start_of(args: argparse.Namespace, data: str) -> dict[str, Any]:
    """Return when, where, by which code and with which options this process was started.

    Args:
        data: fingerprint of the validation data.
    """
    options = {name: value for name, value in vars(args).items() if name not in NOT_OPTIONS}
    device = torch.device("cpu") if args.gpu is None else torch.device("cuda", args.gpu)
    return {
        **surroundings(sys.argv, device, torchvision=torchvision.__version__),
        "processes": args.world_size,
        "operators": "compiled" if LIBRARY.path is not None else "PyTorch's",  # of rpe_ops
        "options": options,
        "validation_data": data,
        "git": git_state(ROOT),
    }


def git_state(root: Path) -> dict[str, Any] | None:
    """Return the commit of a working tree, and whether its files differ from it; None without git.

    Files that git does not know do not count.
    """
    command = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        commit, changes = (
            subprocess.run(
                [*command, *words], capture_output=True, text=True, timeout=30, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changes)}
