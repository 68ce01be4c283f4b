"""Folders of weights, as of Hugging Face, from untrusted sources."""

import json
import os
import struct

import torch

from tests.hostile.cases import case

# name: (changes a good folder, what the answer has to contain)
FOLDERS = {}


def instead(name: str, says: str, file: str, make) -> None:
    """Add a case: make(path) writes something else in place of a file."""

    @case(FOLDERS, name, says)
    def change(folder):
        (folder / file).unlink(missing_ok=True)
        make(folder / file)


def sparse(path):
    with path.open("wb") as file:
        file.truncate(300 << 20)


KINDS = {
    "a pipe": ("is no regular file", os.mkfifo),
    "a device without an end": ("is no regular file", lambda path: path.symlink_to("/dev/zero")),
    "a link to nowhere": ("no such file|has no model", lambda path: path.symlink_to("nowhere")),
}
for file in ("config.json", "model.safetensors"):
    for kind, (says, make) in KINDS.items():
        instead(f"{file}: {kind}", f"{says}", file, make)
instead("config.json: a folder", "is no regular file", "config.json", os.mkdir)
instead("config.json: 300 MiB", "larger than the 256 MiB", "config.json", sparse)
instead("config.json: no JSON", "cannot be read", "config.json", lambda p: p.write_text("{"))
instead("config.json: no UTF-8", "cannot be read", "config.json",
        lambda p: p.write_bytes(b'{"a": "\xff"}'))  # fmt: skip
instead("config.json: endless nesting", "cannot be read", "config.json",
        lambda p: p.write_text("[" * 100_000))  # fmt: skip
instead("config.json: a number of 10,000 digits", "cannot be read", "config.json",
        lambda p: p.write_text("1" * 10_000))  # fmt: skip
instead("model.safetensors: a text", "cannot be read, copy it again", "model.safetensors",
        lambda p: p.write_text("this is no file of tensors"))  # fmt: skip
instead("model.safetensors: a header of 2^62 bytes", "cannot be read", "model.safetensors",
        lambda p: p.write_bytes(struct.pack("<Q", 2**62) + b"{}"))  # fmt: skip
instead("model.safetensors: empty", "cannot be read", "model.safetensors", lambda p: p.touch())


@case(FOLDERS, "model.safetensors: cut", "cannot be read, copy it again")
def _(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


@case(FOLDERS, "model.safetensors: numbers beyond its end", "cannot be read, copy it again")
def _(folder):
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}})
    content = struct.pack("<Q", len(header)) + header.encode() + bytes(100)
    (folder / "model.safetensors").write_bytes(content)


def index(name: str, says: str, content: object, make=None) -> None:
    """Add a case: a folder whose weights are in the files that an index lists."""

    @case(FOLDERS, f"index: {name}", says)
    def write(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        if make is not None:
            make(folder / "part.safetensors")


index("a list", "has no weight_map", [1])
index("no map", "has no weight_map", {"weight_map": 3})
index("a file outside", "is not in its folder", {"weight_map": {"w": "../outside/secret"}})
index("an absolute path", "is not in its folder", {"weight_map": {"w": "/etc/passwd"}})
index("a missing file", "no such file", {"weight_map": {"w": "part.safetensors"}})
index("a pipe", "is no regular file", {"weight_map": {"w": "part.safetensors"}}, os.mkfifo)


def old(name: str, says: str, make) -> None:
    @case(FOLDERS, f"pytorch_model.bin: {name}", says)
    def write(folder):
        (folder / "model.safetensors").unlink()
        make(folder / "pytorch_model.bin")


old("a pipe", "is no regular file", os.mkfifo)
old("a text", "a text, not a checkpoint", lambda path: path.write_text("these are no weights"))
old("a list", "must contain tensors by name", lambda path: torch.save([torch.ones(2)], path))
old("a text among tensors", "must contain tensors", lambda path: torch.save({"a": "b"}, path))
