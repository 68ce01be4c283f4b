"""RPEIndexFunction.apply(table, index): `rpe_index` under the name of the published package."""

from torch import Tensor

from .functions import rpe_index


class RPEIndexFunction:
    """`rpe_index` with the interface of a torch.autograd.Function; it also compiles."""

    @staticmethod
    def apply(input: Tensor, index: Tensor) -> Tensor:
        """Return input[b, h, i, index[i, j]]: (B, H, Lq, N), (Lq, Lk) -> (B, H, Lq, Lk)."""
        return rpe_index(input, index)
