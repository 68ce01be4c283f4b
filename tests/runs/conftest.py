"""A trained model for tests of whole runs."""

import pytest

from tests.helpers.commands import MAIN, TINY_RUN, run_ok


@pytest.fixture(scope="session")
def trained(shapes, tmp_path_factory):
    """Two epochs in one process; on the second the learning rate drops."""
    out = tmp_path_factory.mktemp("run") / "new" / "folder"
    result = run_ok(
        MAIN, *TINY_RUN, "--coco_path", shapes, "--output_dir", out, "--epochs", "2",
        "--lr_drop", "2", "--batch_size", "4", "--lr", "1e-3", "--lr_backbone", "1e-3",
    )  # fmt: skip
    return out, result.stdout
