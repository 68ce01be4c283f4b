"""Options of classifiers that do not fit, and what tools know of the model that was trained."""

import pytest
import timm
import torch

from classification.classifier import load_classifier
from classification.run import build_model, build_teacher
from rpe_ops.attention import trial
from rpe_ops.irpe import get_rpe_config
from tests.classification.classifier_runs import draw_classes, parse, run_here
from util.errors import UserError


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("colours"))


def test_fused_attention_is_checked_before_the_first_step(colours, monkeypatch):
    tried = []

    def why_not(*layer):
        tried.append(layer)
        return "it is too old"

    monkeypatch.setattr(trial, "why_not_layer", why_not)
    monkeypatch.setattr("classification.run.Run.train", lambda self: None)
    words = ["--attention", "fused", "--amp", "bf16", "--model-kwargs", "embed_dim=16", "depth=1",
             "num_heads=4", "patch_size=4"]  # fmt: skip
    for more, dropout in (([], False), (["attn_drop_rate=0.5"], True)):
        with pytest.raises(UserError, match=r"^--attention fused: it is too old$"):
            run_here(colours, *words, *more)
        encoding = get_rpe_config(1.9, skip=1, rpe_on="k")
        assert tried.pop() == (encoding, 4, torch.device("cpu"), torch.bfloat16, dropout)
    with pytest.raises(UserError, match=r"--input-size 3: smaller than a patch .*, 4 x 4"):
        run_here(colours, "--input-size", 3)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--model-kwargs", "depth=1", "num_heads=6", "patch_size=8", "--input-size", "16"], 16),
        (["--input-size", "18"], 18),  # not a multiple of the patch
    ],
)
def test_tools_have_the_model_that_was_trained(colours, tmp_path, options, size):
    """Its heads, which tensors do not show, and the size of its images."""
    args = parse(colours, "--enc_rpe2d", "", *options, "--num-classes", 3)
    model = build_model(args).eval()
    torch.save({"model": model.state_dict(), "args": args}, tmp_path / "c.pth")
    classifier = load_classifier(tmp_path / "c.pth", "cpu")
    assert classifier.options.img_size == (size, size)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(images), model(images))
    args.model_kwargs.append("act_layer=relu")
    torch.save({"model": model.state_dict(), "args": args}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="was trained with --model-kwargs act_layer=relu"):
        load_classifier(tmp_path / "c.pth", "cpu")


def test_sizes_and_options_that_a_model_does_not_take(colours, tmp_path):
    vit = ["--enc_rpe2d", "", "--model", "vit_tiny_patch16_224", "--model-kwargs", "depth=1"]
    with pytest.raises(UserError, match="vit_tiny_patch16_224: takes images of 224 x 224"):
        run_here(colours, *vit, "--input-size", 32)
    for word, reason in (("num_classes=3", "the data decide"), ("in_chans=1", "3 channels")):
        with pytest.raises(UserError, match=f"--model-kwargs {word}: .*{reason}"):
            run_here(colours, *vit, word)
    teacher = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    args = parse(colours, "--distillation-type", "hard", "--teacher-model", "vit_tiny_patch16_224",
                 "--teacher-path", tmp_path / "teacher.pth", "--num-classes", 3)  # fmt: skip
    with pytest.raises(UserError, match="--teacher-model vit_tiny_patch16_224: takes images of"):
        build_teacher(args, torch.device("cpu"))
