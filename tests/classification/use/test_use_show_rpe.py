"""show_rpe.py: attention is the softmax of the formula; distances are of patches."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import MouseButton, MouseEvent
from PIL import Image, ImageDraw

from classification.classifier import load_classifier
from classification.data.evaluated_images import evaluation_transform
from classification.tools import show_rpe
from classification.tools.inspection import view as view_module
from classification.tools.inspection.attention import (
    block_attention,
    rpe_inputs,
    run_with_attention,
)
from classification.tools.inspection.locality import locality, mean_distance
from classification.tools.inspection.view import ClassifierView, InspectedImage, token_grid
from tests.classification.tiny_deit import drawn, tiny_model, write_checkpoint
from tests.helpers.rpe_loops import loop_ids
from tests.helpers.tool_runs import line_of, run_tool

HEADS = {"embed_dim": 192, "num_heads": 3, "depth": 3}  # which their names tell
PRODUCT = "rpe-2.0-product-ctx-1-qkv"


def by_hand(model, block, x, height, width, letters):
    """Logits without RPE and RPE's term (H, L, L), a pair of tokens at a time."""
    layer = model.blocks[block].attn
    heads, size = layer.num_heads, layer.head_dim
    q, k, _ = torch.nn.functional.linear(x[0], layer.qkv.weight, layer.qkv.bias).chunk(3, -1)
    ids = loop_ids("product", 2.0, height, width, model.num_prefix_tokens)
    content = torch.zeros(heads, len(q), len(q))
    term = torch.zeros_like(content)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(q)):
            for j in range(len(q)):
                query, key = q[i, part] / math.sqrt(size), k[j, part]
                content[head, i, j] = query @ key
                if "k" in letters:
                    term[head, i, j] += query @ layer.rpe_k.lookup_table_weight[0, :, ids[i, j]]
                if "q" in letters:
                    table = layer.rpe_q.lookup_table_weight[0]
                    term[head, i, j] += key / math.sqrt(size) @ table[:, ids[j, i]]
    return content, term


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("letters", ["k", "qk", "qkv"])
def test_attention_is_the_softmax_of_the_formula(letters, distilled):
    text = f"rpe-2.0-product-ctx-1-{letters}"
    model = tiny_model(text, distilled, img_size=(16, 24), dynamic_img_size=True)
    with torch.no_grad():
        record = run_with_attention(model, torch.randn(1, 3, 16, 24))
        extra = 1 + distilled
        assert tuple(record.tokens) == (2, 3, extra)
        for block in (0, 1):
            layer, x = record.blocks[block]
            content, term = by_hand(model, block, x, 2, 3, letters)
            found = block_attention(record, block)
            torch.testing.assert_close(found.weights_without[0], content.softmax(-1))
            whole = (content + term).softmax(-1)
            if block == 0:
                torch.testing.assert_close(found.weights[0], whole)
                torch.testing.assert_close(found.term[0], term)
                if "v" not in letters:  # then the layer's output is that of the weights
                    v = layer.qkv(x).chunk(3, -1)[2].unflatten(-1, (2, 16)).transpose(1, 2)
                    out = (found.weights @ v).transpose(1, 2).flatten(2)
                    torch.testing.assert_close(layer.proj(out), model_output(model, record, 0))
                continue
            # The last block has no term of rpe_k, which the class token's row does not see.
            torch.testing.assert_close(found.weights[0, :, :extra], whole[:, :extra])
            rest = by_hand(model, block, x, 2, 3, letters.replace("k", ""))[1]
            assert (found.term is None) == (letters == "k")
            if found.term is not None:
                torch.testing.assert_close(found.term[0], rest)


def model_output(model, record, block):
    """What the model's own attention layer returns."""
    from classification.attention import MapAndMask

    layer, x = record.blocks[block]
    return layer(x, attn_mask=MapAndMask(record.tokens, None))


def test_what_the_tables_are_multiplied_with():
    model = tiny_model("rpe-2.0-product-ctx-1-qk", img_size=16)
    with torch.no_grad():
        record = run_with_attention(model, torch.randn(1, 3, 16, 16))
        layer, x = record.blocks[0]
        q, k, _ = layer.qkv(x)[0, 1:].unflatten(-1, (3, 2, 16)).unbind(1)
        found = rpe_inputs(record, 0)
    torch.testing.assert_close(found["k"][0], q.transpose(0, 1) / 4)
    torch.testing.assert_close(found["q"][0], k.transpose(0, 1) / 4)


def test_mean_distance_is_that_of_a_loop():
    height, width, skip = 2, 4, 2
    length = skip + height * width
    weights = torch.rand(1, 3, length, length).softmax(-1)
    for head, found in enumerate(mean_distance(weights, height, width, skip).tolist()):
        far = []
        for i in range(height * width):
            rows = [
                (float(weights[0, head, skip + i, skip + j]),
                 math.dist(divmod(i, width), divmod(j, width)))
                for j in range(height * width)
            ]  # fmt: skip
            far.append(sum(w * d for w, d in rows) / sum(w for w, _ in rows))
        assert found == pytest.approx(sum(far) / len(far))
    alone = torch.eye(length)[None, None]
    assert mean_distance(alone, height, width, skip).tolist() == [0]


def test_a_local_encoding_makes_attention_local():
    """Tables that add 8 to the key at the same place, in the first block alone."""
    model = tiny_model("rpe-2.0-product-bias-1-k", depth=3, img_size=48)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.rpe_k.lookup_table_bias.zero_()
        model.blocks[0].attn.rpe_k.lookup_table_bias[0, 4 * 9 + 4] = 8
        record = run_with_attention(model, torch.randn(1, 3, 48, 48))
    found = locality(record, [0, 1, 2])
    assert (found.term[0] < 0.1).all() and (found.model[0] < 0.5 * found.without[0]).all()
    np.testing.assert_allclose(found.term[1], found.even, rtol=1e-6)
    np.testing.assert_allclose(found.model[1], found.without[1], rtol=1e-6)
    assert np.isnan(found.model[2]).all()  # queries of patches reach no logit there
    lines = found.lines()
    assert len(lines) == 5 and lines[4].split() == ["2", "-", "-", "-"]
    assert lines[2].split()[1] == f"{found.model[0].mean():.2f}"


@pytest.mark.parametrize("size", [(60, 60), (100, 160), (200, 90)])
@pytest.mark.parametrize("img_size", [(64, 64), (48, 80), (32, 32)])
def test_patches_lie_where_the_model_sees_them(size, img_size):
    """A white spot in the middle of a cell is what the patch of that cell sees."""
    grid = token_grid(size, img_size, (16, 16))
    rows, columns = img_size[0] // 16, img_size[1] // 16
    assert grid.hw == (rows, columns)
    left, right, bottom, top = grid.extent
    for row, column in ((0, 0), (rows - 1, 0), (rows // 2, columns - 1)):
        x = left + (column + 0.5) * (right - left) / columns
        y = top + (row + 0.5) * (bottom - top) / rows
        image = Image.new("RGB", size[::-1])
        ImageDraw.Draw(image).rectangle((x - 1, y - 1, x + 1, y + 1), fill="white")
        seen = evaluation_transform(img_size)(image).mean(0)
        place = divmod(int(seen.argmax()), img_size[1])
        assert (place[0] // 16, place[1] // 16) == (row, column) == grid.token_at(x, y)
        assert grid.contains(x, y)
    assert not grid.contains(left - 1, top + 1) and not grid.contains(left + 1, bottom + 1)


# ---- the command ----


@pytest.fixture
def make(tmp_path):
    def checkpoint(text, **options):
        path = tmp_path / f"{text or 'none'}.pth"
        return write_checkpoint(path, tiny_model(text, **{**HEADS, **options}), text)

    return checkpoint


@pytest.fixture
def image(tmp_path):
    drawn(2, 60, 80).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def run_here(*given):
    run = run_tool(show_rpe, *given, "--device", "cpu")
    assert run.code == 0, run
    return run.out


def arrays(folder):
    with np.load(folder / "rpe.npz") as found:
        return {name: found[name] for name in found.files}


def test_everything_with_an_image(make, image, tmp_path):
    given, out = make(PRODUCT), tmp_path / "out"
    printed = run_here(given, image, "--point", "60,50", "--heads", "2", "--layers", "0,2",
                       "--output_dir", out)  # fmt: skip
    pictures = {"tables.png", "locality.png", "layer_00.png", "layer_02.png"}
    assert {path.name for path in out.iterdir()} == {*pictures, "rpe.npz"}
    for name in pictures:
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200 and len(np.unique(picture.convert("L"))) > 20
    found = arrays(out)
    classifier = load_classifier(given, "cpu")
    with Image.open(image) as opened:
        batch = classifier.transform(opened.convert("RGB"))[None]
    record = run_with_attention(classifier.model, batch)
    assert found["tokens"].tolist() == [[3, 3]]
    attention = block_attention(record, 0)
    weights, term = (part[0, 2, [0, 16], 1:] for part in (attention.weights, attention.term))
    assert found["attention_00"].shape == (2, 1, 4, 4)
    np.testing.assert_allclose(found["attention_00"], weights.view(2, 1, 4, 4))
    np.testing.assert_allclose(found["attention_term_00"], term.view(2, 1, 4, 4))
    shares = found["attention_00"].sum((-2, -1))
    np.testing.assert_allclose(found["share_00"], 1 - shares, atol=1e-6)
    assert found["attention_02"].shape == (1, 1, 4, 4)  # of the last layer, the class token's alone
    assert len(found["tables_q"]) == len(found["tables_v"]) == 2 and len(found["tables_k"]) == 1
    np.testing.assert_allclose(found["distance"], locality(record, [0, 2]).model)
    row = printed.splitlines()[3].split()
    assert row[:2] == ["0", f"{found['distance'][0].mean():.2f}"]


def test_tables_without_an_image(make, tmp_path):
    given = make("rpe-2.0-product-ctx-1-k")
    run_here(given, "--output_dir", tmp_path / "out")
    found = arrays(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tables.png", "rpe.npz"}
    assert found["tables_k"].shape == (2, 1, 7, 7)  # not the last one's, which never learned
    state = torch.load(given, weights_only=False)["model"]
    table = state["blocks.1.attn.rpe_k.lookup_table_weight"]
    np.testing.assert_allclose(found["tables_k"][1, 0, 3, 3], table[0, :, 40].norm(), rtol=1e-6)
    line = line_of(show_rpe, given, "--layers", "2", "--output_dir", tmp_path / "last")
    assert "no relative position encoding in these layers" in line


def test_a_classifier_without_encoding(make, image, tmp_path):
    printed = run_here(make(""), image, "--output_dir", tmp_path / "out", "--image_size", "48",
                       "--layers", "0")  # fmt: skip
    assert "no relative position encoding in these layers: no tables.png" in printed
    found = arrays(tmp_path / "out")
    assert found["attention_00"].shape == (2, 1, 6, 6) and "attention_term_00" not in found


def test_a_click_says_which_point(make, image, monkeypatch):
    view = ClassifierView(load_classifier(make(PRODUCT, depth=2), "cpu"), None, None)
    with Image.open(image) as opened:
        shown = InspectedImage(view, opened.convert("RGB"), "image.png")

    def clicks():
        figure = matplotlib.pyplot.gcf()
        figure.canvas.draw()
        for x, y, says in ((20, 20, "(20, 20)"), (2, 20, "(20, 20)")):  # not where it sees nothing
            place = figure.axes[1].transData.transform((x, y))
            event = MouseEvent("button_press_event", figure.canvas, *place, MouseButton.LEFT)
            figure.canvas.callbacks.process(event.name, event)
            assert f"point {says}" in figure.axes[0].get_ylabel()
        matplotlib.pyplot.close(figure)

    monkeypatch.setattr(view_module, "show_windows", clicks)
    shown.open_window()


def test_mistakes_are_answered_with_one_line(make, image, checkpoint, tmp_path):
    given = make("rpe-2.0-product-ctx-1-k")
    (tmp_path / "text.jpg").write_text("this is a text")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "layer_01.png").write_text("")
    for options, says in (
        ([given, image, "--point", "5,30"], "--point 5,30: the model sees of"),
        ([given, "--point", "5,5"], "--point needs an image"),
        ([given, "--click"], "--click needs an image"),
        ([given, image, "--layers", "0,3"], "--layers 3: the model has 3 layers"),
        ([given, image, "--heads", "3"], "--heads 3: the model has 3 heads"),
        ([given, image, "--image_size", "30"], "img_size 30 is not a whole number of patches"),
        ([given, tmp_path / "text.jpg"], "text.jpg: not a readable image"),
        ([tmp_path / "no.pth", image], "no.pth: no such checkpoint file"),
        ([checkpoint, image], "plain.pth: a detector's checkpoint"),
        ([given, image, "--output_dir", tmp_path / "there"], "layer_01.png: exists"),
    ):
        out = [] if "--output_dir" in options else ["--output_dir", tmp_path / "out"]
        assert says in line_of(show_rpe, *options, *out, "--device", "cpu")
    assert not (tmp_path / "out").exists()
