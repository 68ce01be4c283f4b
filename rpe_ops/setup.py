"""Build and install rpe_ops.

    pip install ./rpe_ops                       or
    cd rpe_ops && python setup.py install       (with --user outside a virtual environment)
    pip wheel --no-deps ./rpe_ops               a file to install elsewhere

The version of what is installed says what it was built for: 1.1.0+cu130.torch2.14 has kernels for
the CPU and CUDA 13.0, 1.1.0+cpu.torch2.14 for the CPU, 1.1.0 has no compiled part.

Environment: RPE_OPS_CUDA=0 / 1 leaves CUDA out / insists on it, TORCH_CUDA_ARCH_LIST names the
GPUs to compile for, CUDA_HOME the toolkit. Without a C++ compiler only the Python part is
installed, which runs on PyTorch's own operators.
"""

import os
import re
import runpy
import shutil
import site
import sys
import sysconfig
from glob import glob
from pathlib import Path
from types import SimpleNamespace

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
os.chdir(HERE)  # setuptools takes paths relative to this folder
VERSION = runpy.run_path(str(HERE / "version.py"))["__version__"]
# The package cannot be imported before it is built.
toolkits = SimpleNamespace(**runpy.run_path(str(HERE / "toolkit.py")))


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


def choose_cuda(torch) -> tuple[str, list[str]]:
    """Choose whether CUDA is compiled, and for which GPUs.

    Returns:
        The toolkit's version (`13.0`), or `no-REASON` if CUDA is left out; and the architectures as
        nvcc names them, empty where torch has to choose.

    Raises:
        SystemExit: RPE_OPS_CUDA=1 cannot be fulfilled.
    """
    wish = os.environ.get("RPE_OPS_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"RPE_OPS_CUDA must be 0 or 1, is {wish!r}")
    if wish == "0":
        return "no-switched-off", []
    found = "no toolkit was looked for"
    if torch.version.cuda is None:
        reason = "no-torch-without-cuda"
    else:
        all_found = toolkits.find_toolkits()
        found = ", ".join(f"CUDA {t.version} in {t.folder}" for t in all_found) or "no nvcc"
        reason = toolkits.choose_toolkit(torch.version.cuda, all_found)
    if not isinstance(reason, str):
        os.environ["CUDA_HOME"] = str(reason.folder)  # read when cpp_extension is imported
        return reason.version, architectures_for(torch, reason)
    if wish == "1":
        raise SystemExit(
            f"RPE_OPS_CUDA=1, but CUDA cannot be compiled: {reason}; found: {found}; "
            "CUDA_HOME names a toolkit"
        )
    print(f"rpe_ops: CUDA is left out: {reason}; found: {found}", file=sys.stderr)
    return reason, []


def architectures_for(torch, toolkit) -> list[str]:
    """Return what to compile for: TORCH_CUDA_ARCH_LIST as torch reads it, or all GPUs."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        from torch.utils import cpp_extension

        read_list = getattr(cpp_extension, "_get_cuda_arch_flags", list)
        return re.findall(r",code=(\w+)", " ".join(read_list()))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = [torch.cuda.get_device_capability(index) for index in range(count)]
    return toolkits.default_architectures(toolkits.known_capabilities(toolkit), present)


def cuda_include_dirs() -> list[str]:
    """Return include folders of CUDA's pip packages: toolkits often lack some headers."""
    folders = [f for path in sys.path for f in glob(f"{path}/nvidia/*/include")]
    return sorted(set(folders))


def build_options() -> dict:
    """Return the version, and the options of setup() that compile if that is possible."""
    torch = import_torch()
    if torch is None:
        print("rpe_ops: no torch to build for; installing the Python part alone", file=sys.stderr)
        return {"version": VERSION}
    if find_cxx() is None:
        print("rpe_ops: no C++ compiler; installing the Python part alone", file=sys.stderr)
        return {"version": VERSION}
    cuda, architectures = choose_cuda(torch)
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    names = "/".join(architectures) or "unknown"  # nvcc would take commas for several macros
    with_cuda = not cuda.startswith("no-")
    print(f"rpe_ops: building for torch {torch.__version__}, CUDA: {cuda}", file=sys.stderr)
    if with_cuda:
        print(f"rpe_ops: for the architectures {names}", file=sys.stderr)
    sources = ["csrc/rpe_ops.cpp", *sorted(glob("csrc/cpu/*.cpp"))]
    # The linker gets no -fopenmp: OpenMP comes from torch, and two copies of it can hang.
    cxx_flags = ["-O3", "-g0", *([] if sys.platform == "darwin" else ["-fopenmp"])]
    if with_cuda:
        sources += sorted([*glob("csrc/cuda/*.cpp"), *glob("csrc/cuda/*.cu")])
    extension = (CUDAExtension if with_cuda else CppExtension)(
        name="rpe_ops._C",
        sources=sources,
        depends=glob("csrc/**/*.h", recursive=True),
        define_macros=[
            ("RPE_OPS_VERSION", VERSION),
            ("RPE_OPS_CUDA_BUILD", cuda),
            ("RPE_OPS_ARCHITECTURES", names if with_cuda else "none"),
        ],
        extra_compile_args={"cxx": cxx_flags, "nvcc": ["-O3", *toolkits.nvcc_flags(architectures)]},
        # Searched after all others, so that the toolkit's own headers come first.
        include_dirs=cuda_include_dirs() if with_cuda else [],
        py_limited_api=True,  # nothing of Python inside: one library for all its versions
    )

    class BuildAlways(BuildExtension):
        """build_ext that always compiles: a library for another torch would look up to date."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.force = True

    device = "cu" + cuda.replace(".", "") if with_cuda else "cpu"
    return {
        "version": f"{VERSION}+{device}.torch{'.'.join(torch.__version__.split('.')[:2])}",
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildAlways},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    name="rpe_ops",
    description="Image relative position encoding (iRPE): modules, attention and operators",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["relative position encoding", "vision transformer", "attention"],
    python_requires=">=3.10",
    install_requires=["torch>=2.6"],
    packages=["rpe_ops", *(f"rpe_ops.{inside}" for inside in find_packages())],
    py_modules=["irpe"],
    package_dir={"rpe_ops": ".", "": "top_level"},
    package_data={"rpe_ops": ["py.typed"]},
    zip_safe=False,
    **build_options(),
)
