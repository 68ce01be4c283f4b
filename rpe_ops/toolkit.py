"""Find a CUDA toolkit to build with, and choose the GPUs to compile for; setup.py runs this."""

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

USUAL_PLACE = Path("/usr/local")
OLDEST = (7, 0)
# Where nvcc does not say what it knows.
USUAL_CAPABILITIES = ((7, 5), (8, 0), (9, 0))

Capability = tuple[int, int]  # of a GPU, such as (9, 0)


class Toolkit(NamedTuple):
    """An installed CUDA toolkit: its folder, its version such as 13.0, and its compiler."""

    folder: Path
    version: str
    nvcc: Path


def find_toolkits() -> list[Toolkit]:
    """Return the toolkits that are named, on PATH, or in the usual place; each one once."""
    named = filter(None, map(os.environ.get, ("CUDA_HOME", "CUDA_PATH")))
    folders = [Path(folder, "bin") for folder in named]
    folders += [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders.append(USUAL_PLACE / "cuda" / "bin")
    folders += sorted(USUAL_PLACE.glob("cuda-*/bin"), reverse=True)
    compilers = [folder / "nvcc" for folder in dict.fromkeys(folders)]
    found = [_toolkit_of(nvcc) for nvcc in compilers if os.access(nvcc, os.X_OK)]
    return list({toolkit.folder: toolkit for toolkit in reversed(found) if toolkit}.values())[::-1]


def _toolkit_of(nvcc: Path) -> Toolkit | None:
    """Return the toolkit of a compiler; None if it does not answer as one.

    The folder comes from nvcc itself, because the nvcc on PATH may be a script that calls it.
    """
    version = re.search(r"release (\d+\.\d+)", _ask(nvcc, "--version"))
    if version is None:
        return None
    folder = re.search(r"TOP=(.+)", _ask(nvcc, "--dryrun", "-x", "cu", "-E", os.devnull))
    return Toolkit(Path(folder[1] if folder else nvcc.parent.parent).resolve(), version[1], nvcc)


def _ask(nvcc: Path, *options: str) -> str:
    try:
        answer = subprocess.run([nvcc, *options], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout + answer.stderr


def choose_toolkit(cuda: str, toolkits: list[Toolkit]) -> Toolkit | str:
    """Return the first toolkit of torch's major CUDA version; else why there is none, `no-...`.

    Args:
        cuda: torch.version.cuda.
        toolkits: from `find_toolkits`.
    """
    for toolkit in toolkits:
        if toolkit.version.split(".")[0] == cuda.split(".")[0]:
            return toolkit
    if not toolkits:
        return "no-toolkit"
    versions = "-and-".join(dict.fromkeys(toolkit.version for toolkit in toolkits))
    return f"no-toolkit-{versions}-for-torch-cuda-{cuda}"


def known_capabilities(toolkit: Toolkit) -> list[Capability]:
    """Return the GPUs that a toolkit can compile for, in ascending order."""
    names = re.findall(r"^compute_(\d+)(\d)\s*$", _ask(toolkit.nvcc, "--list-gpu-arch"), re.M)
    return sorted((int(major), int(minor)) for major, minor in names)


def default_architectures(known: list[Capability], present: list[Capability]) -> list[str]:
    """Return what to compile for every GPU since Volta, as nvcc names it: `sm_80`, `compute_120`.

    Code for X.y runs on every X.z from y on, so one of each generation is enough. GPUs that are
    present get their own. The newest is also kept as PTX, which later GPUs compile for themselves.

    Args:
        known: the capabilities that the toolkit knows.
        present: those of the GPUs that are at hand.
    """
    known = [capability for capability in known if capability >= OLDEST]
    known = known or list(USUAL_CAPABILITIES)
    chosen = {min(c for c in known if c[0] == major) for major, _ in known}
    chosen |= set(present) & set(known)
    codes = [f"sm_{major}{minor}" for major, minor in sorted(chosen)]
    return [*codes, codes[-1].replace("sm", "compute")]


def nvcc_flags(architectures: list[str]) -> list[str]:
    """Return nvcc's options that compile for these and for no other."""
    return [f"-gencode=arch={code.replace('sm', 'compute')},code={code}" for code in architectures]
