"""The models by name: sizes, names of tensors, initial values, dropout, options."""

import itertools

import pytest
import timm
import timm.optim
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from classification import MODELS, DistilledVisionTransformer, VisionTransformer, zoo
from models.rpe_attention.enc_rpe2d import parse_rpe_string
from rpe_ops.irpe import get_rpe_config

TINY_K = "deit_tiny_patch16_224_ctx_product_50_shared_k"
SMALL = "deit_small_patch16_224_ctx_product_50_shared_"
BASE = "deit_base_patch16_224_ctx_product_50_shared_"
PARAMETERS = {
    TINY_K: 5_755_816,
    f"{SMALL}k": 22_089_064,
    f"{SMALL}qk": 22_127_464,
    f"{SMALL}qkv": 22_165_864,
    f"{BASE}k": 86_606_056,
    f"{BASE}qkv": 86_682_856,
    "deit_small_patch16_224_ctx_euc_20_shared_k": 22_050_664 + 12 * 64 * 82,
    "deit_small_patch16_224_ctx_quant_51_shared_k": 22_050_664 + 12 * 64 * 134,
    "deit_small_patch16_224_ctx_cross_56_shared_k": 22_050_664 + 12 * 64 * 2 * 82,
    "deit_tiny_patch16_224": 5_717_416,
    "deit_small_patch16_224": 22_050_664,
    "deit_base_patch16_224": 86_567_656,
    # A head of 1000 classes, a token and its position more; 24 x 24 - 14 x 14 = 380 positions more.
    "deit_tiny_distilled_patch16_224": 5_717_416 + 193_000 + 2 * 192,
    "deit_small_distilled_patch16_224": 22_050_664 + 385_000 + 2 * 384,
    "deit_base_distilled_patch16_224": 86_567_656 + 769_000 + 2 * 768,
    "deit_base_patch16_384": 86_567_656 + 380 * 768,
    "deit_base_distilled_patch16_384": 86_567_656 + 769_000 + 2 * 768 + 380 * 768,
}
# Millions of multiply-accumulates; for values at most the published way's.
MACS = {
    TINY_K: 1276.4, f"{SMALL}k": 4644.3, f"{SMALL}qk": 4689.7, f"{SMALL}qkv": 4735.0,
    f"{BASE}k": 17654.6, f"{BASE}qkv": 17836.2,
}  # fmt: skip
PUBLISHED_MACS = {f"{SMALL}qkv": 4868.5, f"{BASE}qkv": 18103.0}
SMALLEST = {
    "img_size": 32, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 3
}  # fmt: skip
CONFIG = get_rpe_config(1.9, "product", "ctx", True, skip=1, rpe_on="qkv")


def without_memory(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_to_the_digit(name):
    model = without_memory(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert not list(model.buffers())


def test_these_are_all_published_names():
    assert set(PARAMETERS) == set(MODELS)
    assert set(timm.list_models(module="zoo")) == set(MODELS)
    for name in MODELS:
        assert callable(getattr(zoo, name)) and timm.is_model(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "base" in name or "qk" in name else ())
        for name in MACS
    ],
)
def test_products_of_a_forward_pass(name):
    model = timm.create_model(name, attention="math", weight_init="skip").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    found = counter.get_total_flops() / 2e6
    assert round(found, 1) == MACS[name] <= PUBLISHED_MACS.get(name, MACS[name])


ENCODINGS = {
    "k": {"rpe_k.lookup_table_weight": (1, 64, 50)},
    "qk": {"rpe_q.lookup_table_weight": (1, 64, 50), "rpe_k.lookup_table_weight": (1, 64, 50)},
    "qkv": {
        "rpe_q.lookup_table_weight": (1, 64, 50),
        "rpe_k.lookup_table_weight": (1, 64, 50),
        "rpe_v.lookup_table_weight": (1, 50, 64),
    },
}


def published_names(width, patches, encoding=(), distilled=False):
    """Return shapes by name in the order in which the published code registers parameters."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + distilled + patches, width)}
    if distilled:
        shapes["dist_token"] = (1, 1, width)

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    layer("patch_embed.proj", width, 3, 16, 16)
    for i in range(12):
        layer(f"blocks.{i}.norm1", width)
        layer(f"blocks.{i}.attn.qkv", 3 * width, width)
        layer(f"blocks.{i}.attn.proj", width, width)
        for name, shape in dict(encoding).items():
            shapes[f"blocks.{i}.attn.{name}"] = shape
        layer(f"blocks.{i}.norm2", width)
        layer(f"blocks.{i}.mlp.fc1", 4 * width, width)
        layer(f"blocks.{i}.mlp.fc2", width, 4 * width)
    layer("norm", width)
    layer("head", 1000, width)
    if distilled:
        layer("head_dist", 1000, width)
    return shapes


@pytest.mark.parametrize("letters", ENCODINGS)
def test_names_and_their_order_are_those_of_the_published_checkpoints(letters):
    """Optimizers are saved by the number of a parameter, so that the order counts."""
    state = without_memory(SMALL + letters).state_dict()
    wanted = published_names(384, 196, ENCODINGS[letters])
    assert [(name, tuple(value.shape)) for name, value in state.items()] == list(wanted.items())


def test_names_of_plain_and_distilled_models():
    plain, distilled = "deit_tiny_patch16_224", "deit_base_distilled_patch16_384"
    for name, wanted in (
        (plain, published_names(192, 196)),
        (distilled, published_names(768, 576, distilled=True)),
    ):
        state = without_memory(name).state_dict()
        assert [(key, tuple(value.shape)) for key, value in state.items()] == list(wanted.items())
    assert len(published_names(192, 196)) == 152


def test_names_of_tables_of_each_kind():
    for text, wanted in {
        "rpe-1.9-product-bias-0-qk": {
            "rpe_q.lookup_table_bias": (3, 50), "rpe_k.lookup_table_bias": (3, 50)
        },
        "rpe-20-cross-ctx-1-k": {
            "rpe_k.rp_rows.lookup_table_weight": (1, 64, 82),
            "rpe_k.rp_cols.lookup_table_weight": (1, 64, 82),
        },
        "rpe-33-quant-ctx-0-v": {"rpe_v.lookup_table_weight": (3, 134, 64)},
        "rpe-20-euc-ctx-1-q": {"rpe_q.lookup_table_weight": (1, 64, 82)},
    }.items():  # fmt: skip
        state = without_memory("deit_tiny_patch16_224", enc_rpe2d=text).state_dict()
        start = "blocks.11.attn."
        found = {n.removeprefix(start): tuple(v.shape) for n, v in state.items() if start in n}
        assert {n: shape for n, shape in found.items() if "rpe_" in n} == wanted, text


def check_initial_values(model):
    for name, value in model.named_parameters():
        if ".rpe_" in name:
            assert (value == 0).all(), name
        elif ".norm" in name or name.startswith("norm."):
            assert (value == float(name.endswith("weight"))).all(), name
        elif name.startswith("patch_embed"):
            bound = (3 * 16 * 16) ** -0.5  # PyTorch's uniform distribution
            assert bound * 0.9 < value.abs().max() <= bound, name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:  # tokens, positions, linear layers
            assert 0.015 < value.std() < 0.025 and value.abs().max() < 0.2, name
            assert abs(value.mean()) < 0.01, name


@pytest.mark.parametrize("kind", [VisionTransformer, DistilledVisionTransformer])
def test_initial_values(kind):
    torch.manual_seed(0)
    model = kind(**{**SMALLEST, "embed_dim": 192, "num_classes": 40}, rpe_config=CONFIG)
    check_initial_values(model)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 9)
    model.init_weights()
    check_initial_values(model)


def test_no_initial_value_is_far_out():
    """timm's own draw one in twenty million at 100 deviations: torch's are called, not timm's."""
    called = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "trunc_normal_", lambda p, std: called.append((p.shape, std)))
        model = VisionTransformer(**SMALLEST)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(called) == 2 + len(linear) and {std for _, std in called} == {0.02}


def test_other_initial_values_leave_tables_at_0():
    model = VisionTransformer(**SMALLEST, rpe_config=CONFIG, weight_init="jax")
    assert (model.head.weight == 0).all()  # as jax has it
    model.blocks[0].attn.rpe_k.lookup_table_weight.data.fill_(1)
    model.init_weights("moco")
    assert (model.blocks[0].attn.rpe_k.lookup_table_weight == 0).all()


def test_dropout_is_where_the_published_one_is():
    model = without_memory(TINY_K, drop_rate=0.25, drop_path_rate=0.22)
    found = {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout)}
    wanted = {"pos_drop": 0.25, "head_drop": 0.0}
    for i in range(12):
        wanted[f"blocks.{i}.attn.attn_drop"] = 0.0
        for name in ("attn.proj_drop", "mlp.drop1", "mlp.drop2"):
            wanted[f"blocks.{i}.{name}"] = 0.25
    assert found == wanted
    paths = [
        getattr(getattr(b, f"drop_path{i}"), "drop_prob", 0) for i in (1, 2) for b in model.blocks
    ]
    assert paths == pytest.approx([0.02 * i for i in range(12)] * 2)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    model = VisionTransformer(**SMALLEST, drop_rate=0.5, attn_drop_rate=0.5, rpe_config=CONFIG)
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_what_is_not_decayed():
    """The tables are, and the distillation token, which timm excepts."""
    model = without_memory("deit_tiny_distilled_patch16_224", enc_rpe2d="rpe-1.9-product-ctx-1-k")
    groups = timm.optim.create_optimizer_v2(model, "adamw", weight_decay=0.05).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    wanted = {"cls_token", "pos_embed"}
    assert kept == wanted | {n for n, p in model.named_parameters() if p.ndim == 1}


def test_evaluation_is_prepared_as_published():
    """Resize to 256 or 438 and crop, where timm's own models have other sizes."""
    for name, size in (("deit_tiny_patch16_224", 256), ("deit_base_patch16_384", 438)):
        settings = timm.data.resolve_model_data_config(without_memory(name))
        transform = timm.data.create_transform(**settings, is_training=False)
        assert transform.transforms[0].size == size
        assert settings["mean"] == (0.485, 0.456, 0.406) and settings["std"] == (
            0.229,
            0.224,
            0.225,
        )
        assert settings["interpolation"] == "bicubic"


def test_encodings_by_string_and_by_configuration():
    text = "rpe-2.5-product-ctx-0-qkv"
    models = [
        zoo.deit_tiny_patch16_224(enc_rpe2d=text, weight_init="skip"),
        zoo.deit_tiny_patch16_224(rpe_config=parse_rpe_string(text, skip=1), weight_init="skip"),
    ]
    for part, model in itertools.product("qkv", models):
        assert str(getattr(models[0].blocks[3].attn, f"rpe_{part}")) == str(
            getattr(model.blocks[3].attn, f"rpe_{part}")
        )
    assert models[0].blocks[3].attn.rpe_q.lookup_table_weight.shape == (3, 64, 122)


@pytest.mark.parametrize(
    "name, options, says",
    [
        (TINY_K, {"enc_rpe2d": "rpe-2.0-product-ctx-1-k"}, "create deit_tiny_patch16_224$"),
        ("deit_tiny_patch16_224", {"rpe_config": CONFIG, "enc_rpe2d": "rpe-2.0-euc-ctx-1-k"},
         "give one of them"),
        ("deit_tiny_patch16_224", {"enc_rpe2d": "rpe-2.0-oval-ctx-1-k"}, "method must be one of"),
        ("deit_tiny_patch16_224", {"rpe_config": get_rpe_config(2.0)}, r"skip=1"),
        (TINY_K, {"patch_drop_rate": 0.5}, "patch_drop_rate excludes"),
        (TINY_K, {"attention": "quick"}, "attention must be one of"),
        (TINY_K, {"cache_dir": "/tmp"}, "TORCH_HOME"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together(name, options, says):
    with pytest.raises(ValueError, match=says):
        without_memory(name, **options)


def test_the_encoding_of_the_name_may_be_repeated():
    without_memory(TINY_K, enc_rpe2d="rpe-1.9-product-ctx-1-k")
    without_memory(TINY_K, enc_rpe2d="")


def test_a_block_alone_does_not_guess_the_map():
    model = VisionTransformer(**SMALLEST, rpe_config=CONFIG)
    with pytest.raises(ValueError, match="MapAndMask"):
        model.blocks(torch.zeros(1, 5, 64))
