"""Means over batches and processes, by hand."""

import pytest
import torch

from tests.helpers.two_processes import in_two_processes
from training.metrics import EpochMeans


def logger_of(*batches: dict[str, float]) -> EpochMeans:
    metrics = EpochMeans()
    for batch in batches:
        metrics.update({name: torch.tensor(value) for name, value in batch.items()})
    return metrics


def test_means_are_those_of_all_batches():
    metrics = logger_of(
        {"loss": 1.0, "error": 8.0}, {"loss": 2.0, "error": 0.0}, {"loss": 6.0, "error": 1.0}
    )
    assert metrics.means() == {"loss": 3.0, "error": 3.0} == metrics.means_of_all_processes()
    assert metrics.count == 3
    assert EpochMeans().means() == {} == EpochMeans().means_of_all_processes()


def test_other_names_start_anew():
    metrics = logger_of({"loss": 1.0}, {"loss": 3.0})
    metrics.update({"other": torch.tensor(5.0)})
    assert metrics.means() == {"other": 5.0}


def test_small_numbers_are_not_lost_in_a_large_sum():
    metrics = logger_of({"loss": 2.0**24}, *[{"loss": 1.0}] * 8)
    assert metrics.means()["loss"] == (2**24 + 8) / 9


def test_sums_go_on():
    """Those of one process, or of two together, one of which had no batch."""
    one, other = logger_of({"loss": 1.0}, {"loss": 2.0}), logger_of({"loss": 9.0})
    again = EpochMeans()
    again.load_state_dict(one.state_dict())
    again.update({"loss": torch.tensor(6.0)})
    assert again.means() == {"loss": 3.0}
    again.load_state_dict(one.state_dict(), EpochMeans().state_dict(), other.state_dict())
    assert again.means() == {"loss": 4.0} and again.count == 3
    with pytest.raises(ValueError, match="other numbers"):
        again.load_state_dict({**one.state_dict(), "names": ["a", "b"]})


def means_as(rank: int, with_batches: bool) -> dict[str, float]:
    """The main process has three batches, the other one or none."""
    batches = [{"loss": 1.0}, {"loss": 2.0}, {"loss": 3.0}]
    if rank == 1:
        batches = [{"loss": 14.0}] if with_batches else []
    return logger_of(*batches).means_of_all_processes()


@pytest.mark.parametrize(("with_batches", "mean"), [(True, 5.0), (False, 2.0)])
def test_each_batch_counts_once_whoever_had_it(tmp_path, with_batches, mean):
    assert in_two_processes(means_as, tmp_path, with_batches) == [{"loss": mean}] * 2
