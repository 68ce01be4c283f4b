"""Bucket ids are made once for each map, and used by all layers and batches."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor


class BucketCache:
    """Bucket ids by what determines them, shared by all layers; the least recent go first.

    Image batches come in many shapes, so several maps are kept, up to `max_bytes` in all
    (the one asked for last stays in any case).
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._entries: OrderedDict[tuple, Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple, build: Callable[[], Tensor]) -> Tensor:
        with self._lock:
            if key not in self._entries:
                # A tensor born in inference mode could never be saved for a backward pass.
                with torch.inference_mode(False):
                    self._entries[key] = build()
                while len(self._entries) > 1 and self.nbytes > self.max_bytes:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(key)
            return self._entries[key]

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self._entries.values())
