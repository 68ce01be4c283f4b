"""tools/show_rpe.py: pictures and arrays of what relative positions have learned."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import MouseButton, MouseEvent
from PIL import Image

from detector import load_detector
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.commands import error_line, run_ok
from tests.helpers.tool_runs import line_of, run_tool
from tools import show_rpe
from tools.rpe_inspection import inspected_image
from tools.rpe_inspection.attention_maps import decompose_attention, run_with_attention
from tools.rpe_inspection.view import AttentionView

TOOL = "tools/show_rpe.py"
PICTURES = {"tables.png", "attention.png", "decoder.png"}


@pytest.fixture
def checkpoint(args, tmp_path):
    def make(text):
        name = f"{text or 'none'}.pth"
        return write_checkpoint(tmp_path / name, args, "--num_classes", "6", "--enc_rpe2d", text)

    return make


@pytest.fixture
def image(tmp_path):
    """60 x 100 pixels, which become 64 x 106: 2 x 4 tokens, the last column beyond the image."""
    values = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def run_here(*given):
    """Run the tool in this process; returns what it prints."""
    run = run_tool(show_rpe, *given, "--device", "cpu")
    assert run.code == 0, run
    return run.out


def arrays(folder):
    with np.load(folder / "rpe.npz") as found:
        return {name: found[name] for name in found.files}


def assert_pictures(folder, names):
    assert {path.name for path in folder.iterdir()} == {*names, "rpe.npz"}
    for name in names:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # not empty


def shapes_of(found):
    return {name: values.shape for name, values in found.items()}


def test_tables_without_an_image(checkpoint, tmp_path):
    given = checkpoint("rpe-2.0-product-ctx-1-k")
    run_here(given, "--output_dir", tmp_path / "out")
    found = arrays(tmp_path / "out")
    assert_pictures(tmp_path / "out", {"tables.png"})
    assert shapes_of(found) == {
        "layers": (2,), "heads": (1,), "radius": (), "tables_k": (2, 1, 7, 7),
    }  # fmt: skip
    # 64 pixels and at most 107 are 2 x 4 tokens: farther offsets were never trained.
    for table in found["tables_k"][:, 0]:
        assert np.isnan(table[:2, :2]).all() and np.isnan(table[5:, 5:]).all()
        assert np.isfinite(table[2:5]).all() and np.isfinite(table[:, 2:5]).all()
    assert found["radius"] == 3 and found["heads"].tolist() == ["mean of 4 heads"]
    name = "transformer.encoder.layers.1.self_attn.rpe_k.lookup_table_weight"
    table = torch.load(given, weights_only=False)["model"][name]
    same_place = table[0, :, 4 * 9 + 4].norm()  # offset (0, 0), 9 buckets a side
    right = table[0, :, 4 * 9 + 3].norm()  # key one column to the right: query - key is -1
    np.testing.assert_allclose(found["tables_k"][1, 0, 3, [3, 4]], [same_place, right])


def test_everything_with_an_image(checkpoint, image, tmp_path):
    """In a process of its own; the numbers are those of the model's layers."""
    given, out = checkpoint("rpe-1.9-cross-ctx-0-qkv"), tmp_path / "out"
    result = run_ok(
        TOOL, given, image, "--layers", "1", "--heads", "3,0", "--radius", "2", "--point", "0,0",
        "--point", "99.5,59", "--threshold", "0", "--output_dir", out, "--device", "cpu",
    )  # fmt: skip
    assert set(result.stdout.split()) == {str(out / name) for name in (*PICTURES, "rpe.npz")}
    assert_pictures(out, PICTURES)
    found = arrays(out)
    tables = {f"tables_{letter}": (1, 2, 5, 5) for letter in "qkv"}
    attention = {f"attention{kind}": (2, 1, 2, 2, 4) for kind in ("", "_without", "_term")}
    assert shapes_of(found) == {
        "layers": (1,), "heads": (2,), "radius": (), **tables, "points": (2, 2), "tokens": (2, 2),
        **attention, "extent": (4,), "decoder_attention": (8, 2, 4), "decoder_boxes": (8, 4),
        "decoder_scores": (8,), "decoder_labels": (8,), "decoder_names": (8,),
    }  # fmt: skip
    assert found["layers"].tolist() == [1] and found["heads"].tolist() == ["head 3", "head 0"]
    assert found["tokens"].tolist() == [[0, 0], [1, 3]]
    assert found["extent"][1] > 100  # the last column reaches beyond
    detector = load_detector(given, "cpu")
    seen = run_with_attention(detector.model, detector.prepare([image]).samples)
    term = decompose_attention(*seen.encoder[1]).term[0]  # (heads, query, key)
    for p, token in enumerate((0, 7)):
        wanted = term[[3, 0], token].view(2, 2, 4)
        torch.testing.assert_close(torch.from_numpy(found["attention_term"][p, 0]), wanted)
    for name in ("attention", "attention_without"):
        np.testing.assert_allclose(found[name].sum((-2, -1)), 1, rtol=1e-5)
    logits = np.log(found["attention_without"]) + found["attention_term"]
    again = np.exp(logits) / np.exp(logits).sum((-2, -1), keepdims=True)
    np.testing.assert_allclose(found["attention"], again, rtol=1e-4)
    (detections,) = detector([image], threshold=0)
    np.testing.assert_allclose(found["decoder_scores"], detections["scores"], rtol=1e-4)
    assert found["decoder_names"].tolist() == detections["names"]
    weights = decompose_attention(*seen.decoder).weights[0].mean(0).view(8, 2, 4)
    scores = seen.outputs["pred_logits"][0].softmax(-1)[:, :-1].amax(-1)
    order = scores.argsort(descending=True, stable=True)
    np.testing.assert_allclose(found["decoder_attention"], weights[order], rtol=1e-4)


def test_reference_boxes(args, image, tmp_path):
    """The bias by its formula, from the boxes that the layer before has predicted."""
    given = write_checkpoint(
        tmp_path / "c.pth", args, "--num_classes", "6", "--enc_rpe2d", "", "--dec_rpe", "box-linear"
    )
    content = torch.load(given, weights_only=False)
    for name, value in content["model"].items():
        if "linear_offsets" in name:
            value.normal_()
    torch.save(content, given)
    out = tmp_path / "out"
    said = run_here(given, image, "--heads", "1,2", "--threshold", "0", "--output_dir", out)
    assert "no relative position encoding in its encoder: no tables.png" in said
    assert_pictures(out, {"attention.png", "decoder.png", "boxes.png"})
    found = arrays(out)
    assert found["decoder_box_bias"].shape == (8, 2, 2, 4)
    detector = load_detector(given, "cpu")
    with torch.no_grad():
        outputs = detector.model(detector.prepare([image]).samples)
        order = outputs["pred_logits"][0].softmax(-1)[:, :-1].amax(-1).argsort(descending=True)
        boxes = outputs["aux_outputs"][0]["pred_boxes"][0, order]
        low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
        edges = torch.cat([low, high], 1) * torch.tensor([100, 60, 100, 60])
        np.testing.assert_allclose(found["decoder_references"], edges, rtol=1e-3, atol=1e-3)
        networks = detector.model.transformer.decoder.references.linear_offsets
        x, y = ((torch.arange(size) + 0.5) / size for size in (4, 2))
        places = zip((x, y), low.T, high.T, strict=True)
        of_x, of_y = (
            networks[axis](torch.stack([place - a[:, None], place - b[:, None]], -1))[..., [1, 2]]
            for axis, (place, a, b) in zip("xy", places, strict=True)
        )
        wanted = (of_y[:, :, None] + of_x[:, None]).permute(0, 3, 1, 2)
    np.testing.assert_allclose(found["decoder_box_bias"], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("backbone", "stride"), [("resnet10", 32), ("resnet10_tiny", 16)])
def test_a_detector_knows_the_stride_of_its_maps(args, tmp_path, backbone, stride):
    path = write_checkpoint(tmp_path / "c.pth", args, "--backbone", backbone)
    detector = load_detector(path, "cpu")
    record = run_with_attention(detector.model, torch.zeros(1, 3, 64, 96))
    assert detector.stride == stride and record.hw == (64 // stride, 96 // stride)
    detector.args.backbone, detector.args.dilation = "resnet50", True
    assert detector.stride == 16


@pytest.mark.slow
def test_larger_images_have_more_tokens(checkpoint, image, tmp_path):
    given = checkpoint("rpe-2.0-euc-bias-0-k")
    run_here(
        given, image, "--image_size", "96", "--layers", "0", "--threshold", "1",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    found = arrays(tmp_path / "out")
    assert_pictures(tmp_path / "out", PICTURES)
    assert found["attention"].shape == (1, 1, 4, 3, 5)  # heads have tables of their own
    assert found["tokens"].tolist() == [[1, 2]] and found["points"].tolist() == [[50, 30]]
    assert found["decoder_attention"].shape == (0, 3, 5)  # nothing has a score of 1
    name = "transformer.encoder.layers.0.self_attn.rpe_k.lookup_table_bias"
    bias = torch.load(given, weights_only=False)["model"][name]
    np.testing.assert_array_equal(found["tables_k"][0, :, 4, 4], bias[:, 4])


@pytest.mark.parametrize("heads", ["mean", "all"])
def test_an_encoding_on_values_has_no_term(checkpoint, image, tmp_path, heads):
    given = checkpoint("rpe-2.0-quant-ctx-1-v")
    run_here(given, image, "--heads", heads, "--output_dir", tmp_path / "out")
    found = arrays(tmp_path / "out")
    assert_pictures(tmp_path / "out", PICTURES)
    assert not {"attention_term", "attention_without", "tables_k"} & found.keys()
    assert found["tables_v"].shape == (2, 1, 7, 7)
    assert found["attention"].shape == (1, 2, 1 if heads == "mean" else 4, 2, 4)


@pytest.mark.parametrize(
    ("text", "name", "heads"),
    [
        pytest.param("cpb-log", "cpb", 4, marks=pytest.mark.slow),
        pytest.param("rope-mixed", "rope", 4, marks=pytest.mark.slow),
        ("rope-axial", "rope", 1),
    ],
)
def test_encodings_without_tables(checkpoint, image, tmp_path, text, name, heads):
    run_here(checkpoint(text), image, "--radius", "4", "--output_dir", tmp_path / "out")
    found = arrays(tmp_path / "out")
    assert_pictures(tmp_path / "out", PICTURES)
    assert found[f"tables_{name}"].shape == (2, heads, 9, 9)
    assert found["attention_term"].shape == (1, 2, heads, 2, 4)


def test_a_detector_without_encoding(checkpoint, image, tmp_path):
    given, out = checkpoint(""), ["--output_dir", tmp_path / "out"]
    line = line_of(show_rpe, given, *out, "--device", "cpu")
    assert "none.pth: has no relative position encoding; give an image" in line
    printed = run_here(given, image, *out)
    assert "none.pth: has no relative position encoding: no tables" in printed
    assert_pictures(tmp_path / "out", {"attention.png", "decoder.png"})
    assert arrays(tmp_path / "out")["attention"].shape == (1, 2, 1, 2, 4)


def test_nothing_is_written_over(checkpoint, tmp_path):
    given = checkpoint("rpe-2.0-product-bias-1-q")
    run_here(given, "--output_dir", tmp_path, "--radius", "2")
    before = (tmp_path / "tables.png").read_bytes()
    line = line_of(show_rpe, given, "--output_dir", tmp_path, "--device", "cpu")
    assert "tables.png: exists" in line and "--force" in line
    assert (tmp_path / "tables.png").read_bytes() == before
    run_here(given, "--output_dir", tmp_path, "--force")
    assert (tmp_path / "tables.png").read_bytes() != before


def test_mistakes_are_answered_with_one_line(checkpoint, image, tmp_path):
    given = checkpoint("rpe-2.0-product-ctx-1-k")
    (tmp_path / "text.jpg").write_text("this is a text")
    (tmp_path / "taken").write_text("this is a file")
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    for options, says in (
        ([given, image, "--point", "100,3"], "--point 100,3: "),
        ([given, image, "--point", "5,60"], "has only 100 x 60 pixels"),
        ([given, image, "--point", "5"], "must be X,Y in pixels"),
        ([given, image, "--point", "5,nan"], "--point: must be a number"),
        ([given, "--point", "5,5"], "--point needs an image"),
        ([given, "--click"], "--click needs an image"),
        ([given, "--image_size", "64"], "--image_size needs an image"),
        ([given, "--layers", "0,2"], "--layers 2: the encoder has 2 layers, counted from 0"),
        ([given, image, "--threshold", "1.5"], "--threshold: must be a number from 0 to 1"),
        ([given, "--layers", "0,x"], "--layers: must be a whole number"),
        ([given, "--heads", "4"], "--heads 4: the encoder has 4 heads"),
        ([given, tmp_path / "text.jpg"], "text.jpg: not a readable image"),
        ([given, tmp_path / "none.jpg"], "none.jpg"),
        ([tmp_path / "no.pth"], "no.pth: no such checkpoint file"),
        ([tmp_path / "foreign.pth"], "foreign.pth: not the weights of a DETR"),
        ([tmp_path / "text.jpg"], "text.jpg: "),
        ([given, "--radius", "1", "--output_dir", tmp_path / "taken"], "taken: "),
    ):
        out = [] if "--output_dir" in options else ["--output_dir", tmp_path / "out"]
        assert says in line_of(show_rpe, *options, *out, "--device", "cpu")
    assert not (tmp_path / "out").exists()


def test_without_a_display_there_is_no_window(monkeypatch, checkpoint, image):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    given = checkpoint("rpe-2.0-product-ctx-1-k")
    line = error_line(TOOL, given, image, "--click")
    assert "--click: no window can be opened here" in line


@pytest.mark.slow
def test_a_click_says_which_point(monkeypatch, checkpoint, image, tmp_path):
    """On the canvas that windows show, without a window."""
    detector = load_detector(checkpoint("rpe-2.0-product-ctx-1-k"), "cpu")
    with Image.open(image) as opened:
        view, picture = AttentionView(detector, None, None), opened.convert("RGB")
    shown = inspected_image.InspectedImage(view, picture, "image.png")

    def clicks():
        figure = matplotlib.pyplot.gcf()
        figure.canvas.draw()
        assert "point (50, 30)" in figure.axes[0].get_ylabel()
        for x, y, says in ((90, 10, "(90, 10)"), (7, 55, "(7, 55)"), (105, 5, "(7, 55)")):
            axes = figure.axes[2]  # any that shows the image; its map reaches beyond the image
            place = axes.transData.transform((x, y))
            event = MouseEvent("button_press_event", figure.canvas, *place, MouseButton.LEFT)
            figure.canvas.callbacks.process(event.name, event)
            figure.canvas.draw()
            assert f"point {says}" in figure.axes[0].get_ylabel()
        matplotlib.pyplot.close(figure)

    monkeypatch.setattr(inspected_image, "show_windows", clicks)
    shown.open_window()
