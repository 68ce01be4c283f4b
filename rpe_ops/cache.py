"""A cache of bucket ids, which all layers and batches share."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor


class BucketCache:
    """A least-recently-used cache of tensors.

    Batches come in many shapes, so the ids of several feature maps are kept, up to `max_bytes` in
    all; the one used last is kept in any case.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._entries: OrderedDict[tuple, Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple, build: Callable[[], Tensor]) -> Tensor:
        """Return the tensor of `key`, from `build` if it is not cached."""
        with self._lock:
            if key not in self._entries:
                # A tensor created in inference mode cannot be saved for a backward pass later.
                with torch.inference_mode(False):
                    self._entries[key] = build()
                while len(self._entries) > 1 and self.nbytes > self.max_bytes:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(key)
            return self._entries[key]

    @property
    def nbytes(self) -> int:
        """Bytes of all cached tensors."""
        return sum(entry.nbytes for entry in self._entries.values())
