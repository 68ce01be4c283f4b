"""The package detr_irpe: what is built, what its imports become, and that it disturbs nobody."""

import ast
import re
import runpy
import zipfile
from pathlib import Path

import pytest

from detector import load_detector
from tests.helpers.commands import ROOT, run_ok

# Not imported: a second copy of all modules would register the operators of rpe_ops anew.
rewritten = runpy.run_path(str(ROOT / "detr_irpe" / "sources.py"))["rewritten"]
# Of the folders and files whose names begin so, nothing is in the package.
ELSEWHERE = (".ci/", ".github/", "benchmarks/", "docs/", "slurm/", "studies/", "tests/")
NOT_IN_IT = re.compile(
    r"(hubconf|run_with_submitit|setup)\.py|classification/(README\.md|run_with_submitit\.py)"
    r"|rpe_ops/(\w+\.md|LICENSE|MANIFEST\.in|setup\.py|csrc/.*|top_level/.*)"
    r"|tools/(compare\.py|comparison/.*|\w+\.sh|\w+\.sbatch)"
)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Return a folder that has the wheel's content, as site-packages would."""
    folder = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_package_has_the_files_that_git_has(installed, project_files):
    wanted = {
        name.removeprefix("detr_irpe/")
        for name in project_files
        if not name.startswith(ELSEWHERE) and not NOT_IN_IT.fullmatch(name)
        if "/" in name or name.endswith(".py")
    }
    package = installed / "detr_irpe"
    files = [path for path in package.rglob("*") if path.is_file()]
    assert {str(path.relative_to(package)) for path in files} == wanted
    names = {path.name for path in installed.iterdir()}
    assert names == {"detr_irpe", "detr_irpe-1.0.0.dist-info"}


def test_its_modules_import_each_other_by_its_name(installed):
    package = installed / "detr_irpe"
    ours = {path.stem for path in package.iterdir()}
    for path in package.rglob("*.py"):
        text, name = path.read_text(), path.relative_to(package)
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert not ours & {imported.split(".")[0] for imported in names}, name
        assert name.name == "sources.py" or "sys.path.insert" not in text, name
        if name.parent != Path(".") or (ROOT / name).is_file():
            assert len(text.splitlines()) == len((ROOT / name).read_text().splitlines()), name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from util.errors import UserError, a", "from detr_irpe.util.errors import UserError, a"),
        ("from models import (\n    build_model,\n)",
         "from detr_irpe.models import (\n    build_model,\n)"),
        ("def f():\n    from main import x", "def f():\n    from detr_irpe.main import x"),
        ("a = 'ü'; from util import b", "a = 'ü'; from detr_irpe.util import b"),
        ("import arguments", "import detr_irpe.arguments as arguments"),
        ("import os, main, json", "import os, detr_irpe.main as main, json"),
        ("import main as detection", "import detr_irpe.main as detection"),
        ("import util.misc as misc", "import detr_irpe.util.misc as misc"),
        ('importlib.import_module("classification.task").TASK',
         'importlib.import_module("detr_irpe.classification.task").TASK'),
        ("import sys\nif x:\n    sys.path.insert(0, str(here))", "import sys\nif x:\n    pass"),
        *((same, same) for same in (
            '"""from util import a"""', "from . import util", "from .util import a",
            "from torchvision.models import resnet", "from utility import a", "import modelsx",
            "importlib.import_module(name)", "sys.path.append(a)", "util = 1\nutil.main()",
        )),
    ],
)  # fmt: skip
def test_what_becomes_of_imports(before, after):
    assert rewritten(before) == after


@pytest.mark.parametrize("text", ["import util.misc", "sys.path.insert(\n    0, a\n)"])
def test_what_cannot_be_changed_in_its_place_is_an_error(text):
    with pytest.raises(ValueError, match=r"^line 2: .*write"):
        rewritten(f"a = 1\n{text}\n")


BESIDE = """
import sys

way, order, folder, checkpoint, image = sys.argv[1:]
if order == "after":
    import datasets, models, util
if way == "hub":
    import torch
    detector = torch.hub.load(folder, "load_detector", checkpoint, source="local", device="cpu")
else:
    sys.path.append(folder)
    from detr_irpe import load_detector
    detector = load_detector(checkpoint, "cpu")
import datasets, models, util
assert all(module.OF_ANOTHER_PROJECT for module in (datasets, models, util))
from detr_irpe.sources import PARTS
found = {name for name in sys.modules if name.partition(".")[0] in PARTS}
assert found == {"datasets", "models", "util"}, found

import matplotlib
matplotlib.use("svg")
drawn = detector.draw(image, threshold=0)
assert matplotlib.get_backend() == "svg" and drawn.size == (320, 320)
print(detector, detector(image, 0)[0]["scores"].tolist())
"""


@pytest.mark.parametrize(
    ("way", "order"), [("hub", "before"), ("hub", "after"), ("package", "after")]
)
def test_beside_other_projects(way, order, installed, checkpoint, shapes, tmp_path):
    """Imported before or after packages whose names are those of this project's folders."""
    for name in ("datasets", "models", "util"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OF_ANOTHER_PROJECT = True\n")
    (tmp_path / "other.py").write_text(BESIDE)
    image = min((shapes / "val2017").iterdir())
    folder = ROOT if way == "hub" else installed
    done = run_ok(tmp_path / "other.py", way, order, folder, checkpoint, image, cwd=tmp_path)
    detector = load_detector(checkpoint, "cpu")
    assert done.stdout.strip() == f"{detector} {detector(image, 0)[0]['scores'].tolist()}"


def test_commands_of_the_package(installed, checkpoint, shapes, tmp_path):
    (tmp_path / "predict.py").write_text(
        f"import runpy, sys\nsys.path.append({str(installed)!r})\n"
        "runpy.run_module('detr_irpe.tools.predict', run_name='__main__', alter_sys=True)"
    )
    image = min((shapes / "val2017").iterdir())
    done = run_ok(
        tmp_path / "predict.py", "--resume", checkpoint, image, "--output_dir", tmp_path / "out",
        "--threshold", "0", "--device", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert "1 image(s), 8 detection(s)" in done.stdout
    assert (tmp_path / "out" / image.name).is_file()
