"""Checkpoints from untrusted sources: for each a function that writes it, and the error message."""

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

from tests.hostile.cases import case, flip

# name: (writes(path, content of a good one, folder outside), what the answer has to contain)
CHECKPOINTS = {}  # to be resumed
DETECTORS = {}  # for load_detector


class Runs:
    """An object whose pickle calls a function when it is read."""

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
    path.write_bytes(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".")


@case(CHECKPOINTS, "pickle: without its end", "not a whole checkpoint")
def _(path, good, outside):
    path.write_bytes(pickle.dumps({"model": {}}, protocol=2)[:-1])


def damaged(name: str, change, says: str = "not a whole checkpoint", zipped: bool = True) -> None:
    """Add a case: a valid file with some of its bytes changed."""

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


@case(CHECKPOINTS, "compressed, with bytes behind", "its end is missing, or bytes follow it")
def _(path, good, outside):
    compressed(path)
    path.write_bytes(path.read_bytes() + bytes(70_000))


@case(CHECKPOINTS, "compressed, 1000 to 1", "compressed, which PyTorch's are not")
def _(path, good, outside):
    compressed(path)


def compressed(path: Path) -> None:
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


def content_of(name: str, says: str, table: dict = CHECKPOINTS, **changes) -> None:
    """Add a case: a valid checkpoint with other values under some keys; None removes a key."""

    @case(table, name, says)
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


def weight(name: str, says: str, change, key: str = "class_embed.bias") -> None:
    content_of(name, says, model=weights(lambda m: m.update({key: change(m.get(key))})))


BIAS = "class_embed.bias"
content_of("a list", "has no 'model'", model=[1, 2])
content_of("no model", "has no 'model'", model=None)
content_of("a weight is missing", BIAS, model=weights(lambda m: m.pop(BIAS)))
weight(
    "weights that are no tensors", f"model\\['{BIAS}'\\] is 'text', not a tensor", lambda b: "text"
)
weight("NaN weights", f"{BIAS} holds numbers that are not finite", lambda b: b * float("nan"))
weight("infinite weights", f"{BIAS} holds numbers that are not finite", lambda b: b / 0)
weight("a weight too many", "other.weight", lambda b: torch.ones(2), key="other.weight")
weight("a weight of another shape", BIAS, lambda b: torch.ones(9))
weight("a weight without memory", "more elements than the file has", lambda b: b[:1].expand(10**12))
weight("a sparse weight", "not one of plain numbers", lambda b: b.to_sparse())
weight("a complex weight", "not one of plain numbers", lambda b: b.to(torch.complex64))
weight("a weight of truths", "not one of plain numbers", lambda b: b > 0)
weight("names of weights that are numbers", "a name in model is 1, not a string",
       lambda b: torch.ones(2), key=1)  # fmt: skip
weight("a name of a million letters", "a string of 1000000 characters, more than 500",
       lambda b: torch.ones(2), key="a" * 10**6)  # fmt: skip
content_of("averaged weights that are a text", "ema is 'text', not a dictionary", ema="text")
content_of("args that are a text", "args", args="--lr 1")
content_of("args that are a dictionary", "'args' are a dict of", args=vars)
content_of("class names that are a list", "classes is a list of 1", classes=["cat"])
content_of("a class name that is a dictionary", r"classes\[0\] is a dict of 0", classes={0: {}})
content_of("a class name of a million letters", "1000000 characters", classes={0: "a" * 10**6})
content_of("a label that is a text", "a name in classes is 'a'", classes={"a": "cat"})


def options(name: str, says: str, table: dict = DETECTORS, **changes) -> None:
    content_of(name, says, table,
               args=lambda a: argparse.Namespace(**{**vars(a), **changes}))  # fmt: skip


options("args of another model", "made with --nheads 8", CHECKPOINTS, nheads=8)
options("nheads: a text", "nheads is '4', of another type", nheads="4")
options("nheads: a fraction", "nheads: must be a whole number", nheads=4.0)
options("nheads: a truth", "nheads is True", nheads=True)
options("nheads: none", "nheads: must be .* of at least 1, is 0", nheads=0)
options("nheads that do not divide the width", "--hidden_dim 32 must be .* --nheads 5", nheads=5)
options("dropout: NaN", "dropout: must be a number", dropout=float("nan"))
options("dropout: everything", "--dropout 1.0 must be below 1", dropout=1.0)
options("num_queries: 10^10", "too few for a model of .*--num_queries 10000000000",
        num_queries=10**10)  # fmt: skip
options("enc_layers: 10^6", "too few for a model of --enc_layers 1000000", enc_layers=10**6)
options("dec_layers: 10^6", "too few for a model of .*--dec_layers 1000000", dec_layers=10**6)
options("dim_feedforward: 10^9", "too few for a model of", dim_feedforward=10**9)
options("hidden_dim: 2^62", "too few for a model of", hidden_dim=2**62)
options("hidden_dim: 10^400", "hidden_dim is a number of 1329 bits", hidden_dim=10**400)
options("hidden_dim: 10^5000", "not a whole checkpoint.*Unsupported operand", hidden_dim=10**5000)
options("num_classes: 10^9", "too few for a model of", num_classes=10**9)
options("num_classes: a tensor", "num_classes is a tensor", num_classes=torch.ones(2))
options("enc_layers below none", "enc_layers: must be", enc_layers=-1)
options("image_size: 10^9", "image_size: must be a whole number from 32 to", image_size=10**9)
options("num_workers: 10^9", "num_workers: must be a whole number from 0 to", num_workers=10**9)
options("epochs: 10^12", "epochs: must be a whole number from 1 to", epochs=10**12)
options("batch_size: None", "batch_size is None", batch_size=None)
options("batch_size: 10^9", "batch_size: must be a whole number from 1 to", batch_size=10**9)
options("pre_norm: a number", "pre_norm is 1, not True or False", pre_norm=1)
options("masks: a text", "masks is 'no', not True or False", masks="no")
options("backbone: a list", "backbone is a list of 1", backbone=["resnet50"])
options("backbone: unknown", "argument --backbone: invalid choice", backbone="resnet9000")
options("dilation of basic blocks", "--dilation needs bottleneck blocks", dilation=True)
options("enc_rpe2d: a number", "enc_rpe2d", enc_rpe2d=5)
options(
    "enc_rpe2d: too large a ratio", "ratio must be above 0", enc_rpe2d="rpe-1e6-product-ctx-1-k"
)
options("dec_rpe: a number", "dec_rpe", dec_rpe=5)
options("dec_rpe: unknown", "mode must be linear or log", dec_rpe="box-cubic")
options("lr: below none", "lr: must be a number of at least 0", lr=-1e-4)
options("lr: infinite", "lr: must be a number of at least 0", lr=float("inf"))
options("category ids: a text", "category_ids is 'text', not a list", category_ids="text")
options("category ids: of no number", r"category_ids\[0\] is None", category_ids=[None])
