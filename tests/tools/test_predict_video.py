"""tools/predict.py on videos and cameras."""

import itertools
import json
import os
import signal
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from torchvision.ops import box_convert

from detector import Detector, load_detector
from tests.helpers.tool_runs import line_of, run_tool
from tools import predict
from tools.video.reading import VideoFile
from util.pictures.drawing import drawn_on

av = pytest.importorskip("av", reason="videos need PyAV: pip install av")

TICKS = (0, 100, 350, 400, 1000)  # milliseconds; frames of phones come when they come


@pytest.fixture
def frames(files):
    """Return five pictures of one size, odd in width."""
    pictures = []
    for file, box in itertools.product(
        files[:2], ((0, 0, 40, 40), (10, 10, 60, 60), (5, 0, 70, 50))
    ):
        with Image.open(file) as image:
            pictures.append(image.convert("RGB").resize((75, 50), box=box))
    return pictures[:5]


def write_video(path, pictures, codec="ffv1", pix_fmt="bgr0", turn=None, ticks=TICKS):
    """Write pictures to a video; the default codec keeps each pixel as it is."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt, stream.codec_context.time_base = pix_fmt, Fraction(1, 1000)
        if turn is not None:
            stream.set_display_rotation(turn)
        for picture, tick in zip(pictures, ticks, strict=False):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_video(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_image()) for frame in container.decode(video=0)]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def tool(checkpoint, tmp_path):
    """Return the arguments that all calls of the tool share; it writes to tmp_path/out."""
    return ("--resume", checkpoint, "--output_dir", tmp_path / "out", "--device", "cpu")


def test_a_video_gives_what_its_frames_give(tool, checkpoint, frames, tmp_path):
    """As PNG files, to the bit, in batches of the same size; and the copy shows them in time."""
    clip = write_video(tmp_path / "clip.mkv", frames)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{number}.png")
    given = [*tool, "--threshold", "0.01", "--batch_size", "2"]
    run = run_tool(predict, *given, tmp_path / "frames", clip)
    assert run.code == 0 and run.err == ""
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    lines = lines_of(tmp_path / "out" / "clip.jsonl")
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["time"] for line in lines] == [tick / 1000 for tick in TICKS]
    assert len(results) == sum(len(line["detections"]) for line in lines) > 5
    rows = [(line["frame"], entry) for line in lines for entry in line["detections"]]
    for (frame, entry), row in zip(rows, results, strict=True):
        assert entry.pop("name")
        assert {"image_id": frame, "file_name": f"{frame}.png", **entry} == row

    copy = read_video(tmp_path / "out" / "clip.mp4")
    assert [time for time, _ in copy] == [tick / 1000 for tick in TICKS]
    detector = load_detector(checkpoint, "cpu")
    for frame, (_, shown) in zip(frames, copy, strict=True):
        wanted = drawn_on(frame, detector(frame, 0.01)[0])
        assert wanted.size == (7 * 75, 7 * 50) and shown.size == (526, 350)  # even numbers
        difference = np.asarray(wanted).astype(float) - np.asarray(shown)[:, : wanted.width]
        assert np.abs(difference.mean((0, 1))).max() < 3 and difference.std() < 20


def test_a_video_of_a_phone_is_turned_upright(tool, checkpoint, frames, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    even = [frame.resize((64, 48)) for frame in frames[:1]]
    for turn in (90, 180, -90):
        clip = write_video(tmp_path / f"{turn}.mp4", even, "libx264rgb", "rgb24", turn)
        (frame,) = VideoFile(clip).frames()
        read, pixels = cv2.VideoCapture(str(clip)).read()
        assert read and frame.image.size == pixels.shape[1::-1]
        difference = np.asarray(frame.image).astype(int) - pixels[:, :, ::-1]
        assert np.abs(difference).mean() < 3, turn
    assert run_tool(predict, *tool, tmp_path / "90.mp4", "--threshold", "0").code == 0
    (line,) = lines_of(tmp_path / "out" / "90.jsonl")
    (wanted,) = load_detector(checkpoint, "cpu")(even[0].transpose(Image.Transpose.ROTATE_90), 0)
    boxes = [entry["bbox"] for entry in line["detections"]]
    assert read_video(tmp_path / "out" / "90.mp4")[0][1].size == (7 * 48, 7 * 64)
    np.testing.assert_allclose(boxes, box_convert(wanted["boxes"], "xyxy", "xywh"), atol=0.5)


def test_broken_videos_are_named_and_the_others_go_on(tool, frames, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (100, 48, 64, 3), np.uint8)
    noisy = list(map(Image.fromarray, noise))
    (tmp_path / "text.mp4").write_text("this is no video")
    whole = write_video(tmp_path / "whole.avi", noisy[:4], "mjpeg", "yuvj420p")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    cut = write_video(tmp_path / "cut.mp4", noisy[:5], "mpeg4", "yuv420p")
    cut.write_bytes(cut.read_bytes()[:-300])  # its index is at the end
    names = ("text.mp4", "sound.mp4", "cut.mp4")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "text.jsonl").write_text("of an earlier call")
    run = run_tool(predict, *tool, *(tmp_path / name for name in names), whole, "--force")
    assert run.code == 1
    assert f"4 frame(s), 0 detection(s) in {tmp_path}/out/whole.mp4" in run.out
    errors = run.err.splitlines()
    assert len(errors) == 3
    for name, line in zip(names, errors, strict=True):
        assert line.startswith(f"error: {tmp_path / name}: not a readable video (")
    assert "it has no pictures" in errors[1]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["text.jsonl", "whole.jsonl", "whole.mp4"]
    assert (tmp_path / "out" / "text.jsonl").read_text() == "of an earlier call"


def test_what_is_before_the_damage_is_kept(tool, frames, tmp_path):
    """Frames that are PNG files begin with a signature."""
    clip = write_video(tmp_path / "clip.mov", frames, "png", "rgb24")
    content = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packet = list(container.demux(video=0))[3]
        at = content.index(bytes(packet))
    content[at : at + 100] = bytes(100)
    clip.write_bytes(content)
    line = line_of(predict, *tool, clip, "--batch_size", "2")
    assert f"{clip}: cannot be read after 3 frame(s) (" in line
    assert len(lines_of(tmp_path / "out" / "clip.jsonl")) == 3
    assert len(read_video(tmp_path / "out" / "clip.mp4")) == 3


def test_ctrl_c_leaves_a_video_that_can_be_played(tool, frames, tmp_path, monkeypatch):
    clip = write_video(tmp_path / "clip.mkv", frames)
    detect, calls = Detector.__call__, []

    def interrupted(self, images, threshold):
        calls.append(len(images))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return detect(self, images, threshold)

    monkeypatch.setattr(Detector, "__call__", interrupted)
    run = run_tool(predict, *tool, clip, "--batch_size", "2")
    assert run.code == 130 and run.err == "stopped by SIGINT\n" and calls == [2, 2]
    assert f"4 frame(s), 0 detection(s) in {tmp_path}/out/clip.mp4" in run.out
    assert len(lines_of(tmp_path / "out" / "clip.jsonl")) == 4
    assert len(read_video(tmp_path / "out" / "clip.mp4")) == 4
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] == "."] == []


def test_frames_are_read_when_they_are_needed(tool, frames, tmp_path, monkeypatch):
    """Never more than a batch of them is waiting."""
    clip = write_video(tmp_path / "clip.mkv", frames)
    read, detected, waiting = [], [], []
    all_frames, detect = VideoFile.frames, Detector.__call__

    def counted(self):
        for frame in all_frames(self):
            read.append(frame)
            waiting.append(len(read) - len(detected))
            yield frame

    def detecting(self, images, threshold):
        detected.extend(images)
        return detect(self, images, threshold)

    monkeypatch.setattr(VideoFile, "frames", counted)
    monkeypatch.setattr(Detector, "__call__", detecting)
    run = run_tool(predict, *tool, clip, "--batch_size", "2")
    assert run.code == 0 and len(detected) == 5 and max(waiting) == 2
    assert "no score reaches --threshold 0.5: the best is 0." in run.out
    assert f"of {clip}); try --threshold 0." in run.out


def test_a_camera(tool, frames, tmp_path, monkeypatch):
    """A file in its place, which OpenCV reads, too; it ends, as a camera that is unplugged."""
    cv2 = pytest.importorskip("cv2", reason="pip install opencv-python-headless")
    clip, opened, capture = write_video(tmp_path / "clip.mkv", frames), [], cv2.VideoCapture

    def open_camera(index):
        opened.append(index)
        return capture(str(clip) if index == 3 else str(tmp_path / "nothing"))

    monkeypatch.setattr(cv2, "VideoCapture", open_camera)
    given = [*tool, "--threshold", "0", "--batch_size", "2"]
    run = run_tool(predict, *given, "--camera", "3", clip)
    assert run.code == 0 and opened == [3]
    files, lines = (lines_of(tmp_path / "out" / f"{name}.jsonl") for name in ("clip", "camera3"))
    assert [line["detections"] for line in lines] == [line["detections"] for line in files]
    times = [line["time"] for line in lines]
    assert times[0] == 0 and times == sorted(times)
    assert len(read_video(tmp_path / "out" / "camera3.mp4")) == 5
    line = line_of(predict, *tool, "--camera", "1")
    assert "--camera 1: there is no such camera" in line


def test_mistakes_are_answered_with_one_line(tool, frames, tmp_path, monkeypatch):
    clip = write_video(tmp_path / "clip.mp4", frames[:1], "libx264rgb", "rgb24", ticks=[0])
    assert "name images or videos, or a --camera" in line_of(predict, *tool)
    line = line_of(predict, *tool[:2], "--output_dir", tmp_path, clip, "--force")
    assert "clip.mp4: is one of the inputs" in line
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "clip.jsonl").write_text("mine")
    assert "clip.jsonl: exists; choose another --output_dir" in line_of(predict, *tool, clip)
    monkeypatch.setitem(sys.modules, "cv2", None)
    says = "--camera 0: cameras need OpenCV: pip install opencv-python-headless"
    assert says in line_of(predict, *tool, "--camera", "0")
    monkeypatch.setitem(sys.modules, "av", None)
    says = "clip.mp4: videos need PyAV: pip install av"
    assert says in line_of(predict, *tool, clip, "--force")
