"""Count the instructions in the hot loops of the compiled CUDA kernels; needs no GPU.

    python benchmarks/instructions/cuda_instructions.py [NAME=LIBRARY ...] [--json FILE]

Without a library it is the one in use. A result's numbers are those of one round of the loop that
looks up or sums, with all of its branches: a round seldom goes through all of them.

cuobjdump and nvdisasm are taken from PATH, else from Triton's package.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# The repository before this folder's parent, which has measure.py: both have an rpe_ops.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from measure import machine, show, write_json

from rpe_ops.library import LIBRARY

KEYS_OF_A_SUM = 8  # that a thread takes in a round
DTYPES = {
    "f": ("float32", 4), "j": ("32 bits", 4), "d": ("float64", 8), "m": ("64 bits", 8),
    "t": ("16 bits", 2), "N3c104HalfE": ("float16", 2), "N3c108BFloat16E": ("bfloat16", 2),
}  # fmt: skip
BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}  # of LDG.E.128; else 4
KERNEL = re.compile(r"(lookup|bucket_sum)_kernelI(f|j|d|m|t|N3c104HalfE|N3c108BFloat16E)(.*)")


class Instruction(NamedTuple):
    """An instruction of a GPU: where it is, and its text."""

    address: int
    text: str

    @property
    def name(self) -> str:
        """The operation without its predicate, such as LDG.E.128."""
        return self.text.split()[1 if self.text.startswith("@") else 0]


def disassemble(library: Path) -> Iterator[tuple[str, str, list[Instruction]]]:
    """Yield architecture, mangled name and instructions of each kernel."""
    tools = [os.environ["PATH"]]
    if not (shutil.which("cuobjdump") and shutil.which("nvdisasm")):
        import triton

        tools.append(str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin"))
    path = os.pathsep.join(tools)
    tool = shutil.which("cuobjdump", path=path)
    if tool is None:
        raise SystemExit("neither on PATH nor in Triton's package there is cuobjdump")
    text = subprocess.run(
        [tool, "-sass", library], env={**os.environ, "PATH": path}, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    for code in re.split(r"^Fatbin elf code:", text, flags=re.M)[1:]:
        architecture = re.search(r"arch = (\w+)", code)[1]
        for function in re.split(r"^\s*Function : ", code, flags=re.M)[1:]:
            lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", function, flags=re.M)
            yield (
                architecture,
                function.split()[0],
                [Instruction(int(address, 16), line) for address, line in lines],
            )


def hot_loop(code: list[Instruction], lookup: bool) -> list[Instruction]:
    """Return the shortest loop that stores most at a time, or that reads and adds up."""
    loops = []
    for instruction in code:
        target = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", instruction.text)
        if target and int(target[1], 16) < instruction.address:
            begin, end = int(target[1], 16), instruction.address
            loops.append([one for one in code if begin <= one.address <= end])
    if lookup:
        return max(loops, key=lambda loop: (max(map(stored, loop)), -len(loop)))
    sums = [loop for loop in loops if {"LDG", "STS"} <= {one.name.split(".")[0] for one in loop}]
    return min(sums, key=len)


def stored(instruction: Instruction) -> int:
    """Return the bytes that a thread writes to global memory."""
    operation, *rest = instruction.name.split(".")
    if operation != "STG":
        return 0
    return next((BYTES[word] for word in rest if word in BYTES), 4)


def results_of(name: str, library: Path) -> list[dict]:
    """Return a row for each kernel and architecture."""
    rows = []
    for architecture, function, code in disassemble(library):
        kind, dtype, rest = KERNEL.search(function).groups()
        label, size = DTYPES[dtype]
        loop = hot_loop(code, kind == "lookup")
        values = sum(map(stored, loop)) // size if kind == "lookup" else KEYS_OF_A_SUM
        width = re.match(r"Li(\d)E", rest)  # of kernels before they took any number of keys
        place = re.search(r"(StagedTables|TablesInPlace)", rest)
        rows.append(
            {
                "library": name, "architecture": architecture, "kernel": kind, "dtype": label,
                "variant": place[1] if place else f"width {width[1]}" if width else "",
                "loop_instructions": len(loop), "values": values,
                "instructions_a_value": round(len(loop) / values, 2),
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: [str(value) for value in row.values()])


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("libraries", nargs="*", metavar="NAME=LIBRARY", help="compiled libraries")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    return parser


def main(args: argparse.Namespace) -> None:
    named = dict(text.rpartition("=")[::2] for text in args.libraries) or {"": LIBRARY.path}
    rows = [row for name, path in named.items() for row in results_of(name, Path(path))]
    facts = machine(torch.device("cpu"))
    facts["command"] = "python benchmarks/instructions/cuda_instructions.py " + " ".join(
        f"{name}=LIBRARY" for name in named
    )
    show(facts)
    print()
    for row in rows:
        print(
            f"{row['library']:<8} {row['architecture']:<7} {row['kernel']:<11} {row['dtype']:<9} "
            f"{row['variant']:<14} {row['loop_instructions']:>5} for {row['values']:>3} values: "
            f"{row['instructions_a_value']:>6}"
        )
    write_json(args.json, facts, rows)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
