"""pip installs the package beside Hugging Face's datasets, and both can be used.

The environment is a new one that sees this one's packages, so that PyTorch is not installed again.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from detector import load_detector
from tests.helpers.commands import QUIET, ROOT

pytestmark = pytest.mark.slow
LIMIT_S = 600
INSTALL = ("-m", "pip", "install", "--no-build-isolation")
DEMO = ROOT / "output" / "demo" / "checkpoint.pth"

USE = """
import sys

order, checkpoint, image = sys.argv[1:]
if order == "after":
    import datasets
    import models
from detr_irpe import load_detector
import datasets
import models
import detr_irpe.datasets.coco
assert models.OF_ANOTHER_PROJECT
table = datasets.Dataset.from_dict({"image": [image]}).cast_column("image", datasets.Image())
(found,) = load_detector(checkpoint, "cpu")(table[0]["image"], threshold=0)
print(found["names"], [round(score, 4) for score in found["scores"].tolist()])
"""


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | QUIET
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=LIMIT_S
    )


@pytest.fixture(scope="module")
def python(clean_copy, tmp_path_factory) -> Path:
    """Make an environment with Hugging Face's datasets, and install a clean copy there."""
    folder = tmp_path_factory.mktemp("environment")
    made = call(sys.executable, "-m", "venv", folder, cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Also what a build needs, so that it asks the network for nothing.
    there = call(python, "-m", "pip", "install", "datasets==5.2.0", "setuptools>=68", cwd=folder)
    if there.returncode:
        pytest.skip(f"pip installs no datasets here: {there.stderr.strip().splitlines()[-1]}")
    done = call(python, *INSTALL, clean_copy, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name.partition("-")[0] for path in site.glob("*irpe*")} == {"detr_irpe"}
    return python


@pytest.fixture
def use(python, checkpoint, shapes, tmp_path):
    """Return use(order), which detects objects in that environment, and here."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("OF_ANOTHER_PROJECT = True\n")
    (tmp_path / "use.py").write_text(USE)
    checkpoint = DEMO if DEMO.exists() else checkpoint
    image = min((shapes / "val2017").iterdir())
    (found,) = load_detector(checkpoint, "cpu")(image, threshold=0)
    scores = [round(score, 4) for score in found["scores"].tolist()]

    def compare(order: str) -> None:
        done = call(python, tmp_path / "use.py", order, checkpoint, image, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{found['names']} {scores}"

    return compare


@pytest.mark.parametrize("order", ["before", "after"])
def test_it_finds_objects_beside_datasets_and_models(order, use):
    use(order)


def test_an_editable_installation_does_so_too(python, clean_copy, use, tmp_path):
    """It links to the files of the clone, and takes no other name either."""
    done = call(python, *INSTALL, "--editable", clean_copy, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    use("before")
    code = "import detr_irpe.util; print(detr_irpe.util.__file__)"
    shown = call(python, "-W", "ignore", "-c", code, cwd=tmp_path).stdout
    assert shown.strip() == str(clean_copy / "util" / "__init__.py")
