"""Build the package detr_irpe of the project's files, which lie beside it under other names.

pyproject.toml has the rest. An editable installation links to the folder detr_irpe alone, which
imports the files from the clone.
"""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCES = runpy.run_path(str(ROOT / "detr_irpe" / "sources.py"))


class BuildPackage(build_py):
    """build_py that adds the project's files to the package, with their imports changed."""

    def run(self) -> None:
        package = Path(self.build_lib, SOURCES["PACKAGE"])
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)  # an earlier build may have had more files
        super().run()
        if self.editable_mode:
            return
        for name in SOURCES["package_files"]():
            content = (ROOT / name).read_text(encoding="utf-8")
            if name.suffix == ".py":
                content = SOURCES["rewritten"](content)
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(content, encoding="utf-8")

    def get_source_files(self) -> list[str]:
        """Return what a source distribution needs besides."""
        return [*super().get_source_files(), *map(str, SOURCES["package_files"]())]


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPackage})
