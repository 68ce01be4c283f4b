"""A list of byte strings as one buffer."""

from collections.abc import Iterable

import numpy as np


class ByteTable:
    """Byte strings by number.

    A Python list would hold an object for each: reading one changes its reference count, and with
    it a page of memory that forked processes then no longer share.

    Args:
        items: the strings; read once, so a generator keeps few of them in memory.
    """

    def __init__(self, items: Iterable[bytes]):
        buffer, ends = bytearray(), [0]
        for item in items:
            buffer += item
            ends.append(len(buffer))
        self._buffer = np.frombuffer(bytes(buffer), dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        return self._buffer[self._ends[number] : self._ends[number + 1]].tobytes()
