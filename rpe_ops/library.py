"""Find and load the compiled library, or record why there is none.

The library (`_C*.so`) lies beside this file after a build in place, or in an installed copy of
this package. When Python runs in a folder that holds the source of the package, that source
hides the installed copy, so every folder of sys.path is searched.

RPE_OPS_LIBRARY names the file to load instead, or is `off` for PyTorch's own operators.
"""

import os
import re
import shutil
import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

from .version import __version__

NO_CUDA_REASONS = {
    "no-switched-off": "it was built with RPE_OPS_CUDA=0",
    "no-torch-without-cuda": "it was built for a torch without CUDA",
    "no-toolkit": "there was no CUDA toolkit (nvcc) when it was built",
}
HOW_TO_BUILD = "`pip install ./rpe_ops` builds one"


@dataclass(frozen=True)
class Library:
    """A loaded library, or the reasons why there is none."""

    path: Path | None = None
    build: dict[str, str] = field(default_factory=dict)  # see build_info
    devices: frozenset[str] = frozenset()  # types of the devices it has kernels for
    problems: tuple[str, ...] = ()  # one for each file that was found and not loaded
    shared: bool = False  # another copy of this package has loaded it and registered the rest

    def why_not(self, device_type: str) -> str:
        """Return why there are no kernels for a type of device."""
        if self.path is None:
            return "; ".join(self.problems)
        if device_type != "cuda":
            return "it has kernels for the CPU and for CUDA"
        cuda = self.build["cuda"]
        return NO_CUDA_REASONS.get(cuda, f"CUDA was left out when it was built ({cuda})")

    @property
    def architectures(self) -> list[str]:
        """What CUDA was compiled for, as nvcc names it: `sm_80` is code, `compute_90` is PTX."""
        return self.build.get("architectures", "").split("/")


def load_library() -> Library:
    """Load the first library that fits. Never raises: without one, PyTorch's operators are used."""
    wish = os.environ.get("RPE_OPS_LIBRARY", "")
    if wish == "off":
        return Library(problems=("RPE_OPS_LIBRARY=off",))
    candidates = [Path(wish)] if wish else _candidates()
    problems = []
    for path in candidates:
        try:
            build = build_info(path)
            _check_fits(build)
            shared = hasattr(torch.ops.rpe_ops, "rpe_index")
            if not shared:
                torch.ops.load_library(path)
        except (OSError, ValueError, RuntimeError) as error:
            problems.append(f"{path}: {error}")
            continue
        devices = {"cpu"} if build["cuda"].startswith("no-") else {"cpu", "cuda"}
        return Library(path, build, frozenset(devices), tuple(problems), shared)
    if not candidates:
        compiler = any(map(shutil.which, ("c++", "g++", "clang++")))
        problems.append(
            "no compiled library was found"
            + ("" if compiler else ", and there is no C++ compiler to build one")
        )
    return Library(problems=tuple(problems))


def build_info(path: Path) -> dict[str, str]:
    """Read from a library's file what it was built for.

    Returns:
        version, torch, cuda (its version or `no-REASON`), architectures (`sm_80/compute_90`) and
        compiler.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a library of this package.
    """
    found = re.search(rb"rpe_ops-library ([^\0]+)\0", path.read_bytes())
    if found is None:
        raise ValueError("not a library of rpe_ops")
    fields = re.findall(r"(\w+)=(.*?)(?= \w+=|$)", found[1].decode())
    return dict(fields)


def _check_fits(build: dict[str, str]) -> None:
    """Raise a ValueError for a library of another torch or version: loading it could crash.

    Releases are compared: a vendor's or nightly's version says more than torch's header knows.
    """
    if release_of(build["torch"]) != release_of(torch.__version__):
        raise ValueError(f"built for torch {build['torch']}, this is torch {torch.__version__}")
    if build["version"] != __version__:
        raise ValueError(f"of rpe_ops {build['version']}, this is rpe_ops {__version__}")


def release_of(version: str) -> str:
    """Return the numbers that a version begins with: 2.10.0 of 2.10.0a0+b4e4ee81d3.nv25.12."""
    found = re.match(r"\d+(\.\d+)*", version)
    return found[0] if found else version


def _candidates() -> list[Path]:
    """Return libraries beside this file, then those of installed copies of the package."""
    here = Path(__file__).resolve().parent
    folders = [here, *(Path(entry or ".").resolve() / "rpe_ops" for entry in sys.path)]
    return [path for folder in dict.fromkeys(folders) for path in sorted(folder.glob("_C*.so"))]


LIBRARY = load_library()


# ---- which GPUs it has code for ----


def serves(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Return whether a GPU can run what was compiled; True if nothing is known about that.

    Code of sm_XY runs on X.Y and later ones of the same generation X; PTX of compute_XY is compiled
    when it is loaded, for every later GPU. What is specific to an architecture (sm_90a) runs on
    that one alone, what is specific to a family (sm_100f) on its generation.
    """
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in architectures]
    for kind, major, minor, specific in (found.groups() for found in known if found):
        built = int(major), int(minor)
        if specific == "a":
            fits = built == capability
        elif kind == "sm" or specific == "f":
            fits = built[0] == capability[0] and built[1] <= capability[1]
        else:
            fits = built <= capability
        if fits:
            return True
    return not any(known)


@torch.compiler.assume_constant_result  # torch.compile calls this, and does not trace it
def has_code_for(index: int) -> bool:
    """Return whether CUDA device number `index` can run the library."""
    return _has_code_for(index)


@cache
def _has_code_for(index: int) -> bool:
    return serves(LIBRARY.architectures, torch.cuda.get_device_capability(index))


def serves_gpu(index: int) -> bool:
    """Return whether the library is there, and CUDA device number `index` can run it."""
    return "cuda" in LIBRARY.devices and has_code_for(index)


def why_not_gpu(index: int) -> str:
    """Return why the library does not serve CUDA device number `index`, and how to build one."""
    if "cuda" not in LIBRARY.devices:
        return LIBRARY.why_not("cuda")
    capability = "{}.{}".format(*torch.cuda.get_device_capability(index))
    return (
        f"the library was compiled for {', '.join(LIBRARY.architectures)}, which "
        f"{torch.cuda.get_device_name(index)} of compute capability {capability} cannot run: "
        f"TORCH_CUDA_ARCH_LIST={capability} pip install --force-reinstall ./rpe_ops builds for it"
    )


_warned: set[str] = set()


def warn_once(device: torch.device, triton: str | None = None) -> None:
    """Warn, once for each type of device or GPU, that PyTorch's own operators are used.

    Args:
        triton: why Triton's kernels are not used on a GPU.
    """
    name = str(device) if device.type in LIBRARY.devices else device.type
    if name in _warned:
        return
    _warned.add(name)
    why = LIBRARY.why_not(device.type) if triton is None else why_not_gpu(device.index)
    warnings.warn(
        f"rpe_ops runs on PyTorch's own operators on {name}, which is slower: "
        f"{why}{'' if triton is None else f'; {triton}'} (`python -m {__package__}` says more)",
        RuntimeWarning,
        stacklevel=4,  # the caller of rpe_index or rpe_index_sum
    )
