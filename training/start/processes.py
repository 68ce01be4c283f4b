"""The start of a run: its processes, its device, and the checkpoint that it resumes."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch

from training.amp import set_tf32
from training.random_state import seed_all
from util import distributed as dist
from util.checkpoint import load_checkpoint
from util.cli import with_options
from util.errors import UserError
from util.launchers import init_env_from_srun
from util.machine import keep_freed_memory


def join_processes(args: argparse.Namespace) -> tuple[torch.device, str]:
    """Join the processes of the run; the rank and the number of processes are set in `args`.

    Returns:
        The device, and what is done with freed memory.

    Raises:
        UserError: there is no such device, or the processes do not meet.
    """
    init_env_from_srun()
    if not (args.output_dir or args.eval) and os.environ.get("RANK", "0") == "0":
        print("no --output_dir: nothing of this run will be kept", flush=True)
    memory = "released" if args.release_memory else keep_freed_memory()
    dist.check_gpu_of_each(args.device)
    device = dist.pick_device(args.device)
    # Before the data are looked at: a node that lacks them can then tell the others.
    dist.init_distributed_mode(args, device)
    dist.start_watchdog(args.dist_url)
    return device, memory


def prepare_device(args: argparse.Namespace, device: torch.device, memory: str) -> None:
    """Set --tf32 and the seeds, and print what the run computes on."""
    name = device.type
    if name == "cuda":
        set_tf32(args.tf32)
        name = f"{torch.cuda.get_device_name(device)}, TF32: {args.tf32}"
    dist.print_main(
        f"device: {name}, PyTorch {torch.__version__}, seed {args.seed}, memory: {memory}"
    )
    seed_all(args.seed + dist.get_rank())


def check_run_options(args: argparse.Namespace) -> None:
    """Raise a UserError for options of every run that do not fit each other."""
    if args.resume == "auto" and not args.output_dir:
        raise UserError("--resume auto needs an --output_dir to look in")


def open_resumed(
    args: argparse.Namespace,
    newest_checkpoint: Callable[[bool], tuple[str, Any]],
    content: Any = None,
) -> tuple[argparse.Namespace, Any]:
    """Read the checkpoint of --resume.

    Args:
        newest_checkpoint: what --resume auto calls with --trust_checkpoint; returns path and
            content, "" and None if there is none.
        content: of the checkpoint, if it was read before.

    Returns:
        `args` with the path that --resume auto found, and the content; None without a checkpoint.

    Raises:
        UserError: it cannot be read.
    """
    if args.resume == "auto":
        path, content = newest_checkpoint(args.trust_checkpoint)
        if args.eval and not path:
            raise UserError(f"--resume auto: there is no checkpoint in {args.output_dir}")
        dist.print_main(f"resuming {path}" if path else "nothing to resume yet")
        args = with_options(args, resume=path)
    elif args.resume and content is None:
        content = load_checkpoint(args.resume, args.trust_checkpoint)
    return args, content
