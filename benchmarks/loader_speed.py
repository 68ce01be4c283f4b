"""Measure the images a second of one loader process, and the share of padding in batches.

    python benchmarks/loader_speed.py --coco_path DIR [--rounds N] [--json FILE]

One process reads, transforms and pads batches of the training split, from a folder and from an
archive of the same images (without compression, as COCO publishes them), with the transforms of
training and of validation, here and the way the published code does it (see published/data.py); all
take turns. It also compares Pillow with torchvision: time to decode and to resize, and pixels.
"""

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measure import machine, medians, show, write_json
from published.data import PublishedDetection
from torch.utils.data import BatchSampler, DistributedSampler
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

from datasets.coco import CocoDetection
from datasets.images import ImageReader
from datasets.loaders import GroupedBatchSampler
from datasets.transforms import MAX_SIZE, make_coco_transforms
from datasets.transforms_functional import resized_shape
from util.misc import collate_fn


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco_path", required=True, type=Path,
                        help="folder with annotations/ and train2017/")
    parser.add_argument("--batch_size", default=2, type=int, help="default: %(default)s")
    parser.add_argument("--images", default=50, type=int, help="most; default: %(default)s")
    parser.add_argument("--rounds", default=5, type=int, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def padding_share(dataset: CocoDetection, batches: BatchSampler, epochs: int) -> float:
    """Return the share of padding among all pixels of the batches of some epochs."""
    padded = pixels = 0
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        batches.sampler.set_epoch(epoch)
        for batch in batches:
            samples, _ = collate_fn([dataset[index] for index in batch])
            padded += int(samples.mask.sum())
            pixels += samples.mask.numel()
    return padded / pixels


class BlankImages:
    """A stand-in for ImageReader that returns blank images of the right size."""

    def __init__(self, reader: ImageReader, names: list[str]):
        self.blank = {name: reader.read(name).point(lambda _: 0) for name in names}

    def read(self, file_name: str):
        return self.blank[file_name]


def decoders(contents: list[bytes], reader: ImageReader, names: list[str]) -> Iterator[tuple]:
    """Return (name, actions, comparison of pixels) of decoding and of resizing."""
    buffers = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]

    def torchvision_decode() -> list[torch.Tensor]:
        return [decode_image(buffer, ImageReadMode.RGB) for buffer in buffers]

    def pillow_decode() -> list:
        return [reader.read(name) for name in names]

    decoded, images = torchvision_decode(), pillow_decode()
    yield (
        "decode",
        {"Pillow": pillow_decode, "torchvision": torchvision_decode},
        same_pixels(map(F.pil_to_tensor, images), decoded),
    )

    def resize(sources: list) -> Callable[[], list]:
        def run() -> list:
            shapes = [resized_shape(*F.get_size(source), 800, MAX_SIZE) for source in sources]
            pairs = zip(sources, shapes, strict=True)
            return [F.resize(source, list(shape), antialias=True) for source, shape in pairs]

        return run

    actions = {"Pillow": resize(images), "torchvision": resize(decoded)}
    resized = {name: action() for name, action in actions.items()}
    yield (
        "resize",
        actions,
        same_pixels(map(F.pil_to_tensor, resized["Pillow"]), resized["torchvision"]),
    )


def same_pixels(left: Iterator[torch.Tensor], right: list[torch.Tensor]) -> str:
    """Say that pixels are the same, or how many values differ and by how much at most."""
    total = different = largest = 0
    for one, other in zip(left, right, strict=True):
        difference = (one.int() - other.int()).abs()
        total += difference.numel()
        different += int(difference.count_nonzero())
        largest = max(largest, int(difference.max()))
    if not different:
        return "the same pixels"
    return f"{100 * different / total:.3f} % of values differ, by up to {largest}"


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # as in a loader process
    device = torch.device("cpu")
    facts = machine(device)
    show(facts)
    folder = args.coco_path / "train2017"
    annotations = args.coco_path / "annotations" / "instances_train2017.json"
    results = []
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place) / "train2017"
        with zipfile.ZipFile(archive.with_suffix(".zip"), "w") as file:
            for image in sorted(folder.iterdir()):
                file.write(image, f"train2017/{image.name}")

        def batches_of(root: Path, augment: str, published: bool) -> Callable[[], None]:
            if published:
                dataset = PublishedDetection(root, annotations, train=augment == "detr")
            else:
                dataset = CocoDetection(root, annotations, make_coco_transforms(augment))
            count = min(len(dataset), args.images)

            def run() -> None:
                for start in range(0, count, args.batch_size):
                    stop = min(start + args.batch_size, count)
                    collate_fn([dataset[index] for index in range(start, stop)])

            return run

        actions = {
            (augment, source, way): batches_of(root, augment, way == "published")
            for augment in ("none", "detr")
            for source, root in (("folder", folder), ("archive", archive))
            for way in ("published", "here")
        }
        dataset = CocoDetection(folder, annotations, make_coco_transforms("detr"))
        count = min(len(dataset), args.images)
        times = medians(actions, device, args.rounds)
        for (augment, source, way), seconds in times.items():
            faster = times[augment, source, "published"] / seconds
            print(
                f"augment {augment} from {source:8} {way:10} {count / seconds:8.1f} images/s "
                f"{faster:6.2f} x faster"
            )
            results.append(
                {"augment": augment, "source": source, "way": way,
                 "images_per_second": round(count / seconds, 1), "times_faster": round(faster, 3)}
            )  # fmt: skip

    names = [dataset.annotations.file_name(index) for index in range(len(dataset))]
    contents = [(folder / name).read_bytes() for name in names[:count]]
    for what, actions, same in decoders(contents, dataset.reader, names[:count]):
        for name, seconds in medians(actions, device, args.rounds).items():
            print(f"{what} {name:13} {1e3 * seconds / count:8.2f} ms  {same}")
            results.append(
                {"step": what, "by": name, "milliseconds": round(1e3 * seconds / count, 3),
                 "pixels": same}
            )  # fmt: skip

    ratios = torch.from_numpy(dataset.annotations.aspect_ratios())
    dataset.reader = BlankImages(dataset.reader, names)
    for batch_size in (2, 4, 8):
        sampler = DistributedSampler(dataset, 1, 0)
        for name, batches in (
            ("random", BatchSampler(sampler, batch_size, drop_last=True)),
            ("by shape", GroupedBatchSampler(sampler, batch_size, ratios)),
        ):
            for augment in ("flip", "detr"):
                dataset.transforms = make_coco_transforms(augment, 200)
                share = padding_share(dataset, batches, epochs=10)
                print(f"padding, batches of {batch_size} {name:8} augment {augment} {share:7.1%}")
                results.append(
                    {"batch_size": batch_size, "batches": name, "augment": augment,
                     "padding": round(share, 4)}
                )  # fmt: skip
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
