"""Samples of classification: where images come from, what is random, who sees what."""

import io
import random
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from classification.data.loaders import (
    build_loaders,
    posterize,
    seeded,
    training_transform,
)
from classification.engine import evaluate
from classification.run import build_model
from tests.classification.classifier_runs import CLASSES, alone, draw_classes, parse
from tests.helpers.two_processes import in_two_processes
from util.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("colours"))


def pack(folder, name, inner=False):
    """Pack a split into a tar archive: of images, or of an archive for each class."""
    with tarfile.open(folder.parent / name, "w") as archive:
        for place in sorted(folder.iterdir()):
            if not inner:
                archive.add(place, f"{folder.name}/{place.name}")
                continue
            content = io.BytesIO()
            with tarfile.open(fileobj=content, mode="w") as of_class:
                for image in sorted(place.iterdir()):
                    of_class.add(image, image.name)
            member = tarfile.TarInfo(f"{place.name}.tar")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))


def samples(loader, epoch=0, step=0):
    loader.set_position(epoch, step)
    return [tuple(part.tolist() for part in batch) for batch in loader]


@pytest.mark.parametrize("inner", [False, True])
def test_an_archive_is_its_folder(tmp_path, inner):
    data = draw_classes(tmp_path / "data")
    for split in ("train", "val"):
        pack(data / split, f"{split}.tar", inner)
    folders, archives = (
        build_loaders(alone(parse(data, "--num_workers", workers, *words)))
        for workers, words in ((0, []), (2, ["--load-tar"]))
    )
    assert archives[0].dataset.source.classes == list(CLASSES)
    assert samples(folders[0], 1) == samples(archives[0], 1)
    left, right = ([tuple(p.tolist() for p in b) for b in loaders[1]] for loaders in
                   (folders, archives))  # fmt: skip
    assert left == right and sum(len(labels) for _, labels, _ in left) == 15


def test_labels_are_those_of_torchvision(colours):
    wanted = ImageFolder(colours / "val")
    source = build_loaders(alone(parse(colours)))[1].dataset.source
    assert source.classes == wanted.classes and source.labels == wanted.targets
    for number in (0, 7, 14):
        assert np.array_equal(np.asarray(source.read(number)), np.asarray(wanted[number][0]))


def test_repeated_augmentation_sees_all_images_in_one_process(tmp_path):
    """Three times a third of the images in an epoch; each time the image is another sample."""
    data = draw_classes(tmp_path / "data", train=10)
    loader, _ = build_loaders(alone(parse(data, "--batch-size", 6)))
    seen = Counter()
    for epoch in range(12):
        batches = samples(loader, epoch)
        assert len(batches) == 5
        numbers = [number for _, _, numbers in batches for number in numbers]
        assert Counter(Counter(numbers).values()) == {3: 10}
        pixels = {number: [] for number in numbers}
        for images, _, members in batches:
            for image, number in zip(images, members, strict=True):
                pixels[number].append(image)
        assert all(a != b != c for a, b, c in pixels.values())
        seen.update(set(numbers))
    assert len(seen) == 30
    plain, _ = build_loaders(alone(parse(data, "--batch-size", 6, "--no-repeated-aug")))
    orders = [[n for batch in samples(plain, epoch) for n in batch[2]] for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(30)) and orders[0] != orders[1]


def test_two_processes_share_an_epoch(colours):
    parts = []
    for rank in (0, 1):
        args = alone(parse(colours, "--no-repeated-aug"))
        args.rank, args.world_size = rank, 2
        parts.append([n for batch in samples(build_loaders(args)[0]) for n in batch[2]])
    assert sorted(parts[0] + parts[1]) == list(range(24))


def test_random_choices_are_those_of_the_place_alone(colours):
    """Not of the worker, of what was read before, or of the state of generators."""
    workers, here = (
        build_loaders(alone(parse(colours, "--num_workers", count)))[0] for count in (2, 0)
    )
    wanted = samples(workers, 3)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert samples(here, 3, step=2) == wanted[2:]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == state
    assert samples(here, 4) != wanted
    other, _ = build_loaders(alone(parse(colours, "--seed", 1)))
    assert samples(other, 3) != wanted


def test_each_place_of_each_epoch_has_choices_of_its_own(colours):
    found = []
    for rank in (0, 1):
        args = alone(parse(colours))
        args.rank, args.world_size = rank, 2
        loader, _ = build_loaders(args)
        found += [place for batch in loader.batch_sampler for _, place in batch]
    assert sorted(found) == list(range(24))
    images = []
    for epoch in (0, 1):
        loader.dataset.set_epoch(epoch)
        images += [loader.dataset[3, place][0] for place in (5, 6, 5)]
    assert torch.equal(images[0], images[2]) and torch.equal(images[3], images[5])
    for left, right in ((0, 1), (0, 3), (1, 4), (3, 4)):
        assert not torch.equal(images[left], images[right])


def test_seeds_of_all_generators():
    def numbers():
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    with seeded("a"):
        first = numbers()
    with seeded("a"):
        assert numbers() == first
    with seeded("b"):
        assert not set(numbers()) & set(first)


@pytest.mark.parametrize(("size", "resized"), [(224, 256), (384, 438), (96, 109), (32, None)])
def test_evaluated_images_are_prepared_as_published(tmp_path, size, resized):
    """Up to 32 pixels they stay as they are."""
    shape = (300, 470, 3) if resized else (size, size, 3)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    for number, name in enumerate("ab"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(images[number]).save(tmp_path / "val" / name / "0.png")
    steps = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if resized:
        bicubic = transforms.InterpolationMode.BICUBIC
        steps = [transforms.Resize(resized, bicubic), transforms.CenterCrop(size), *steps]
    wanted = [transforms.Compose(steps)(Image.fromarray(image)) for image in images]
    _, loader = build_loaders(alone(parse(tmp_path, "--eval", "--input-size", size)))
    found, labels, _ = next(iter(loader))
    assert torch.equal(found, torch.stack(wanted)) and labels.tolist() == [0, 1]


def test_small_images_are_cropped_from_a_margin_in_training():
    args = parse("data", "--input-size", 32)
    crop = training_transform(args).transforms[0]
    assert isinstance(crop, transforms.RandomCrop) and crop.padding == 4 and crop.size == (32, 32)
    names = [type(step).__name__ for step in training_transform(parse("data")).transforms]
    assert names == [
        "RandomCrop", "RandomHorizontalFlip", "RandAugment", "MaybeToTensor", "Normalize",
        "RandomErasing",
    ]  # fmt: skip


def test_an_image_of_no_bits_is_black():
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    assert posterize(image, 0).getextrema() == ((0, 0),) * 3
    assert posterize(image, 1).getpixel((0, 0)) == (128, 0, 0)
    strong = training_transform(parse("data", "--aa", "rand-m10-n9-inc1"))
    for number in range(40):
        with seeded(str(number)):
            strong(image.resize((40, 40)))


def evaluated(rank: int, folder) -> tuple[dict, list]:
    """Evaluate as one of two processes; 15 images do not share out evenly."""
    args = alone(parse(folder))
    args.rank, args.world_size = rank, 2
    return _evaluate(args)


def _evaluate(args) -> tuple[dict, list]:
    args.num_classes = 3
    torch.manual_seed(0)
    model = build_model(args)
    _, loader = build_loaders(args)
    seen = [number for _, _, numbers in loader for number in numbers.tolist()]
    return evaluate(model, loader, torch.device("cpu")), seen


def test_two_processes_evaluate_as_one(colours, tmp_path):
    alone_stats, alone_seen = _evaluate(alone(parse(colours)))
    (left, first), (right, second) = in_two_processes(evaluated, tmp_path, colours)
    assert sorted(first + second) == alone_seen == list(range(15))
    assert left == right and left.pop("loss") == pytest.approx(alone_stats.pop("loss"), rel=1e-7)
    assert left == alone_stats and list(left) == ["acc1", "acc5"]


def test_accuracies_are_those_counted_by_hand():
    logits = torch.randn(23, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(23) % 7
    batches = DataLoader([(row, int(label), 0) for row, label in zip(logits, labels)], 4)
    stats = evaluate(torch.nn.Identity(), batches, torch.device("cpu"))
    ranks = [(row > row[label]).sum().item() for row, label in zip(logits, labels)]
    assert stats["acc1"] == 100 * sum(rank < 1 for rank in ranks) / 23
    assert stats["acc5"] == 100 * sum(rank < 5 for rank in ranks) / 23
    assert stats["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits.double(), labels).item(), rel=1e-6
    )


def test_data_that_cannot_be_used(tmp_path):
    def answer(*options, data=tmp_path):
        with pytest.raises(UserError) as error:
            for loader in build_loaders(alone(parse(data, *options))):
                list(loader)
        return str(error.value)

    assert "train: no such folder" in answer()
    (tmp_path / "train").mkdir()
    assert "has no folder of a class" in answer()
    (tmp_path / "train" / "blue").mkdir()
    assert "there is no image in its 1 folder(s)" in answer()
    assert "train.tar: no such archive" in answer("--load-tar")
    (tmp_path / "train.tar").write_bytes(b"nothing")
    assert "not a readable archive" in answer("--load-tar")
    with tarfile.open(tmp_path / "train.tar", "w"):
        pass
    assert "it holds no images" in answer("--load-tar")
    assert "holds no CIFAR-100" in answer("--data-set", "CIFAR")

    data = draw_classes(tmp_path / "drawn", train=2, val=1)
    (data / "train" / ".ipynb_checkpoints").mkdir()  # is left out
    (data / "train" / "zebra").mkdir()
    assert "zebra: the folder of a class has no image" in answer(data=data)
    (data / "train" / "zebra").rmdir()
    assert "do not fill one batch of --batch_size 64" in answer("--batch-size", 64, data=data)
    assert "--aa bogus: timm knows no such" in answer("--aa", "bogus", data=data)
    (data / "val" / "red").rename(data / "val" / "pink")
    assert "1 of its classes are not among the 3" in answer(data=data)
    (data / "val" / "pink").rename(data / "val" / "red")
    (data / "val" / "red" / "00.png").write_bytes(b"no image")
    assert "red/00.png: not a readable image" in answer(data=data)
