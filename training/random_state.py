"""The random generators of a process: seeding, saving and restoring them."""

import random

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the one that code without a generator uses
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict:
    """Return the state of the generators as tensors and plain values, for a checkpoint."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": {
            **numpy_state,
            "state": {
                "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
                "pos": int(numpy_state["state"]["pos"]),
            },
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: dict, device: torch.device) -> None:
    """Restore what `random_state` returned; CUDA's only on CUDA."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    numpy_state = {**state["numpy"], "state": {**state["numpy"]["state"], "key": key}}
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
