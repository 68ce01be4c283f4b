"""Folders of Hugging Face's ViT and DeiT, written by transformers, and of timm."""

import json

import pytest
import timm
import torch

from classification import DistilledVisionTransformer, VisionTransformer, load_weights
from classification.hugging_face import usual_name
from util.errors import UserError

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "image_size": [6, 8], "patch_size": 2, "num_labels": 5,
}  # fmt: skip
TINY = {
    "img_size": (6, 8), "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2,
    "mlp_ratio": 2.0, "num_classes": 5,
}  # fmt: skip
KINDS = {
    "ViTForImageClassification": ("ViTConfig", VisionTransformer),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", DistilledVisionTransformer),
}


def write(folder, kind="ViTForImageClassification", config="ViTConfig", **options):
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**{**SIZES, **options})
    model = getattr(transformers, kind)(settings).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf") / "vit"
    write(path)
    return path


@pytest.fixture
def changed(folder, tmp_path):
    """Return changed(name=value, ...): a copy of the folder whose config.json has these."""

    def copy(**values):
        for path in folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, **values}))
        return tmp_path

    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(tmp_path, capsys, kind):
    config, ours = KINDS[kind]
    theirs = write(tmp_path, kind, config)
    model = ours(**TINY).eval()
    loaded = load_weights(model, tmp_path)
    assert loaded.lines() == [] and capsys.readouterr().out == ""
    x = torch.randn(2, 3, 6, 8)
    torch.testing.assert_close(model(x), theirs(x).logits, atol=1e-4, rtol=1e-4)
    assert model(x).std(0).max() > 0.01  # or the comparison would say nothing


def test_another_size_and_other_classes(folder, capsys):
    model = VisionTransformer(**{**TINY, "img_size": (12, 12), "num_classes": 3})
    loaded = load_weights(model, folder)
    assert loaded.resized == ((3, 4), (6, 6))
    assert "head.weight (5 classes there, 3 here)" in capsys.readouterr().out


def test_features_have_no_head(tmp_path, capsys):
    theirs = write(tmp_path, "ViTModel")
    model = VisionTransformer(**TINY).eval()
    loaded = load_weights(model, tmp_path)
    assert loaded.left_out == ["pooler.dense.bias", "pooler.dense.weight"]
    assert "new, with random weights: head.weight, head.bias" in capsys.readouterr().out
    x = torch.randn(2, 3, 6, 8)
    torch.testing.assert_close(
        model.forward_features(x), theirs(x).last_hidden_state, atol=1e-4, rtol=1e-4
    )


def test_names_inside_of_newer_versions(folder):
    """They save by older names, and have others in memory."""
    model = transformers.ViTForImageClassification.from_pretrained(folder)
    wanted = {
        name.replace(".qkv.", f".{part}.")
        for name in VisionTransformer(**TINY).state_dict()
        for part in ("query", "key", "value")
    }
    assert {usual_name(name) for name in model.state_dict()} == wanted


def test_one_classifier_on_the_class_token_is_another_model(tmp_path):
    write(tmp_path, "DeiTForImageClassification", "DeiTConfig")
    with pytest.raises(UserError, match="class token alone"):
        load_weights(DistilledVisionTransformer(**TINY), tmp_path)


def test_a_folder_of_timm(tmp_path):
    name = "deit_tiny_patch16_224_ctx_product_50_shared_k"
    saved = timm.create_model(name, num_classes=2)
    timm.models.save_for_hf(saved, tmp_path)
    model = timm.create_model(name, num_classes=2)
    load_weights(model, tmp_path)
    assert torch.equal(model.head.weight, saved.head.weight)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(again.head.weight, saved.head.weight)


@pytest.mark.parametrize(
    "values, says",
    [
        ({"num_attention_heads": 4}, "num_attention_heads is 4, the model's 2"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', the model's gelu"),
        ({"layer_norm_eps": 0.1}, "layer_norm_eps is 0.1, the model's 1e-06"),
        ({"model_type": "swin"}, "model_type is 'swin', not vit or deit"),
        ({"image_size": "large"}, "image_size is 'large'"),
        ({"patch_size": 0}, "patch_size is 0"),
    ],
)
def test_what_tensors_do_not_tell(changed, values, says):
    with pytest.raises(UserError, match=rf"config\.json: {says}"):
        load_weights(VisionTransformer(**TINY), changed(**values))


def test_damaged_folders(changed, tmp_path):
    model = VisionTransformer(**TINY)
    tensors = changed() / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read, copy it again"):
        load_weights(model, tmp_path)
    tensors.unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        load_weights(model, tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        load_weights(model, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: no such file; a folder of Hugging"):
        load_weights(model, tmp_path)
    with pytest.raises(UserError, match="no averaged weights"):
        load_weights(model, tmp_path, average=True)


def test_older_folders_with_a_pickled_file(folder, tmp_path):
    from safetensors.torch import load_file

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    models = [VisionTransformer(**TINY) for _ in range(2)]
    load_weights(models[0], folder)
    load_weights(models[1], tmp_path)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
