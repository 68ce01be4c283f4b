"""DETR's util.misc: padded batches, and names that code written for DETR imports from here."""

import builtins
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import interpolate

from util.distributed import (
    all_gather,
    all_reduce_sum,
    get_rank,
    get_world_size,
    init_distributed_mode,
    is_dist_avail_and_initialized,
    is_main_process,
)
from util.metric_logger import MetricLogger, SmoothedValue

__all__ = [
    "MetricLogger", "NestedTensor", "SmoothedValue", "accuracy", "all_gather", "collate_fn",
    "get_rank", "get_sha", "get_world_size", "init_distributed_mode", "interpolate",
    "is_dist_avail_and_initialized", "is_main_process", "nested_tensor_from_tensor_list",
    "reduce_dict", "save_on_master", "setup_for_distributed",
]  # fmt: skip


class NestedTensor:
    """A batch of images padded to one size, and the mask of their padding.

    Attributes:
        tensors: (B, C, H, W), zero on padding.
        mask: (B, H, W) bool, True on padding.
    """

    def __init__(self, tensors: Tensor, mask: Tensor | None):
        self.tensors = tensors
        self.mask = mask

    def to(self, device: torch.device) -> "NestedTensor":
        """Copy the batch to `device`; from pinned memory without waiting for the copy to end."""
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return NestedTensor(self.tensors.to(device, non_blocking=True), mask)

    def pin_memory(self) -> "NestedTensor":
        """Copy the batch to pinned memory; DataLoader calls this if it has pin_memory=True."""
        mask = None if self.mask is None else self.mask.pin_memory()
        return NestedTensor(self.tensors.pin_memory(), mask)

    def decompose(self) -> tuple[Tensor, Tensor | None]:
        return self.tensors, self.mask

    def __repr__(self) -> str:
        mask = None if self.mask is None else tuple(self.mask.shape)
        return f"NestedTensor(tensors={tuple(self.tensors.shape)}, mask={mask})"


def nested_tensor_from_tensor_list(tensor_list: Sequence[Tensor] | Tensor) -> NestedTensor:
    """Pad images (C, H_i, W_i) on the right and at the bottom to the largest height and width."""
    images = tensor_list
    channels, height, width = _max_by_axis([list(image.shape) for image in images])
    tensors = images[0].new_empty(len(images), channels, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool, device=tensors.device)
    for image, padded, padding in zip(images, tensors, mask, strict=True):
        _, h, w = image.shape
        padded[:, :h, :w].copy_(image)
        padded[:, :h, w:] = 0  # the padding only, which is a small part of most batches
        padded[:, h:] = 0
        padding[:h, :w] = False
    return NestedTensor(tensors, mask)


def _max_by_axis(the_list: list[list[int]]) -> list[int]:
    """Return the largest number of each column."""
    return [max(column) for column in zip(*the_list, strict=True)]


def _onnx_nested_tensor_from_tensor_list(tensor_list: Sequence[Tensor]) -> NestedTensor:
    """Do the same without writing into tensors, so that torch.jit.trace keeps sizes variable."""
    # While tracing, sizes are tensors of the graph already.
    sizes = [
        [size if isinstance(size, Tensor) else torch.tensor(size) for size in image.shape]
        for image in tensor_list
    ]
    height, width = (torch.stack([size[axis] for size in sizes]).max() for axis in (1, 2))
    tensors, masks = [], []
    for image, (_, h, w) in zip(tensor_list, sizes, strict=True):
        padding = (0, width - w, 0, height - h)
        tensors.append(F.pad(image, padding))
        masks.append(F.pad(torch.zeros_like(image[0], dtype=torch.int), padding, value=1).bool())
    return NestedTensor(torch.stack(tensors), torch.stack(masks))


def collate_fn(batch: Sequence[tuple[Tensor, dict]]) -> tuple[NestedTensor, list[dict]]:
    """Collate [(image, target), ...] to (padded images, [target, ...])."""
    images, targets = zip(*batch, strict=True)
    return nested_tensor_from_tensor_list(images), list(targets)


def reduce_dict(input_dict: dict[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Return each scalar tensor's mean over all processes, or its sum if not `average`."""
    world_size = get_world_size()
    if world_size < 2:
        return input_dict
    names = sorted(input_dict)  # the same order on all processes
    values = all_reduce_sum(torch.stack([input_dict[name].detach() for name in names]))
    if average:
        values /= world_size
    return dict(zip(names, values, strict=True))


def setup_for_distributed(is_master: bool) -> None:
    """Let print() of all modules print on the main process only, or with force=True."""
    builtin_print = builtins.print

    def print(*args, force: bool = False, **kwargs) -> None:
        if is_master or force:
            builtin_print(*args, **kwargs)

    builtins.print = print


def save_on_master(*args, **kwargs) -> None:
    """Call torch.save on the main process."""
    if is_main_process():
        torch.save(*args, **kwargs)


def get_sha() -> str:
    """Return commit, state and branch of the git repository that this file is in."""

    def git(*command: str) -> str:
        folder = Path(__file__).resolve().parent
        result = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True)
        return result.stdout.strip()

    try:
        sha, branch = git("rev-parse", "HEAD"), git("rev-parse", "--abbrev-ref", "HEAD")
        status = "has uncommitted changes" if git("diff-index", "HEAD") else "clean"
    except OSError:  # there is no git
        sha = ""
    if not sha:
        sha, status, branch = "N/A", "clean", "N/A"
    return f"sha: {sha}, status: {status}, branch: {branch}"


@torch.no_grad()
def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """Return the share of samples whose class is among the k highest scores, in percent.

    Args:
        output: (N, classes) scores.
        target: (N,) classes.
        topk: The values of k.

    Returns:
        A scalar tensor for each k; a single zero if there are no samples.
    """
    if target.numel() == 0:
        return [torch.zeros([], device=output.device)]
    correct = output.topk(max(topk), dim=1).indices == target[:, None]
    return [correct[:, :k].any(dim=1).float().mean() * 100 for k in topk]
