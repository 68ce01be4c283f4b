"""Checkpoints that nobody should have to trust: by name, what writes one, what is said of it."""

import argparse
import io
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import torch
from hostile_cases import case, flip

# name: (writes(path, content of a good one, folder outside), what the answer has to contain)
CHECKPOINTS = {}


class Runs:
    """A pickle that calls something when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def save(path: Path, content: object, zipped: bool = True) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


def pickled(name: str, says: str, function, *arguments, zipped: bool = True) -> None:
    """A checkpoint whose pickle calls function(*arguments), with {owned} a file outside."""

    @case(CHECKPOINTS, name, says)
    def write(path, good, outside):
        filled = [str(a).format(owned=outside / "owned") for a in arguments]
        save(path, {**good, "model": Runs(function, *filled)}, zipped)


pickled("pickle: os.system", "posix.system, which could run code", os.system, "touch {owned}")
pickled("legacy pickle: os.system", "posix.system", os.system, "touch {owned}", zipped=False)
pickled("pickle: eval", "eval, which could run code", eval, "open('{owned}', 'w')")
pickled("pickle: exec", "exec, which could run code", exec, "open('{owned}', 'w')")
pickled("pickle: open", "open, which could run code", open, "{owned}", "w")
pickled("pickle: Popen", "Popen, which could run code", subprocess.Popen, "touch {owned}")
pickled("pickle: rmtree", "shutil.rmtree", shutil.rmtree, "{owned}")
pickled("pickle: getattr", "getattr, which could run code", getattr, "x", "upper")
pickled("pickle: a loader of pickles", "loads, which could run code", pickle.loads, "x")
pickled("pickle: torch.load", "torch.serialization.load", torch.load, "{owned}")


@case(CHECKPOINTS, "pickle: a class that is nowhere", "nowhere.Thing, which could run code")
def _(path, good, outside):
    path.write_bytes(b"\x80\x02cnowhere\nThing\n)R.")


@case(CHECKPOINTS, "pickle: endless nesting", "not a whole checkpoint")
def _(path, good, outside):
    path.write_bytes(b"\x80\x02" + b"(" * 3_000_000 + b"t" * 3_000_000 + b".")


@case(CHECKPOINTS, "pickle: without its end", "not a whole checkpoint")
def _(path, good, outside):
    path.write_bytes(pickle.dumps({"model": {}}, protocol=2)[:-1])


def damaged(name: str, change, says: str = "not a whole checkpoint", zipped: bool = True) -> None:
    """A good file with its bytes changed."""

    @case(CHECKPOINTS, name, says)
    def write(path, good, outside):
        save(path, good, zipped)
        content = bytearray(path.read_bytes())
        changed = change(content)
        path.write_bytes(content if changed is None else changed)


for share in (0, 0.1, 0.5, 0.99):
    for zipped in (True, False):
        kind = "zip" if zipped else "legacy"
        damaged(f"the first {share:.0%} of a {kind} file",
                lambda content, share=share: content[: int(len(content) * share)],
                zipped=zipped)  # fmt: skip
damaged("a bit of a weight", flip(lambda content: len(content) // 2))
damaged("a bit of the pickle", flip(lambda content: content.index(b"ccollections") + 20))
damaged("a bit of the central directory", flip(lambda content: content.rindex(b"PK\x01\x02") + 1))
damaged("a bit of the end record", flip(lambda content: content.rindex(b"PK\x05\x06") + 2))
damaged(
    "zeros in the middle",
    lambda content: content[:9000] + bytes(len(content) - 18000) + content[-9000:],
)
damaged("two files behind each other, cut", lambda content: content[5000:] + content[:5000])


@case(CHECKPOINTS, "text", "a text, not a checkpoint")
def _(path, good, outside):
    path.write_text("this is a checkpoint")


@case(CHECKPOINTS, "compressed, 1000 to 1", "compressed, which PyTorch's are not")
def _(path, good, outside):
    save(path, {"model": torch.zeros(10_000_000)})
    stored = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in stored.infolist():
            archive.writestr(member.filename, stored.read(member))


@case(CHECKPOINTS, "parts that overlap", "larger than the file")
def _(path, good, outside):
    """Each of 1000 entries of the directory is the same stored part."""
    save(path, good)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    first = content.index(b"PK\x01\x02", start)
    second = content.index(b"PK\x01\x02", first + 4)
    big = max(range(first, len(content)), key=lambda i: (
        content[i : i + 4] == b"PK\x01\x02" and struct.unpack_from("<I", content, i + 24)[0]
    ))  # fmt: skip
    following = content.find(b"PK\x01\x02", big + 4)
    entry = content[big : following if following > 0 else content.rindex(b"PK\x06\x06")]
    assert second > first
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 50, 50, 50 * len(entry), start, 0)
    path.write_bytes(content[:start] + entry * 50 + end)


def content_of(name: str, says: str, **changes) -> None:
    """A good checkpoint with other values under some keys; None removes a key."""

    @case(CHECKPOINTS, name, says)
    def write(path, good, outside):
        made = {k: v(good[k]) if callable(v) else v for k, v in changes.items()}
        content = {k: v for k, v in {**good, **made}.items() if v is not None}
        save(path, content)


def weights(change):
    def changed(model):
        model = dict(model)
        change(model)
        return model

    return changed


BIAS = "class_embed.bias"
content_of("a list", "has no 'model'", model=[1, 2])
content_of("no model", "has no 'model'", model=None)
content_of("weights that are no tensors", BIAS,
           model=weights(lambda m: m.update({BIAS: "text"})))  # fmt: skip
content_of("NaN weights", f"{BIAS} holds numbers that are not finite",
           model=weights(lambda m: m.update({BIAS: m[BIAS] * float("nan")})))  # fmt: skip
content_of("infinite weights", f"{BIAS} holds numbers that are not finite",
           model=weights(lambda m: m.update({BIAS: m[BIAS] + float("inf")})))  # fmt: skip
content_of("a weight is missing", BIAS, model=weights(lambda m: m.pop(BIAS)))
content_of("a weight too many", "other.weight",
           model=weights(lambda m: m.update({"other.weight": torch.ones(2)})))  # fmt: skip
content_of("a weight of another shape", BIAS,
           model=weights(lambda m: m.update({BIAS: torch.ones(9)})))  # fmt: skip
content_of("a weight that claims a size without memory", BIAS,
           model=weights(lambda m: m.update({BIAS: torch.ones(1).expand(10**12)})))  # fmt: skip
content_of("names of weights that are numbers", "does not fit the model",
           model=weights(lambda m: m.update({1: torch.ones(2)})))  # fmt: skip
content_of("args of another model", "made with --nheads 8",
           args=lambda a: argparse.Namespace(**{**vars(a), "nheads": 8}))  # fmt: skip
content_of("args that are a text", "args", args="--lr 1")
content_of("an optimizer that is a text", "state of training", optimizer="adam")
content_of("an optimizer of other parameters", "trained other parameters",
           optimizer=lambda o: {**o, "param_groups": o["param_groups"][:1]})  # fmt: skip
content_of("an optimizer without groups", "other parameters",
           optimizer=lambda o: {"state": o["state"]})  # fmt: skip
content_of(
    "moments of another shape",
    "state of training",
    optimizer=lambda o: {**o, "state": {0: {**o["state"][0], "exp_avg": torch.ones(3)}}},
)
content_of("a schedule that is a number", "state of training", lr_scheduler=3)
content_of("an epoch that is a text", "state of training", epoch="three")
content_of("an epoch before all", "state of training", epoch=-7)
content_of("a step that is a text", "state of training", step="three")
content_of("a step before all", "state of training", step=-3)
content_of("random states that are none", "state of training", processes=[{"random": 1}])
content_of(
    "a random state of another length",
    "state of training",
    processes=lambda p: [{**p[0], "random": {**p[0]["random"], "torch": torch.ones(3)}}],
)
content_of("sums of other numbers than are named", "state of training",
           processes=lambda p: [{**p[0], "metrics": {"names": ["a"], "sums": torch.ones(3),
                                                     "count": 1}}])  # fmt: skip
content_of("a log that is a number", "state of training", log=7)
content_of("rows of the log that are none", "state of training", log=[3])
