"""DETR's names in util, on numbers worked out by hand; code written for DETR imports them."""

import builtins
import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from tests.helpers.two_processes import in_two_processes
from util import box_ops, misc
from util.errors import UserError
from util.misc import MetricLogger, NestedTensor, SmoothedValue

# ---- util.box_ops ----


def test_boxes_change_their_format_and_back():
    box = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    corners = box_ops.box_cxcywh_to_xyxy(box)
    torch.testing.assert_close(corners, torch.tensor([[0.4, 0.3, 0.6, 0.7]]))
    torch.testing.assert_close(box_ops.box_xyxy_to_cxcywh(corners), box)


def test_overlaps_of_boxes():
    """A 2 x 2 box: one that shares a quarter of it, one beside it, with a gap of its size."""
    one = torch.tensor([[0.0, 0, 2, 2]])
    others = torch.tensor([[1.0, 1, 3, 3], [4, 0, 6, 2]])
    iou, union = box_ops.box_iou(one, others)
    torch.testing.assert_close(iou, torch.tensor([[1 / 7, 0]]))
    torch.testing.assert_close(union, torch.tensor([[7.0, 8]]))
    giou = box_ops.generalized_box_iou(one, others)
    torch.testing.assert_close(giou, torch.tensor([[1 / 7 - 2 / 9, 0 - 4 / 12]]))


def test_boxes_of_masks():
    mask = torch.zeros(1, 5, 6)
    mask[0, 1:3, 2:5] = 1
    assert box_ops.masks_to_boxes(mask).tolist() == [[2, 1, 4, 2]]
    assert box_ops.masks_to_boxes(torch.zeros(0, 5, 6)).shape == (0, 4)


# ---- util.misc: numbers ----


def test_a_smoothed_value():
    meter = SmoothedValue(window_size=4)
    for value in (100.0, 1, 2, 5):
        meter.update(value)
    meter.update(4.0, n=6)
    assert (meter.median, meter.avg, meter.max, meter.value) == (2, 3, 5, 4)
    assert meter.global_avg == (108 + 24) / 10 and meter.count == 10
    assert str(meter) == "2.0000 (13.2000)"


def synchronized(rank: int) -> tuple[float, float]:
    logger = MetricLogger()
    for value in ([1.0, 3.0], [11.0])[rank]:
        logger.update(loss=value)
    logger.synchronize_between_processes()
    return logger.loss.global_avg, logger.loss.value


def test_meters_of_two_processes(tmp_path):
    assert in_two_processes(synchronized, tmp_path) == [(5.0, 3.0), (5.0, 11.0)]


def test_a_logger_prints_now_and_then(capsys):
    logger = MetricLogger(delimiter="  ")
    logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value:.2f}"))
    for item in logger.log_every(range(5), 2, "Epoch: [3]"):
        logger.update(loss=torch.tensor(float(item)), lr=0.1 * item)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines[:3]] == ["[0/5]", "[2/5]", "[4/5]"]
    assert "  eta: 0:00:00  lr: 0.20  loss: 1.0000 (1.0000)  time: " in lines[1]
    assert lines[3].startswith("Epoch: [3] Total time: 0:00:00 (") and len(lines) == 4
    assert logger.loss.global_avg == 2 and logger.meters["lr"].value == 0.4
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = logger.other


def reduced(rank: int) -> tuple:
    values = {"b": torch.tensor(2.0 + rank), "a": torch.tensor(10.0 * rank)}
    return misc.reduce_dict(values), misc.reduce_dict(values, average=False), misc.all_gather(rank)


def test_dictionaries_are_reduced(tmp_path):
    values = {"loss": torch.tensor(3.0)}
    assert misc.reduce_dict(values) is values
    for mean, total, ranks in in_two_processes(reduced, tmp_path):
        assert mean == {"a": 5, "b": 2.5} and total == {"a": 10, "b": 5} and ranks == [0, 1]


def test_accuracy():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    first, second = misc.accuracy(scores, torch.tensor([1, 1, 2, 2]), topk=(1, 2))
    assert (first, second) == (50, 75) and first.dim() == 0
    assert misc.accuracy(scores[:0], torch.tensor([], dtype=torch.long))[0] == 0


# ---- util.misc: batches ----

IMAGES = [torch.ones(3, 2, 4), 2 * torch.ones(3, 3, 1)]


@pytest.mark.parametrize(
    "pad", [misc.nested_tensor_from_tensor_list, misc._onnx_nested_tensor_from_tensor_list]
)
def test_images_are_padded(pad):
    tensors, mask = pad(IMAGES).decompose()
    assert tensors[0, 0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert tensors[1, 2].tolist() == [[2, 0, 0, 0]] * 3
    assert mask[0].tolist() == [[False] * 4, [False] * 4, [True] * 4]
    assert mask[1].tolist() == [[False, True, True, True]] * 3 and mask.dtype == torch.bool


def test_a_traced_padding_takes_other_sizes():
    pad = lambda first, second: misc._onnx_nested_tensor_from_tensor_list([first, second])  # noqa: E731
    traced = torch.jit.trace(lambda *images: pad(*images).decompose(), tuple(IMAGES))
    others = torch.rand(3, 5, 2), torch.rand(3, 1, 7)
    wanted = misc.nested_tensor_from_tensor_list(others).decompose()
    assert all(map(torch.equal, traced(*others), wanted))


def test_batches_are_collated():
    samples, targets = misc.collate_fn([(image, {"n": i}) for i, image in enumerate(IMAGES)])
    assert isinstance(samples, NestedTensor) and samples.tensors.shape == (2, 3, 3, 4)
    assert list(targets) == [{"n": 0}, {"n": 1}]
    assert misc._max_by_axis([[3, 2, 4], [3, 3, 1]]) == [3, 3, 4]


def test_a_batch_may_have_no_mask():
    tensors, mask = NestedTensor(IMAGES[0][None], None).to(torch.device("cpu")).decompose()
    assert torch.equal(tensors[0], IMAGES[0]) and mask is None


def test_a_batch_without_images_is_resized():
    assert misc.interpolate(torch.zeros(0, 3, 2, 2), size=(4, 6)).shape == (0, 3, 4, 6)
    assert misc.interpolate(torch.tensor([[[[1.0, 2]]]]), scale_factor=2)[0, 0, 0].tolist() == [
        1, 1, 2, 2,
    ]  # fmt: skip


# ---- util.misc: processes ----


def test_a_process_alone(monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    args = Namespace(dist_url="env://", device="cpu")
    misc.init_distributed_mode(args)
    assert (args.distributed, args.rank, args.world_size, args.gpu) == (False, 0, 1, None)
    assert misc.is_main_process() and not misc.is_dist_avail_and_initialized()
    assert (misc.get_rank(), misc.get_world_size(), misc.all_gather("x")) == (0, 1, ["x"])
    misc.save_on_master({"epoch": 1}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth") == {"epoch": 1}


def test_only_the_master_prints(monkeypatch, capsys):
    monkeypatch.setattr(builtins, "print", builtins.print)  # it is put back at the end
    misc.setup_for_distributed(is_master=False)
    print("hidden")
    print("shown", force=True)
    assert capsys.readouterr().out == "shown\n"


def test_the_commit_is_named():
    assert misc.get_sha().startswith("sha: ") and ", branch: " in misc.get_sha()


# ---- util.plot_utils ----


def test_logs_are_plotted(tmp_path):
    from util import plot_utils

    rows = [
        {"epoch": 0, "train_loss": 8, "test_loss": 9, "test_coco_eval_bbox": [0.1, 0.3] + [0] * 10},
        {"epoch": 1, "train_loss": 4},
        {"epoch": 2, "train_loss": 0, "test_loss": 3, "test_coco_eval_bbox": [0.2, 0.6] + [0] * 10},
    ]
    (tmp_path / "log.txt").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot_utils.plot_logs([tmp_path], fields=("loss", "mAP"), ewm_col=1)
    figure = plot_utils.plt.gcf()
    curves = [[line.get_xydata().tolist() for line in axis.lines] for axis in figure.axes]
    assert {axis.get_xlabel() for axis in figure.axes} == {"epoch"}
    plot_utils.plt.close(figure)
    # Each step back counts half: (8 / 2 + 4) / 1.5, then (8 / 4 + 4 / 2 + 0) / 1.75.
    train = [[1, 8], [2, 16 / 3], [3, 16 / 7]]
    np.testing.assert_allclose(curves[0][0], train)
    np.testing.assert_allclose(curves[0][1], [[1, 9], [3, 5]])
    np.testing.assert_allclose(curves[1][0], [[1, 0.3], [3, 0.5]])
    with pytest.raises(UserError, match="no such log"):
        plot_utils.plot_logs(tmp_path, log_name="other.txt")
    with pytest.raises(ValueError, match="pathlib"):
        plot_utils.plot_logs([str(tmp_path)])
    plot_utils.plt.close("all")


def test_precision_and_recall_are_plotted(tmp_path, capsys):
    """Two classes of precision 1 and 0.5; more areas and IoU thresholds that do not count."""
    from pycocotools.cocoeval import Params

    from util import plot_utils

    precision = np.zeros((10, 101, 2, 4, 3))
    precision[0, :, :, 0, -1] = [1, 0.5]
    recall = np.zeros((10, 2, 4, 3))
    recall[0, :, 0, -1] = [0.25, 0.25]
    evaluation = {"params": Params("bbox"), "precision": precision, "scores": precision / 2,
                  "recall": recall, "counts": [10, 101, 2, 4, 3]}  # fmt: skip
    file = tmp_path / "run" / "eval" / "latest.pth"
    file.parent.mkdir(parents=True)
    torch.save(evaluation, file)
    figure, axes = plot_utils.plot_precision_recall([file], naming_scheme="exp_id")
    (left,), (right,) = (axis.lines for axis in axes)
    assert left.get_label() == "run" and len(left.get_xdata()) == 101
    assert set(left.get_ydata()) == {0.75} and set(right.get_ydata()) == {0.375}
    plot_utils.plt.close(figure)
    assert capsys.readouterr().out == "exp_id run: mAP@50= 75.0, score=0.375, f1=0.375\n"
    with pytest.raises(ValueError, match="naming_scheme"):
        plot_utils.plot_precision_recall([file], naming_scheme="other")
