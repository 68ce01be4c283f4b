"""load_classifier: which model a checkpoint is of, how images are prepared, probabilities."""

import argparse
import math

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision import transforms

from classification import MODELS
from classification.classifier import class_names, load_classifier
from classification.data.evaluated_images import evaluation_transform
from classification.model_options import infer_model
from classification.zoo import SIZES
from tests.classification.tiny_deit import CLASSES, QKV, drawn, tiny_model, write_checkpoint
from util.errors import UserError

MEAN, STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def published_transform(size):
    """As in the published code, with torchvision alone."""
    steps = []
    if size > 32:
        steps += [transforms.Resize(int(256 / 224 * size), interpolation=3)]
        steps += [transforms.CenterCrop(size)]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


@pytest.mark.parametrize("size", [64, 224, 384])
@pytest.mark.parametrize("shape", [(300, 500), (500, 301), (20, 31), (224, 224)])
def test_images_are_prepared_as_published(size, shape):
    image = drawn(height=shape[0], width=shape[1])
    found = evaluation_transform((size, size))(image)
    assert torch.equal(found, published_transform(size)(image))


def test_small_images_are_neither_resized_nor_cropped():
    image = drawn(height=32, width=32)
    found = evaluation_transform((32, 32))(image)
    assert torch.equal(found, published_transform(32)(image))
    assert evaluation_transform((32, 32))(drawn(height=40, width=90)).shape == (3, 32, 32)
    wide = evaluation_transform((64, 96))(drawn(height=300, width=310))
    assert wide.shape == (3, 64, 96)


def by_hand(model, image, size=32):
    """Probabilities in plain Python, from the model's logits."""
    square = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = (np.asarray(square) / 255 - MEAN) / STD
    with torch.no_grad():
        logits = model(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None])[0]
    powers = [math.exp(value) for value in logits.tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("distilled", [False, True])
def test_probabilities_by_hand(tmp_path, distilled):
    model = tiny_model(distilled=distilled)
    classifier = load_classifier(write_checkpoint(tmp_path / "c.pth", model), "cpu", num_heads=2)
    images = [drawn(seed, 40, 40) for seed in range(3)]
    images[1].save(tmp_path / "one.png")
    found = classifier.predict([images[0], tmp_path / "one.png", np.asarray(images[2])], topk=3)
    assert classifier.classes == CLASSES and [len(row) for row in found] == [3] * 3
    for image, row in zip(images, found):
        wanted = by_hand(model, image)
        order = sorted(range(5), key=lambda i: -wanted[i])[:3]
        assert [name for name, _ in row] == [CLASSES[i] for i in order]
        np.testing.assert_allclose([p for _, p in row], [wanted[i] for i in order], rtol=1e-4)
    (alone,) = classifier.predict(images[0], topk=99)
    assert len(alone) == 5 and alone[0] == pytest.approx(found[0][0])
    assert classifier.predict([]) == []
    with pytest.raises(ValueError, match="topk must be at least 1"):
        classifier.predict(images, topk=0)


def test_logits_that_are_no_numbers(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.head.bias[1] = math.nan
    classifier = load_classifier(write_checkpoint(tmp_path / "c.pth", model), "cpu", num_heads=2)
    with pytest.raises(UserError, match="logits are not finite"):
        classifier.predict(drawn())


def test_averaged_weights(tmp_path):
    model, average = tiny_model(), tiny_model(seed=1)
    path = write_checkpoint(tmp_path / "c.pth", model, model_ema=average.state_dict())
    images = torch.rand(2, 3, 32, 32)
    for options, wanted in (({}, model), ({"average": True}, average)):
        found = load_classifier(path, "cpu", num_heads=2, **options)
        assert torch.equal(found.model.pos_embed, wanted.pos_embed)
        torch.testing.assert_close(found.model(images), wanted(images))


# ---- which model ----


def published_state(name):
    """Names and shapes of a published model's weights, without their bytes."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, weight_init="skip").state_dict()


@pytest.mark.parametrize("name", [n for n in MODELS if "base" not in n])
def test_published_models_by_weights_and_name(name):
    state = published_state(name)
    for args, source in (
        (argparse.Namespace(model=name, input_size=MODELS[name].img_size), "checkpoint.pth"),
        (argparse.Namespace(), f"zoo/{name}.pth"),
        (argparse.Namespace(), f"https://example.org/{name}-a1311bcf.pth"),
    ):
        found = infer_model(state, args, source)
        assert found.name == name and found.enc_rpe2d == MODELS[name].enc_rpe2d
        assert (found.embed_dim, found.num_heads) == SIZES[MODELS[name].size]
        assert (found.depth, found.mlp_ratio, found.qkv_bias) == (12, 4, True)
        assert found.img_size == (224, 224) and found.distilled == MODELS[name].distilled
        with torch.device("meta"):
            built = found.build().state_dict()
        assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize(
    "text", ["", "rpe-1.9-product-ctx-1-qk", "rpe-2.5-product-bias-0-q", "rpe-20-cross-ctx-0-kv"]
)
def test_encodings_are_read_from_tables(tmp_path, text):
    """Weights alone: no args, no classes, no name."""
    model = tiny_model(text, embed_dim=64)
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    classifier = load_classifier(path, "cpu", num_heads=2)
    assert classifier.options.enc_rpe2d == text
    assert classifier.classes == [f"class {i}" for i in range(5)]
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(classifier.model(images), model(images))


def test_heads_are_read_from_tables(tmp_path):
    for text, heads in (("rpe-1.9-product-ctx-1-v", 4), ("rpe-1.9-product-bias-0-k", 8)):
        model = tiny_model(text, num_heads=heads)
        torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
        assert load_classifier(tmp_path / "w.pth", "cpu").options.num_heads == heads


def test_encodings_that_tables_do_not_determine(tmp_path):
    torch.save(tiny_model("rpe-2.0-product-ctx-1-k").state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: its 82 buckets can be .*product.* or rpe-20-euc"):
        load_classifier(tmp_path / "w.pth", "cpu")
    found = load_classifier(tmp_path / "w.pth", "cpu", enc_rpe2d="rpe-2.0-product-ctx-1-k")
    assert found.options.enc_rpe2d == "rpe-2.0-product-ctx-1-k"
    torch.save(tiny_model("").state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="number of heads is not in it: give num_heads="):
        load_classifier(tmp_path / "w.pth", "cpu")
    with pytest.raises(TypeError, match="no option heads"):
        load_classifier(tmp_path / "w.pth", "cpu", heads=2)


def test_without_absolute_positions(tmp_path):
    model = tiny_model(QKV, pos_embed="none")
    path = write_checkpoint(tmp_path / "c.pth", model)
    found = load_classifier(path, "cpu", num_heads=2)
    assert found.options.img_size == (32, 32) and not found.options.absolute_positions
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(found.model(images), model(images))
    torch.save(model.state_dict(), path)
    with pytest.raises(UserError, match=r"no position embeddings, .*: give img_size="):
        load_classifier(path, "cpu", num_heads=2)


def test_images_of_other_sizes(tmp_path, capsys):
    path = write_checkpoint(tmp_path / "c.pth", tiny_model(QKV))
    found = load_classifier(path, "cpu", num_heads=2, img_size=(48, 64))
    assert "from 4 x 4 to 6 x 8" in capsys.readouterr().out
    assert found.transform(drawn()).shape == (3, 48, 64) and len(found.predict(drawn())[0]) == 5
    with pytest.raises(UserError, match="img_size 50 is not a whole number of patches"):
        load_classifier(path, "cpu", num_heads=2, img_size=50)
    path = write_checkpoint(tmp_path / "c.pth", tiny_model(QKV, img_size=(16, 40)))
    with pytest.raises(UserError, match="10 patches are not a square: give img_size="):
        load_classifier(path, "cpu", num_heads=2)
    assert load_classifier(path, "cpu", num_heads=2, img_size=(16, 40)).options.saved_grid == (2, 5)


def test_names_of_classes():
    assert class_names({"classes": {0: "a", 2: "c"}}, 3, "c.pth") == ["a", "class 1", "c"]
    assert class_names({}, 2, "c.pth") == ["class 0", "class 1"]
    names = class_names({}, 1000, "c.pth")
    assert "tench" in names[0] and "toilet tissue" in names[999] and len(set(names)) > 990
    for classes, says in ((["a"], "1 names of classes for 2"), ("ab", "no names of classes")):
        with pytest.raises(UserError, match=rf"c\.pth: has {says}"):
            class_names({"classes": classes}, 2, "c.pth")


def test_checkpoints_of_no_classifier(tmp_path, checkpoint):
    headless = tiny_model(num_classes=0)
    for content, says in (
        (torch.load(checkpoint, weights_only=False), "a detector's checkpoint"),
        ({"model": headless.state_dict()}, "has no head.weight"),
        ({"model": {"cls_token": torch.zeros(1), "head.weight": torch.zeros(2, 3)}}, "no patch_em"),
        ({"model": {"layer.weight": torch.zeros(1)}}, "not the weights of a DeiT.*layer.weight"),
        ({"weights": 3}, "holds no weights"),
    ):
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(UserError, match=rf"file\.pth: .*{says}") as error:
            load_classifier(tmp_path / "file.pth", "cpu")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"none\.pth: no such checkpoint file"):
        load_classifier(tmp_path / "none.pth", "cpu")
