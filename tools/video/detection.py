"""Detect objects on the frames of a video: an annotated copy, and a line of JSON for each frame."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from detector import Detector
from tools.image_files.low_scores import LowScores, split_by_score
from training.progress.bar import SECONDS_BETWEEN_LINES, progress
from util.errors import UserError
from util.files import report_write_errors
from util.pictures.drawing import drawn_on
from util.signals import StopSignals

from .reading import Frame, Video
from .writing import VideoWriter

OUTPUT_SUFFIXES = (".mp4", ".jsonl")  # of the annotated copy and of the lines


class Outcome(NamedTuple):
    """What became of a video.

    Attributes:
        frames, detections: numbers of them.
        signal: the number of the signal that ended it early, or 0.
        explanation: a line about frames on which nothing was found, if there are any.
    """

    frames: int
    detections: int
    signal: int
    explanation: str | None


def detect_on_video(
    video: Video,
    detector: Detector,
    video_path: Path,
    lines_path: Path,
    entries_of: Callable[[dict], list[dict]],
    threshold: float,
    batch_size: int,
) -> Outcome:
    """Write an annotated copy of a video, and a JSON line for each frame.

    Ctrl-C, or another signal to stop, ends it after the batch; then, and after an error, both files
    hold what was done. No more than a batch of frames is in memory, and those that the encoder has.

    Args:
        video_path, lines_path: of the files to write.
        entries_of: makes JSON of a frame's detections.

    Raises:
        UserError: the video is damaged, or a file cannot be written.
    """
    writer = VideoWriter(video_path, video.rate)
    frames, detections, low = 0, 0, LowScores(threshold, "frame")
    with (
        StopSignals(verbose=False) as signals,
        report_write_errors(lines_path),
        contextlib.ExitStack() as outputs,
    ):
        outputs.callback(writer.close)
        lines = None
        for batch in _shown(_batches(video.frames(), batch_size), video, batch_size):
            found_on = detector([frame.image for frame in batch], threshold=0)
            # Not before there is a frame: a file that is not readable replaces no results.
            lines = lines or outputs.enter_context(lines_path.open("w", encoding="utf-8"))
            for frame, all_found in zip(batch, found_on, strict=True):
                found, best = split_by_score(all_found, threshold)
                writer.add(drawn_on(frame.image, found), frame.time)
                line = {"frame": frame.number, "time": round(frame.time, 6)}
                line["detections"] = entries_of(found)
                lines.write(f"{json.dumps(line)}\n")
                detections += len(found["names"])
                if not found["names"]:
                    low.add(f"frame {frame.number} of {video.name}", best)
            lines.flush()
            frames += len(batch)
            if signals.received:
                break
        stopped_by = signals.received
    return Outcome(frames, detections, stopped_by, low.explanation(frames))


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    """Yield lists of frames; if the video ends with an error, first those before it."""
    batch: list[Frame] = []
    error = None
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == size:
                yield batch
                batch = []
    except UserError as raised:
        error = raised
    if batch:
        yield batch
    if error is not None:
        raise error


class _Sized:
    """Batches of which it is known, or estimated, how many they are."""

    def __init__(self, batches: Iterator[list[Frame]], length: int):
        self._batches, self._length = batches, length

    def __iter__(self) -> Iterator[list[Frame]]:
        return self._batches

    def __len__(self) -> int:
        return self._length


def _shown(batches: Iterator[list[Frame]], video: Video, size: int) -> Iterator[list[Frame]]:
    """Yield batches while their progress is shown, of the whole where its length is known."""
    if video.count is not None:
        yield from progress(_Sized(batches, -(-video.count // size)), video.name)
        return
    last_shown = time.monotonic()
    for batch in batches:
        yield batch
        if time.monotonic() - last_shown >= SECONDS_BETWEEN_LINES:
            last_shown = time.monotonic()
            print(f"{video.name}  {batch[-1].number + 1} frames", flush=True)
