"""Means over an epoch and over processes."""

import torch
from torch import Tensor

from util.distributed import broadcast_from_main, gather_to_main


class EpochMeans:
    """Means of named numbers over batches. Sums stay on their device until somebody reads them.

    Attributes:
        names: of the numbers, in the order of the sums.
        count: batches so far.
    """

    def __init__(self):
        self.names: list[str] = []
        self._sums = torch.zeros(0, dtype=torch.float64)
        self.count = 0

    def update(self, values: dict[str, Tensor]) -> None:
        """Add a batch: scalar tensors by name. With other names than before, sums start anew."""
        if list(values) != self.names:
            self.names, self.count = list(values), 0
        with torch.no_grad():
            batch = torch.stack(list(values.values())).double()
        # Sums that were loaded are on the CPU.
        self._sums = self._sums.to(batch.device) + batch if self.count else batch
        self.count += 1

    def state_dict(self) -> dict:
        """Return the sums of this process so far, on the CPU."""
        return {"names": self.names, "sums": self._sums.cpu(), "count": self.count}

    def load_state_dict(self, *states: dict) -> None:
        """Load the sums of one process, or of several added up.

        Raises:
            ValueError: there are not as many sums as names.
        """
        if any(len(state["names"]) != len(state["sums"]) for state in states):
            raise ValueError("sums of other numbers than are named")
        counted = [state for state in states if state["count"]]
        self.count = sum(state["count"] for state in counted)
        if counted:
            self.names = counted[0]["names"]
            self._sums = torch.stack([state["sums"] for state in counted]).sum(0)

    def means(self) -> dict[str, float]:
        """Return means over the batches of this process so far."""
        if self.count == 0:
            return {}
        return dict(zip(self.names, (self._sums / self.count).tolist(), strict=True))

    def means_of_all_processes(self) -> dict[str, float]:
        """Return means over the batches of all processes, of which some may have none."""
        gathered = gather_to_main((self.names, self._sums.tolist(), self.count))
        means = {}
        if gathered is not None:
            names = max((names for names, _, _ in gathered), key=len)
            total = sum(count for _, _, count in gathered)
            columns = zip(*(sums for _, sums, count in gathered if count), strict=True)
            means = {name: sum(column) / total for name, column in zip(names, columns, strict=True)}
        return broadcast_from_main(means)
