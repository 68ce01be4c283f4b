"""--dec_rpe in checkpoints: inferred from weights, fine-tuned to and from, resumed, refused."""

import pytest
import torch

from checkpoints.finetune import Transfer
from checkpoints.infer_options import infer_options, summary
from detector import load_detector
from models import build_model
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.commands import MAIN, TINY_MODEL, TINY_RUN, answer_of_main, run_ok
from tests.helpers.runs import assert_same_run
from util.checkpoint import load_checkpoint
from util.errors import UserError

PREFIX = "transformer.decoder.references."


def built(args, *options, seed=0):
    torch.manual_seed(seed)
    return build_model(args(*TINY_MODEL, "--num_classes", "3", *options))[0]


def transferred(model, source):
    transfer = Transfer(source, {1: "a", 2: "b"}, {1: "a", 2: "b"}, True, "--finetune x")
    transfer.load(model)
    return transfer


def images():
    return [torch.randn(3, 64, 96), torch.randn(3, 96, 64)]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("text", ["box-linear", "box-log-relation"])
def test_weights_alone_tell(args, tmp_path, text, masks):
    options = ["--dec_rpe", text, *["--masks"] * masks]
    whole = write_checkpoint(tmp_path / "whole.pth", args, "--num_classes", "6", *options)
    state = load_checkpoint(str(whole))["model"]
    found, line = infer_options(state, "bare.pth")
    assert found.dec_rpe == text and text in line and text in summary(found)
    torch.save({"model": state}, tmp_path / "bare.pth")
    assert load_detector(tmp_path / "bare.pth", "cpu").args.dec_rpe == text
    with pytest.raises(UserError, match=r"dec_rpe 'box-cubic': mode must be linear or log"):
        load_detector(tmp_path / "bare.pth", dec_rpe="box-cubic")


@pytest.mark.parametrize("text", ["box-linear-relation", "box-log"])
def test_a_plain_detector_finds_the_same_with_reference_boxes(args, text):
    """Its head predicts boxes, not changes of references; new bias is zero."""
    plain, model = built(args).eval(), built(args, "--dec_rpe", text, seed=1).eval()
    x = images()
    before = model(x)["pred_boxes"]
    transfer = transferred(model, plain.state_dict())
    wanted, found = plain(x), model(x)
    assert (before - wanted["pred_boxes"]).abs().max() > 0.01
    for name in ("pred_logits", "pred_boxes"):
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-5)
        earlier = (found["aux_outputs"][0][name], wanted["aux_outputs"][0][name])
        torch.testing.assert_close(*earlier, atol=1e-5, rtol=1e-5)
    done = transfer.done
    assert done[f"{PREFIX}relative"] == "0: the box head is of a model without reference boxes"
    assert done[f"{PREFIX}initial.weight"] == "new, not in the checkpoint"
    assert done[f"{PREFIX}{text.split('-')[1]}_offsets.x.0.weight"] == "new, not in the checkpoint"
    # And further on from such a detector.
    last = built(args, "--dec_rpe", text, seed=2).eval()
    assert transferred(last, model.state_dict()).done[f"{PREFIX}relative"] == "loaded"
    torch.testing.assert_close(last(x)["pred_boxes"], found["pred_boxes"])


def test_networks_of_another_mode_are_new(args):
    model = built(args, "--dec_rpe", "box-linear", seed=1)
    transfer = transferred(model, built(args, "--dec_rpe", "box-log-relation").state_dict())
    assert transfer.done[f"{PREFIX}linear_offsets.y.2.bias"] == "new, not in the checkpoint"
    assert transfer.done[f"{PREFIX}initial.bias"] == "loaded"
    assert f"{PREFIX}log_offsets.y.2.bias" in transfer.left_out
    assert f"{PREFIX}pairs.0.weight" in transfer.left_out
    assert model.transformer.decoder.references.relative == 1


def test_options_that_do_not_fit(args, shapes, tmp_path):
    path = write_checkpoint(
        tmp_path / "box.pth", args, "--num_classes", "6", "--dec_rpe", "box-log"
    )
    common = ["--coco_path", shapes, "--eval", "--resume", path]
    assert "made with --dec_rpe box-log, this command has --dec_rpe ''" in answer_of_main(*common)
    line = answer_of_main(*common, "--dec_rpe", "box-linear")
    assert "made with --dec_rpe box-log, this command has --dec_rpe box-linear" in line
    line = answer_of_main(*common, "--dec_rpe", "box")
    assert "--dec_rpe" in line and "box-{linear|log}-relation" in line
    plain = write_checkpoint(tmp_path / "plain.pth", args, "--num_classes", "6")
    content = load_checkpoint(str(plain))
    del content["args"].dec_rpe  # of an older version
    torch.save(content, plain)
    common[-1] = plain
    line = answer_of_main(*common, "--dec_rpe", "box-log")
    assert "made with --dec_rpe '', this command has --dec_rpe box-log" in line


@pytest.mark.slow
def test_a_resumed_run_is_the_same_to_the_bit(shapes, tmp_path):
    command = [MAIN, *TINY_RUN, "--coco_path", shapes, "--dec_rpe", "box-log-relation", "--ema",
               "0.9", "--lr", "1e-3", "--batch_size", "4"]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = run_ok(*command, "--output_dir", whole, "--epochs", "2").stdout
    assert "dec_rpe box-log-relation: the decoder refines reference boxes" in said
    run_ok(*command, "--output_dir", parts, "--epochs", "1")
    run_ok(*command, "--output_dir", parts, "--epochs", "2", "--resume", "auto")
    assert_same_run(parts, whole)
    content = load_checkpoint(str(whole / "checkpoint.pth"))
    for state in (content["model"], content["ema"]):
        assert state[f"{PREFIX}relative"] == 1
        assert state[f"{PREFIX}log_offsets.x.2.weight"].abs().max() > 0  # has learned
