"""The layout: imports run one way, also inside of functions; files and folders stay small."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

# From the bottom to the top. Parts of a layer do not know each other.
LAYERS = (
    {"rpe_ops"}, {"util"}, {"models", "datasets", "slurm"}, {"training"},
    {"classifier_arguments"}, {"detection_task", "classification"}, {"engine"}, {"arguments"},
    {"argument_checks"},
    {"checkpoints"}, {"detector"}, {"main", "detr_irpe"},
    {"hubconf", "run_with_submitit", "setup", "tools"},
)  # fmt: skip
# Of a part that has commands of its own, the folder that these are in. As tools they
# may use all parts, also those of tools, and nothing else of the project imports them.
COMMANDS = {"classification": {"tools"}}
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}


def files_of(part: str) -> list[Path]:
    folder = ROOT / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def command_of(path: Path) -> str | None:
    """Return the command of a part, or its folder, that a file belongs to; None for other files."""
    part, *rest = path.relative_to(ROOT).with_suffix("").parts
    return rest[0] if rest and rest[0] in COMMANDS.get(part, ()) else None


def imported_by(source: str) -> Iterator[str]:
    """Yield the top-level packages that a file imports, without relative imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("part", sorted(LAYER))
def test_a_part_knows_those_below_it(part):
    files = files_of(part)
    assert files
    for path in files:
        of_command = command_of(path) is not None
        for name in imported_by(path.read_text()):
            assert of_command or name not in LAYER or name == part or LAYER[name] < LAYER[part], (
                f"{path.relative_to(ROOT)} imports {name}"
            )


def test_commands_of_a_part_are_imported_by_commands_alone():
    for part, commands in COMMANDS.items():
        missing = [name for name in commands if not list((ROOT / part).glob(f"{name}*"))]
        assert not missing
        modules = "|".join(sorted(commands))
        pattern = rf"(?:from|import) +(?:{part})?\.(?:{modules})\b"
        for path in (path for other in LAYER for path in files_of(other)):
            found = re.search(pattern, path.read_text())
            assert command_of(path) or not found, f"{path.relative_to(ROOT)}: {found}"


def test_nothing_lies_outside_of_the_layers():
    rest = {".ci", "benchmarks", "build", "data", "docs", "output", "tests"}
    parts = {path.stem for path in ROOT.glob("*.py")}
    parts |= {path.parent.name for path in ROOT.glob("*/*.py")}
    assert parts - rest == set(LAYER)


def test_tests_share_by_helpers_alone():
    """Nothing is imported from a test file or a conftest.py; names of test files are unique.

    The tables of tests/mutants say which test finds a mistake by the file's name alone.
    """
    files = sorted((ROOT / "tests").rglob("*.py"))
    names = [path.name for path in files if path.name.startswith("test_")]
    assert len(names) == len(set(names))
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("tests."):
                last = node.module.rpartition(".")[2]
                assert last != "conftest" and not last.startswith("test_"), path


def test_files_are_read_in_one_sitting():
    """At most 300 lines, and 16 files a folder; irpe.py is one file because people copy it."""
    paths = [path for part in (*LAYER, "benchmarks", "tests") for path in files_of(part)]
    long = {path.name for path in paths if len(path.read_text().splitlines()) > 300}
    assert long == {"irpe.py"}
    folders = Counter(path.parent for path in paths)
    del folders[ROOT]
    assert {str(folder) for folder, files in folders.items() if files > 16} == set()


def test_imports_inside_of_functions_count():
    source = "def f():\n    from tools.x import y\n    import main, util.z as z\nfrom . import a"
    assert list(imported_by(source)) == ["tools", "main", "util"]
