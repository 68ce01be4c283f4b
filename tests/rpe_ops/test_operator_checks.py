"""Bad input of the operators is refused."""

import pytest
import torch

from rpe_ops import check_index, rpe_index, rpe_index_sum
from tests.rpe_ops.operands import inputs, needs_library


def test_what_does_not_fit_is_refused(device):
    table, x, index = inputs(2, 3, 5, 7, 4, device=device)
    with pytest.raises(ValueError, match="4 axes"):
        rpe_index(table[0], index)
    with pytest.raises(ValueError, match="floating point"):
        rpe_index(table.int(), index)
    with pytest.raises(ValueError, match="int32 or int64"):
        rpe_index(table, index.float())
    with pytest.raises(ValueError, match="5 queries"):
        rpe_index(table, index[:4])
    with pytest.raises(ValueError, match="last two axes"):
        rpe_index_sum(x, index[:, :3], 4)
    with pytest.raises(ValueError, match="negative"):
        rpe_index_sum(x, index, -1)
    with pytest.raises(ValueError, match="meta"):
        rpe_index(table, index.to("meta"))


@needs_library
def test_operators_called_directly_check_for_themselves():
    table, x, index = inputs(2, 3, 5, 7, 4)
    ops = torch.ops.rpe_ops
    for action in (
        lambda: ops.rpe_index(table[0], index),
        lambda: ops.rpe_index(table, index.long()),
        lambda: ops.rpe_index(table, index[:4]),
        lambda: ops.rpe_index_sum(x, index[:, :3], 4),
        lambda: ops.rpe_index_sum(x, index, -1),
        lambda: ops.use_cpu_kernels("fast"),
    ):
        with pytest.raises(ValueError, match=r"rpe_index|use_cpu_kernels"):
            action()


@pytest.mark.parametrize("wrong", [-1, 4, 2**31 - 1, -(2**31), 2**32, 2**32 + 1])
def test_an_id_out_of_range_is_an_error(device, wrong, monkeypatch):
    if device.type == "cuda":  # a device-side assertion ends the process, unless checked before
        monkeypatch.setattr("rpe_ops.functions.CHECK_EVERY_CALL", True)
    table, x, index = inputs(2, 3, 5, 40, 4, torch.float32, device=device)
    index = index.long()
    index[3, 38] = wrong
    # PyTorch's own operators call it a RuntimeError.
    for action in (lambda: rpe_index(table, index), lambda: rpe_index_sum(x, index, 4)):
        with pytest.raises((IndexError, RuntimeError)):
            action()


def test_check_names_the_place():
    _, _, index = inputs(1, 1, 5, 7, 4)
    check_index(index, 4)
    check_index(index[:0], 0)
    index[3, 2] = 9
    with pytest.raises(IndexError, match=r"index\[3, 2\] is 9, outside \[0, 4\)"):
        check_index(index, 4)


def test_every_call_is_checked_when_asked(monkeypatch):
    table, x, index = inputs(1, 2, 5, 7, 4)
    monkeypatch.setattr("rpe_ops.functions.CHECK_EVERY_CALL", True)
    rpe_index(table, index)
    index[1, 1] = -1
    for action in (lambda: rpe_index(table, index), lambda: rpe_index_sum(x, index, 4)):
        with pytest.raises(IndexError, match=r"index\[1, 1\] is -1"):
            action()
