"""Reading images, targets, transforms, and that randomness belongs to the sample."""

import multiprocessing
import shutil

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets import build_dataset
from datasets.annotations.store import PackedBytes
from datasets.coco import CocoDetection
from datasets.images import ImageReader
from datasets.transforms import make_coco_transforms
from main import build_loaders
from tests.helpers.data import assert_same_samples, make_split, zip_folder
from util.errors import UserError
from util.misc import collate_fn


@pytest.fixture
def zipped(shapes, tmp_path):
    """The shapes data with archives instead of folders."""
    (tmp_path / "annotations").symlink_to(shapes / "annotations")
    for split in ("train2017", "val2017"):
        (tmp_path / split).symlink_to(shapes / split)
        zip_folder(tmp_path / split)
        (tmp_path / split).unlink()
    return tmp_path


@pytest.mark.parametrize("source", ["folder", "archive"])
@pytest.mark.parametrize("where", ["..", "val2017/..", "absolute"])
def test_names_cannot_lead_out_of_the_folder(shapes, zipped, source, where):
    """Annotation files of strangers name images; a name that exists elsewhere is not opened."""
    root = shapes if source == "folder" else zipped
    outside = root / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    name = str(outside) if where == "absolute" else f"{where}/outside.png"
    with pytest.raises(UserError, match="leads out of"):
        ImageReader(root / "val2017").read(name)
    outside.unlink()


def test_cached_images_are_decoded_once_and_stay_as_they_were(shapes, tmp_path, args):
    """Two epochs of flips from the cache are those from the files, which may go meanwhile."""
    options = ["--image_size", "48", "--augment", "flip", "--masks"]
    plain = build_dataset("train", args("--coco_path", shapes, *options))
    copied = shutil.copytree(shapes, tmp_path / "copied")
    cached = build_dataset("train", args("--coco_path", copied, *options, "--cache_images"))
    for epoch in range(3):
        for dataset in (plain, cached):
            dataset.set_epoch(epoch)
        assert_same_samples(plain, cached)
        shutil.rmtree(copied / "train2017", ignore_errors=True)
    evaluated = build_dataset("val", args("--coco_path", copied, *options, "--cache_images"))
    evaluated[0]
    shutil.rmtree(copied / "val2017")
    with pytest.raises(UserError, match="missing"):
        evaluated[0]


# ---- archives ----


def test_folder_and_archive_give_the_same(shapes, zipped, args):
    for split in ("train", "val"):
        folder = build_dataset(split, args("--coco_path", shapes))
        archive = build_dataset(split, args("--coco_path", zipped))
        assert_same_samples(folder, archive)


def test_folder_comes_first_and_the_archive_fills_in(shapes, tmp_path):
    files = sorted((shapes / "val2017").iterdir())[:2]
    folder = tmp_path / "val2017"
    folder.mkdir()
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    zip_folder(folder)
    (folder / files[1].name).unlink()
    Image.new("RGB", (7, 5)).save(folder / files[0].name)
    reader = ImageReader(folder)
    assert reader.read(files[0].name).size == (7, 5)  # the folder's, not the archive's
    assert reader.read(files[1].name).size == (80, 80)  # one the folder lacks
    assert reader.read(files[0].name).size == (7, 5)  # and it goes on with the folder


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_open_the_archive_themselves(shapes, zipped, args, method):
    """With 8 workers, also after the parent has read from the archive."""
    dataset = build_dataset("train", args("--coco_path", zipped))
    expected = list(build_dataset("train", args("--coco_path", shapes)))
    dataset[0]  # the parent's handle is open now
    workers = 8 if method == "fork" else 2
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers,
        multiprocessing_context=multiprocessing.get_context(method),
    )  # fmt: skip
    for _ in range(2):
        assert_same_samples(loader, expected)


def test_an_image_missing_from_both_is_named(shapes, zipped):
    with pytest.raises(UserError, match=r"nothing\.jpg.*missing.*val2017\.zip"):
        ImageReader(zipped / "val2017").read("nothing.jpg")
    with pytest.raises(UserError, match=r"nothing\.jpg.*missing.*val2017$"):
        ImageReader(shapes / "val2017").read("nothing.jpg")
    with pytest.raises(UserError, match=r"no such image folder.*test2017\.zip"):
        ImageReader(shapes / "test2017")


def test_damaged_files_are_named(shapes, tmp_path):
    folder = tmp_path / "val2017"
    folder.mkdir()
    good = sorted((shapes / "val2017").iterdir())[0].read_bytes()
    (folder / "short.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.jpg").write_text("no image")
    reader = ImageReader(folder)
    for name in ("short.jpg", "text.jpg"):
        with pytest.raises(UserError, match=name) as error:
            reader.read(name)
        assert "\n" not in str(error.value)
    (tmp_path / "train2017.zip").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"train2017\.zip: not a readable zip"):
        ImageReader(tmp_path / "train2017").read("a.jpg")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "LA", "CMYK"])
def test_images_of_any_mode_are_read_as_rgb(tmp_path, mode):
    folder = tmp_path / "val2017"
    folder.mkdir()
    picture = Image.effect_noise((20, 10), 90).convert(mode)
    name = "a.tif" if mode == "CMYK" else "a.png"
    picture.convert(mode).save(folder / name)
    with Image.open(folder / name) as stored:
        assert stored.mode == mode
        wanted = stored.convert("RGB").tobytes()
    image = ImageReader(folder).read(name)
    assert image.mode == "RGB" and image.tobytes() == wanted


def test_an_error_in_a_loader_worker_stays_one_line(shapes, args, tmp_path):
    dataset = build_dataset("val", args("--coco_path", shapes))
    names = [dataset.annotations.file_name(i) for i in range(len(dataset))]
    names[3] = "gone.jpg"
    dataset.annotations.file_names = PackedBytes(name.encode() for name in names)
    with pytest.raises(UserError) as error:
        list(DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=collate_fn))
    path = dataset.annotations.path
    image_id = dataset.annotations.image_ids[3]
    wanted = f"{path}: image {image_id}: gone.jpg: image missing from {shapes / 'val2017'}"
    assert str(error.value) == wanted


# ---- targets ----


def test_targets(tmp_path):
    images, annotations = make_split(
        tmp_path,
        [
            {"category_id": 3, "bbox": [10, 5, 20, 10], "area": 99, "iscrowd": 0},
            {"category_id": 1, "bbox": [30, 20, 50, 50]},  # beyond the image; no area, no iscrowd
            {"category_id": 2, "bbox": [0, 0, 40, 30], "area": 5, "iscrowd": 1},
            {"category_id": 4, "bbox": [5, 5, 0, 8], "area": 0, "iscrowd": 0},  # empty
            {"category_id": 4, "bbox": [40, 5, 0, 8], "area": 0, "iscrowd": 0},  # on the border
        ],
    )
    dataset = CocoDetection(images, annotations, make_coco_transforms("none", 60))
    image, target = dataset[0]
    assert image.shape == (3, 60, 80)
    wanted = [[20 / 40, 10 / 30, 20 / 40, 10 / 30], [35 / 40, 25 / 30, 10 / 40, 10 / 30]]
    torch.testing.assert_close(target["boxes"], torch.tensor(wanted))
    assert type(target["boxes"]) is torch.Tensor
    assert target["labels"].tolist() == [3, 1] and target["labels"].dtype == torch.int64
    assert target["area"].tolist() == [4 * 99, 4 * 2500]  # twice as high and wide
    assert target["iscrowd"].tolist() == [0, 0]
    assert target["image_id"].item() == 7
    assert target["orig_size"].tolist() == [30, 40]
    assert target["size"].tolist() == [60, 80]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = (torch.tensor([10, 20, 30]) / 255 - mean) / deviation
    torch.testing.assert_close(image[:, 5, 5], colour)


def test_an_image_without_objects_is_kept(tmp_path):
    images, annotations = make_split(tmp_path, [])
    for augment in ("none", "detr"):
        image, target = CocoDetection(images, annotations, make_coco_transforms(augment, 64))[0]
        assert image.shape[0] == 3
        assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)


def test_masks_when_asked_for(tmp_path):
    polygon = [10, 5, 30, 5, 30, 15, 10, 15]
    images, annotations = make_split(tmp_path, [
        {"category_id": 1, "bbox": [10, 5, 20, 10], "segmentation": [polygon]},
        {"category_id": 2, "bbox": [0, 0, 2, 30],
         "segmentation": {"counts": [0, 60, 1140], "size": [30, 40]}},
    ], height=30, width=40)  # fmt: skip
    dataset = CocoDetection(images, annotations, make_coco_transforms("none", 30), True)
    masks = dataset[0][1]["masks"]
    assert masks.shape == (2, 30, 40) and masks.dtype == torch.bool
    assert masks[0, 5:15, 10:30].all() and masks[0].sum() == 200
    assert masks[1, :, :2].all() and masks[1].sum() == 60


# ---- randomness ----


def batches(loader, epoch):
    loader.dataset.set_epoch(epoch)
    loader.batch_sampler.sampler.set_epoch(epoch)
    return {
        target["image_id"].item(): (image[:, : target["size"][0], : target["size"][1]], target)
        for samples, targets in loader
        for image, target in zip(samples.tensors, targets, strict=True)
    }


def test_samples_depend_on_seed_epoch_and_index_alone(varied_shapes, args):
    def samples(epoch, workers=0, rank=0, world_size=1, seed=42):
        options = args("--coco_path", varied_shapes, "--image_size", 64, "--batch_size", 2,
                       "--num_workers", workers, "--seed", seed)  # fmt: skip
        options.rank, options.world_size = rank, world_size
        torch.manual_seed(rank)  # the process's own generator plays no part
        return batches(build_loaders(options)[0], epoch)

    def same(left, right):
        assert left.keys() == right.keys()
        return all(
            left[i][0].shape == right[i][0].shape and torch.equal(left[i][0], right[i][0])
            for i in left
        )

    reference = samples(epoch=3)
    assert len(reference) == 12
    assert same(samples(3, workers=1), reference)
    assert same(samples(3, workers=3), reference)
    halves = [samples(3, rank=rank, world_size=2) for rank in (0, 1)]
    assert not halves[0].keys() & halves[1].keys()
    assert same(halves[0] | halves[1], reference)
    assert not same(samples(4), reference)
    assert not same(samples(3, seed=43), reference)


def test_running_workers_see_a_new_epoch(varied_shapes, args):
    dataset = build_dataset("train", args("--coco_path", varied_shapes, "--image_size", 64))
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        epochs.append(list(loader))
    assert_same_samples(epochs[0], epochs[2])
    assert any(a[0].shape != b[0].shape for a, b in zip(epochs[0], epochs[1], strict=True))


def test_drawing_a_sample_leaves_the_process_generator_alone(shapes, args):
    dataset = build_dataset("train", args("--coco_path", shapes, "--image_size", 64))
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    dataset[0]
    assert torch.equal(torch.rand(3), wanted)


def test_every_validation_image_is_on_one_process(shapes, args):
    seen = []
    for rank in range(3):
        options = args("--coco_path", shapes, "--num_workers", 0, "--eval", "--image_size", 64)
        options.rank, options.world_size = rank, 3
        _, loader = build_loaders(options)
        seen += [t["image_id"].item() for _, targets in loader for t in targets]
    assert sorted(seen) == list(range(1, 14))
