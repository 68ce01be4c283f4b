"""Random operands of the operators."""

import pytest
import torch

from rpe_ops.library import LIBRARY

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}
needs_library = pytest.mark.skipif(LIBRARY.path is None, reason="; ".join(LIBRARY.problems))


def inputs(b, h, lq, lk, n, dtype=torch.float64, device="cpu"):
    table = torch.randn(b, h, lq, n).to(device, dtype)
    x = torch.randn(b, h, lq, lk).to(device, dtype)
    # Half of the rows random, half of them runs, as neighbours in a map have them.
    index = torch.randint(n, (lq, lk), dtype=torch.int32)
    index[::2] = index[::2].sort(dim=1).values
    return table, x, index.to(device)
