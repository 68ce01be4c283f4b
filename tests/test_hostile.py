"""Hostile and broken inputs: each gets one line, and nothing outside of its folder is touched.

Every case is a whole run of main.py, in this process. The table of what was said is printed at
the end of the tests.
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from conftest import MAIN, TINY_RUN, answer_of_main, make_shapes, run_ok

CHECKPOINTS, DATA, OUTPUTS = {}, {}, {}


def case(table: dict, name: str, says: str):
    """Add a function that breaks something to a table, with what the answer has to contain."""

    def add(function):
        table[name] = (function, says)
        return function

    return add


# ---- checkpoints: breaks(path, good content, outside) writes the file ----


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


def flip(place):
    def change(content):
        content[place(content)] ^= 4

    return change


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


@case(CHECKPOINTS, "text", "not a whole checkpoint")
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
           model=weights(lambda m: m.update({BIAS: torch.ones(7)})))  # fmt: skip
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


# ---- data: breaks(folder, outside) changes a copy of the data ----


def annotations(name: str, says: str, change) -> None:
    """A change of the content of the training annotations."""

    @case(DATA, name, says)
    def write(folder, outside):
        path = folder / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        changed = change(content) or content
        path.write_text(changed if isinstance(changed, str) else json.dumps(changed))


def first(content: dict, kind: str = "annotations", **values) -> None:
    content[kind][0].update(values)


NAN, INF = float("nan"), float("inf")
annotations("annotations: cut", "not a readable JSON file", lambda c: json.dumps(c)[:-50])
annotations("annotations: nested 200,000 deep", "not a readable JSON file",
            lambda c: "[" * 200_000 + "]" * 200_000)  # fmt: skip
annotations("annotations: a number of 10,000 digits", "not a readable JSON file",
            lambda c: json.dumps(c)[:-1] + ', "x": ' + "9" * 10_000 + "}")  # fmt: skip
annotations("annotations: a list", "no list 'images'", lambda c: "[1, 2]")
annotations("an id of 30 digits", "too large", lambda c: first(c, id=10**30))
annotations("a box with NaN", "annotation 1", lambda c: first(c, bbox=[NAN, 1, 2, 3]))
annotations("an infinite box", "annotation 1", lambda c: first(c, bbox=[1, 1, INF, 3]))
annotations(
    "a box of 1e999",
    "annotation 1",
    lambda c: json.dumps(c).replace('"bbox": [', '"bbox": [1e999, 1, 2, 3, ', 1),
)
annotations("a box of negative width", "annotation 1", lambda c: first(c, bbox=[9, 9, -2, 3]))
annotations("a box outside", "annotation 1", lambda c: first(c, bbox=[900, 9, 5, 5]))
annotations("a box of three numbers", "annotation 1", lambda c: first(c, bbox=[9, 9, 2]))
annotations("an area that is a text", "annotation 1", lambda c: first(c, area="large"))
annotations("an unknown category", "category", lambda c: first(c, category_id=77))
annotations("a category without a class", "--num_classes",
            lambda c: (first(c, category_id=500), c["categories"].append({"id": 500, "name": "x"}))
            and c)  # fmt: skip
annotations("an annotation twice", "twice|duplicate|more than once|two annotations",
            lambda c: c["annotations"].append(c["annotations"][0]))  # fmt: skip
annotations("an image twice", "twice|duplicate|more than once|two images",
            lambda c: c["images"].append(c["images"][0]))  # fmt: skip
annotations("a size unlike the image's", "64 high and 64 wide",
            lambda c: first(c, "images", height=65, width=64))  # fmt: skip
annotations("a name that is a number", "file_name", lambda c: first(c, "images", file_name=3))
for what, bad in {
    "with ../": "../../outside/secret.jpg",
    "that is absolute": "{outside}/secret.jpg",
    "with ../ inside": "a/../../../outside/secret.jpg",
}.items():  # fmt: skip

    @case(DATA, f"a file name {what}", "leads out of")
    def _(folder, outside, bad=bad):
        path = folder / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        for image in content["images"]:
            image["file_name"] = bad.format(outside=outside)
        path.write_text(json.dumps(content))


annotations("a file name with a zero byte", "image",
            lambda c: [first({"images": [i]}, "images", file_name="a\0b") for i in c["images"]]
            and c)  # fmt: skip
annotations("a file name of 10,000 letters", "image",
            lambda c: [first({"images": [i]}, "images", file_name="a" * 10_000)
                       for i in c["images"]] and c)  # fmt: skip


@case(DATA, "annotations: not UTF-8", "not a readable JSON file")
def _(folder, outside):
    (folder / "annotations" / "instances_train2017.json").write_bytes(b'{"images": ["\xff"]}')


@case(DATA, "annotations: a folder", "instances_train2017.json")
def _(folder, outside):
    path = folder / "annotations" / "instances_train2017.json"
    path.unlink()
    path.mkdir()


def images(name: str, says: str, content) -> None:
    """All training images are these bytes (of a good one's); None removes them."""

    @case(DATA, name, says)
    def write(folder, outside):
        for path in (folder / "train2017").iterdir():
            made = content(path.read_bytes())
            path.unlink()
            if made is not None:
                path.write_bytes(made)


def png(width: int, height: int) -> bytes:
    """A small file that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))  # fmt: skip


images("images: missing", "image missing from", lambda good: None)
images("images: empty", "not a readable image", lambda good: b"")
images("images: text", "not a readable image", lambda good: b"<html>404</html>")
images("images: half", "not a readable image", lambda good: good[: len(good) // 2])
images("a PNG of 100,000 x 100,000", "100,?000", lambda good: png(100_000, 100_000))
images(
    "a PNG of 2^31 x 2^31", "not a readable image|pixels", lambda good: png(2**31 - 1, 2**31 - 1)
)
images("a PNG without its pixels", "not a readable image", lambda good: png(64, 64))


@case(DATA, "images: a pipe", "image")
def _(folder, outside):
    for path in (folder / "train2017").iterdir():
        path.unlink()
        os.mkfifo(path)


@case(DATA, "no images at all", "no such image folder")
def _(folder, outside):
    shutil.rmtree(folder / "train2017")


def archive(name: str, says: str, change) -> None:
    """The images in train2017.zip, whose bytes are changed."""

    @case(DATA, name, says)
    def write(folder, outside):
        path = folder / "train2017.zip"
        with zipfile.ZipFile(path, "w") as made:
            for image in sorted((folder / "train2017").iterdir()):
                made.write(image, f"train2017/{image.name}")
        shutil.rmtree(folder / "train2017")
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content) or content)


def mark_encrypted(content: bytearray) -> None:
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] |= 1


def other_compression(content: bytearray) -> None:
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] = 97


def damage_members(content: bytearray) -> None:
    for place in range(200, content.index(b"PK\x01\x02"), 100):
        content[place] ^= 1


archive("an archive cut in the middle", "train2017.zip", lambda c: c[: len(c) // 2])
archive("a damaged central directory", "train2017.zip",
        flip(lambda c: c.index(b"PK\x01\x02")))  # fmt: skip
archive("a directory that points elsewhere", "train2017.zip",
        flip(lambda c: c.rindex(b"PK\x05\x06") + 17))  # fmt: skip
archive("damaged members", "train2017.zip", damage_members)
archive("an encrypted archive", "train2017.zip", mark_encrypted)
archive("an unknown compression", "train2017.zip", other_compression)
archive("an archive that is text", "not a readable zip", lambda c: b"PK, I am a zip")


@case(DATA, "an archive with ../ names", "leads out of")
def _(folder, outside):
    path = folder / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    with zipfile.ZipFile(folder / "train2017.zip", "w") as made:
        for image in content["images"]:
            name = "../../outside/" + image["file_name"]
            made.write(folder / "train2017" / image["file_name"], f"train2017/{name}")
            image["file_name"] = name
    path.write_text(json.dumps(content))
    shutil.rmtree(folder / "train2017")


@case(DATA, "a bomb in an archive", "train2017.zip")
def _(folder, outside):
    """A member of 3 GB that takes 3 MB."""
    names = [path.name for path in (folder / "train2017").iterdir()]
    shutil.rmtree(folder / "train2017")
    pieces = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1 << 20)
    packed = b"".join(pieces.compress(zeros) for _ in range(3000)) + pieces.flush()
    size = 3000 << 20
    with (folder / "train2017.zip").open("wb") as file:
        entries, places = [], []
        for name in sorted(names):
            member = f"train2017/{name}".encode()
            fields = (20, 0, 8, 0, 0, 0, len(packed), size, len(member), 0)
            places.append(file.tell())
            file.write(struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + member + packed)
            entries.append((fields, member))
            break  # one is enough, the others are missing
        start = file.tell()
        for place, (fields, member) in zip(places, entries, strict=True):
            file.write(struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, place))
            file.write(member)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(entries), len(entries),
                               file.tell() - start, start, 0))  # fmt: skip
    content = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    content["images"] = [dict(image, file_name=sorted(names)[0]) for image in content["images"]]
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


# ---- output folders: breaks(out) makes it unusable ----


@case(OUTPUTS, "the output folder is a file", "--output_dir")
def _(out):
    out.write_text("")


@case(OUTPUTS, "a folder in a file", "--output_dir")
def _(out):
    out.write_text("")
    return out / "inside"


@case(OUTPUTS, "a name of 300 letters", "--output_dir")
def _(out):
    return out / ("a" * 300)


@case(OUTPUTS, "checkpoint.pth cannot be replaced", "cannot write the checkpoint")
def _(out):
    """It is made a folder once the run has looked at what is there."""
    (out / ".checkpoint.pth.part").mkdir(parents=True)


def mounted(name: str, says: str, options: str) -> None:
    @case(OUTPUTS, name, says)
    def mount(out):
        out.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", out], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"cannot mount a file system of its own: {done.stderr.strip()}")


mounted("a full disk", r"cannot write the checkpoint \(.*No space left", "size=2m")
mounted("a file system that is read-only", "--output_dir .*cannot be written to", "ro")


# ---- the tests ----


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with good data, a run's checkpoint, and files that nobody may touch."""
    root = tmp_path_factory.mktemp("hostile")
    make_shapes(root / "data", "--train", "4", "--val", "2", "--size", "64")
    run_ok(MAIN, *TINY_RUN, "--coco_path", root / "data", "--output_dir", root / "run",
           "--epochs", "1")  # fmt: skip
    (root / "outside").mkdir()
    shutil.copy(next((root / "data" / "train2017").iterdir()), root / "outside" / "secret.jpg")
    return root


def fingerprint(*roots: Path) -> dict[str, str]:
    """Every file below, with a hash of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for root in roots
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def check(record_property, tmp_path):
    """check(name, says, line): is the answer right? Adds it to the table at the end."""

    def compare(name: str, says: str, line: str) -> None:
        assert re.search(says, line), line
        assert len(line) < 1000
        record_property("answer", (name, line.replace(str(tmp_path), "…")))

    return compare


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint(name, place, check, tmp_path):
    write, says = CHECKPOINTS[name]
    good = torch.load(place / "run" / "checkpoint.pth", weights_only=False)
    path = tmp_path / "stranger.pth"
    write(path, good, place / "outside")
    before = fingerprint(place)
    line = answer_of_main("--coco_path", place / "data", "--resume", path, "--epochs", "2",
                  "--output_dir", tmp_path / "out")  # fmt: skip
    assert fingerprint(place) == before
    assert [found.name for found in (tmp_path / "out").rglob("*")] == []
    check(name, says, line)


@pytest.mark.parametrize("name", DATA)
def test_data(name, place, check, tmp_path):
    write, says = DATA[name]
    data = tmp_path / "folder" / "data"
    shutil.copytree(place / "data", data)
    outside = shutil.copytree(place / "outside", tmp_path / "folder" / "outside")
    write(data, outside)
    before = fingerprint(place, outside)
    line = answer_of_main("--coco_path", data, "--epochs", "1")
    assert fingerprint(place, outside) == before
    check(name, says, line)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_folder(name, place, check, tmp_path):
    write, says = OUTPUTS[name]
    out = tmp_path / "out"
    wanted = write(out) or out
    before = fingerprint(place)
    try:
        line = answer_of_main(
            "--coco_path", place / "data", "--epochs", "1", "--output_dir", wanted
        )
    finally:
        if out.is_mount():
            subprocess.run(["umount", out], check=True)
    assert fingerprint(place) == before
    check(name, says, line)


def test_there_are_enough():
    assert len(CHECKPOINTS) + len(DATA) + len(OUTPUTS) >= 60
