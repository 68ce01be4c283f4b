"""Logits and gradients of DeiT with iRPE are those of loops written from the formulas."""

import itertools

import pytest
import torch

from classification import DistilledVisionTransformer, VisionTransformer
from rpe_ops.irpe import get_rpe_config
from tests.classification.vit_loop import Loop
from tests.helpers.rpe_loops import COMBINATIONS, METHODS

RATIO = 1.0  # on a map of 3 x 4 far offsets share buckets, and near ones do not
TINY = {
    "img_size": (6, 8), "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2,
    "mlp_ratio": 2.0, "num_classes": 5,
}  # fmt: skip


def tiny(kind=VisionTransformer, encoding=None, **options):
    """Return a model in double precision with random parameters, tables among them."""
    torch.manual_seed(0)
    config = None
    if encoding is not None:
        method, mode, shared, rpe_on = encoding
        config = get_rpe_config(RATIO, method, mode, shared, skip=1, rpe_on=rpe_on)
    model = kind(rpe_config=config, **{**TINY, **options}).double()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.4)
    return model


def gradients(output, parameters):
    return torch.autograd.grad(output, list(parameters.values()), allow_unused=True)


def assert_equals_the_loop(model, method=None, images=1):
    parameters = dict(model.named_parameters())
    x = torch.randn(images, 3, *TINY["img_size"], dtype=torch.double)
    factors = torch.randn(2, TINY["num_classes"], dtype=torch.double)
    loop = Loop(parameters, TINY["num_heads"], TINY["patch_size"], method and (method, RATIO))
    wanted = [torch.stack(heads) for heads in zip(*(loop(image) for image in x))]
    found = model(x)
    found = list(found) if isinstance(found, tuple) else [found]
    if len(wanted) > len(found):  # both heads' mean, when not in distilled training
        wanted = [sum(wanted) / len(wanted)]
    assert len(wanted) == len(found)
    torch.testing.assert_close(found, wanted)
    sums = [sum((y * f).sum() for y, f in zip(ys, factors)) for ys in (found, wanted)]
    pairs = zip(parameters, gradients(sums[0], parameters), gradients(sums[1], parameters))
    for name, one, other in pairs:
        assert one is not None, name
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
    return found[0]


def case(method, mode, rpe_on, shared):
    fast = (mode, rpe_on, shared) in {("ctx", "qkv", True), ("bias", "qk", False)}
    marks = () if fast or (method, rpe_on) == ("product", "k") else pytest.mark.slow
    return pytest.param(method, mode, rpe_on, shared, marks=marks)


CASES = [
    case(method, mode, rpe_on, shared)
    for method, (mode, rpe_on), shared in itertools.product(METHODS, COMBINATIONS, (True, False))
]


@pytest.mark.parametrize("method, mode, rpe_on, shared", CASES)
def test_each_method_and_place(method, mode, rpe_on, shared):
    assert_equals_the_loop(tiny(encoding=(method, mode, shared, rpe_on)), method)


@pytest.mark.parametrize("attention", ["math", "sdpa"])
def test_each_way_to_compute_attention(attention):
    assert_equals_the_loop(
        tiny(encoding=("product", "ctx", True, "qk"), attention=attention), "product"
    )


def test_without_an_encoding():
    assert_equals_the_loop(tiny())


@pytest.mark.parametrize("distilled_training", [False, True])
def test_two_extra_tokens_share_a_bucket_and_have_a_head_each(distilled_training):
    model = tiny(DistilledVisionTransformer, ("product", "ctx", True, "qkv"))
    model.set_distilled_training(distilled_training)
    assert_equals_the_loop(model, "product")
    assert isinstance(model(torch.randn(1, 3, 6, 8).double()), tuple) == distilled_training
    assert torch.is_tensor(model.eval()(torch.randn(1, 3, 6, 8).double()))


def test_images_of_a_batch_do_not_see_each_other():
    model = tiny(encoding=("cross", "ctx", True, "k"))
    found = assert_equals_the_loop(model, "cross", images=2)
    assert not torch.allclose(found[0], found[1])


def test_the_map_is_not_its_transpose():
    """The loop would notice nothing if logits did not depend on the map's height and width."""
    model = tiny(encoding=("product", "ctx", True, "k"))
    x = torch.randn(1, 3, 6, 8, dtype=torch.double)
    wanted = model(x)
    model.patch_embed.dynamic_feat_size = lambda size: (4, 3)
    assert not torch.allclose(model(x), wanted)
