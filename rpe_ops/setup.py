"""Build and install rpe_ops.

    pip install ./rpe_ops                       or
    cd rpe_ops && python setup.py install       (with --user outside a virtual environment)

Environment: RPE_OPS_CUDA=0 / 1 leaves CUDA out / insists on it, TORCH_CUDA_ARCH_LIST names the
GPUs to compile for, CUDA_HOME the toolkit. Without a C++ compiler only the Python part is
installed, which runs on PyTorch's own operators.
"""

import os
import re
import runpy
import shutil
import site
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
os.chdir(HERE)  # setuptools takes paths relative to this folder
VERSION = runpy.run_path(str(HERE / "version.py"))["__version__"]
# For a build without a GPU: Turing and newer; PTX is compiled for later ones when it is loaded.
CUDA_ARCHITECTURES = "7.5;8.0;9.0+PTX"


def import_torch():
    """Import torch from the environment that is installed into; None without one.

    pip hides that environment during a build. A library built for the torch that pip would
    download instead could not be loaded later.
    """
    try:
        import torch
    except ModuleNotFoundError:
        hidden = [*site.getsitepackages(), site.getusersitepackages()]
        sys.path.extend(path for path in hidden if Path(path, "torch").is_dir())
        try:
            import torch
        except ModuleNotFoundError:
            return None
    return torch


def find_cxx() -> str | None:
    """Return the compiler that setuptools and torch will call; None without one."""
    command = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    return next(filter(None, map(shutil.which, (command.split()[0], "c++"))), None)


def find_toolkit() -> tuple[Path, str] | None:
    """Return folder and version of the CUDA toolkit; None without one.

    The folder comes from nvcc itself, because the nvcc on PATH may be a script that calls it.
    """
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = Path(named, "bin", "nvcc") if named else shutil.which("nvcc")
    nvcc = Path(nvcc or "/usr/local/cuda/bin/nvcc")
    if not nvcc.exists():
        return None

    def ask(*options: str) -> str:
        answer = subprocess.run([nvcc, *options], capture_output=True, text=True)
        return answer.stdout + answer.stderr

    version = re.search(r"release (\d+\.\d+)", ask("--version"))
    if version is None:
        return None
    folder = re.search(r"TOP=(.+)", ask("--dryrun", "-x", "cu", "-E", os.devnull))
    return Path(folder[1] if folder else nvcc.parent.parent).resolve(), version[1]


def choose_cuda(torch) -> str:
    """Return the toolkit's version (`13.0`) if CUDA is to be compiled, else `no-REASON`.

    Raises:
        SystemExit: RPE_OPS_CUDA=1 cannot be fulfilled.
    """
    wish = os.environ.get("RPE_OPS_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"RPE_OPS_CUDA must be 0 or 1, is {wish!r}")
    if wish == "0":
        return "no-switched-off"
    if torch.version.cuda is None:
        reason = "no-torch-without-cuda"
    elif (toolkit := find_toolkit()) is None:
        reason = "no-toolkit"
    else:
        folder, version = toolkit
        if version.split(".")[0] == torch.version.cuda.split(".")[0]:
            os.environ["CUDA_HOME"] = str(folder)  # read when cpp_extension is imported
            return version
        reason = f"no-toolkit-{version}-for-torch-cuda-{torch.version.cuda}"
    if wish == "1":
        raise SystemExit(f"RPE_OPS_CUDA=1, but CUDA cannot be compiled: {reason}")
    return reason


def cuda_include_dirs() -> list[str]:
    """Return include folders of CUDA's pip packages: toolkits often lack some headers."""
    folders = [f for path in sys.path for f in glob(f"{path}/nvidia/*/include")]
    return sorted(set(folders))


def extension_options() -> dict:
    """Return the options of setup() that compile; empty if that is not possible."""
    torch = import_torch()
    if torch is None:
        print("rpe_ops: no torch to build for; installing the Python part alone", file=sys.stderr)
        return {}
    if find_cxx() is None:
        print("rpe_ops: no C++ compiler; installing the Python part alone", file=sys.stderr)
        return {}
    cuda = choose_cuda(torch)
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    print(f"rpe_ops: building for torch {torch.__version__}, CUDA: {cuda}", file=sys.stderr)
    with_cuda = not cuda.startswith("no-")
    sources = ["csrc/rpe_ops.cpp", *sorted(glob("csrc/cpu/*.cpp"))]
    # The linker gets no -fopenmp: OpenMP comes from torch, and two copies of it can hang.
    cxx_flags = ["-O3", "-g0", *([] if sys.platform == "darwin" else ["-fopenmp"])]
    if with_cuda:
        sources += sorted(glob("csrc/cuda/*.cu"))
        if not torch.cuda.is_available():
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    extension = (CUDAExtension if with_cuda else CppExtension)(
        name="rpe_ops._C",
        sources=sources,
        depends=glob("csrc/**/*.h", recursive=True),
        define_macros=[("RPE_OPS_VERSION", VERSION), ("RPE_OPS_CUDA_BUILD", cuda)],
        extra_compile_args={"cxx": cxx_flags, "nvcc": ["-O3"]},
        # Searched after all others, so that the toolkit's own headers come first.
        include_dirs=cuda_include_dirs() if with_cuda else [],
        py_limited_api=True,  # nothing of Python inside: one library for all its versions
    )

    class BuildAlways(BuildExtension):
        """build_ext that always compiles: a library for another torch would look up to date."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.force = True

    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildAlways}}


setup(
    name="rpe_ops",
    version=VERSION,
    description="The operators of image relative position encoding (iRPE), for CPU and CUDA",
    python_requires=">=3.10",
    packages=["rpe_ops"],
    package_dir={"rpe_ops": "."},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    zip_safe=False,
    **extension_options(),
)
