"""The project's modules as submodules of detr_irpe.

In a clone they are `models`, `datasets`, `util`, ..., names that other projects have, too, and they
import each other by these names. As submodules they need other imports: `from util.errors import
UserError` has to be `from detr_irpe.util.errors import UserError`. `rewritten` changes that, and
nothing else, line for line: for setup.py when it builds the package, and in a clone when Python
imports `detr_irpe`.

Python's standard library is all that this file needs, because packages are built without PyTorch.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

PACKAGE = "detr_irpe"
ROOT = Path(__file__).resolve().parent.parent
PARTS = (
    "argument_checks", "arguments", "checkpoints", "classification", "classifier_arguments",
    "datasets", "detection_task", "detector", "engine", "main", "models", "rpe_ops", "tools",
    "training", "util",
)  # fmt: skip
# These start commands by the names of their files, or build what has a package of its own.
LEFT_OUT = (
    "classification/run_with_submitit.py", "rpe_ops/setup.py", "rpe_ops/top_level", "rpe_ops/build",
    "tools/compare.py", "tools/comparison",
)  # fmt: skip
SUFFIXES = {".py", ".html", ".css", ".js", ".typed"}


def package_files(root: Path = ROOT) -> Iterator[Path]:
    """Yield the files of a clone that are part of the package, relative to it."""
    for part in PARTS:
        folder = root / part
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [root / f"{part}.py"]:
            name = path.relative_to(root)
            if path.suffix in SUFFIXES and not any(name.is_relative_to(left) for left in LEFT_OUT):
                yield name


def rewritten(source: str) -> str:
    """Return a module's source with the imports that it needs as a submodule of detr_irpe.

    `sys.path.insert(...)`, by which commands that are run as files find the project, becomes
    `pass`: it would put `datasets` and `models` into the way of other projects.

    Raises:
        ValueError: an import cannot be changed in its place.
    """
    lines = source.encode().splitlines(keepends=True)  # ast counts columns in bytes
    edits = []  # (line, first column, column after the last, new text)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_ours(node.module):
            after = node.col_offset + len("from ")
            edits.append((node.lineno, after, after, f"{PACKAGE}."))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if not _is_ours(alias.name):
                    continue
                if alias.asname is None and "." in alias.name:
                    raise ValueError(
                        f"line {node.lineno}: `import {alias.name}` binds a name that the package "
                        "does not have; write `from ... import ...`"
                    )
                name = f"{PACKAGE}.{alias.name}"
                new = name if alias.asname else f"{name} as {alias.name}"
                begin = alias.col_offset
                edits.append((alias.lineno, begin, begin + len(alias.name), new))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            name = node.args[0]
            if isinstance(name, ast.Constant) and _is_ours(name.value):
                after = name.col_offset + 1  # the quotation mark
                edits.append((name.lineno, after, after, f"{PACKAGE}."))
        elif isinstance(node, ast.Expr) and ast.unparse(node).startswith("sys.path.insert("):
            if node.lineno != node.end_lineno:
                raise ValueError(f"line {node.lineno}: write sys.path.insert(...) on one line")
            edits.append((node.lineno, node.col_offset, node.end_col_offset, "pass"))
    for number, begin, end, new in sorted(edits, reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:begin] + new.encode() + line[end:]
    return b"".join(lines).decode()


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in PARTS


class _Loader(SourceFileLoader):
    """Loads a file of the clone with its imports changed."""

    def get_code(self, fullname: str) -> CodeType:
        # Nothing is read from or written to __pycache__: the code there is that of the file as it
        # is, under its other name.
        source = self.get_data(self.path).decode()
        return compile(rewritten(source), self.path, "exec", dont_inherit=True)


class _Finder:
    """Finds submodules of detr_irpe in a clone; of all other modules it knows nothing."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        package, *parts = name.split(".")
        if package != PACKAGE or not parts or parts[0] not in PARTS:
            return None
        folder = ROOT.joinpath(*parts)
        for file in (folder / "__init__.py", folder.with_suffix(".py")):
            if file.is_file():
                return spec_from_file_location(name, file, loader=_Loader(name, str(file)))
        return None


def import_from_clone() -> None:
    """Make `detr_irpe.models` and its like importable in a clone."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
