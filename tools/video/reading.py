"""Frames of video files, read with PyAV, and of cameras, read with OpenCV.

PyAV gives the time of each frame and says what is wrong with a file, but its wheels know no
cameras.
"""

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image
from PIL.Image import Transpose

from datasets.images import MAX_PIXELS
from util.errors import UserError
from util.files import open_regular

SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv",
    ".flv", ".ogv", ".3gp",
}  # fmt: skip
DEFAULT_RATE = Fraction(25)  # frames a second, where none is known
# Degrees counterclockwise, as PyAV has them, to what turns an image so.
TURNS = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, 270: Transpose.ROTATE_270}


class Frame(NamedTuple):
    """A picture of a video.

    Attributes:
        number: from 0 on.
        time: seconds since the first frame.
        image: RGB, upright.
    """

    number: int
    time: float
    image: Image.Image


class Video(Protocol):
    """A video file or a camera.

    Attributes:
        name: for messages.
        rate: frames a second, roughly.
        count: number of frames, perhaps estimated; None if not known.
    """

    name: str
    rate: Fraction
    count: int | None

    def frames(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


def import_av(name: str) -> Any:
    """Return PyAV; raise a UserError that says how to install it if it is missing."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"{name}: videos need PyAV: pip install av") from error
    return av


class VideoFile:
    """A video file, see `Video`; sound is left out, and frames are turned as the file says.

    Raises:
        UserError: PyAV is missing, or the file is not a readable video.
    """

    def __init__(self, path: Path):
        self.name = str(path)
        self._av = import_av(self.name)
        try:
            # An open file, because a path may look like one of FFmpeg's network protocols.
            self._file = open_regular(path)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file") from error
        try:
            self._container = self._av.open(self._file)
        except (self._av.FFmpegError, ValueError) as error:
            self._file.close()
            raise UserError(f"{path}: not a readable video ({_reason(error)})") from error
        if not self._container.streams.video:
            self.close()
            raise UserError(f"{path}: not a readable video (it has no pictures)")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = self._stream.average_rate or DEFAULT_RATE
        self.count = self._stream.frames or self._estimated_count()

    def _estimated_count(self) -> int | None:
        if not self._container.duration:
            return None
        return round(self._container.duration / self._av.time_base * self.rate) or None

    def frames(self) -> Iterator[Frame]:
        """Yield all frames.

        Raises:
            UserError: the file is damaged; the frames before were yielded.
        """
        start, number = None, 0
        try:
            for frame in self._container.decode(self._stream):
                if frame.width * frame.height > MAX_PIXELS:
                    raise ValueError(f"a frame of {frame.width} x {frame.height} pixels")
                seconds = float(number / self.rate) if frame.time is None else frame.time
                start = seconds if start is None else start
                image = frame.to_image()
                if frame.rotation % 360 in TURNS:
                    image = image.transpose(TURNS[frame.rotation % 360])
                yield Frame(number, seconds - start, image)
                number += 1
        except (self._av.FFmpegError, ValueError) as error:
            raise UserError(
                f"{self.name}: cannot be read after {number} frame(s) ({_reason(error)})"
            ) from error
        if not number:
            raise UserError(f"{self.name}: not a readable video (it has no frame)")

    def close(self) -> None:
        self._container.close()
        self._file.close()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Camera:
    """A camera, see `Video`; times are those at which frames come.

    Args:
        index: 0 for the first one of this machine.

    Raises:
        UserError: OpenCV or the camera is missing.
    """

    count = None

    def __init__(self, index: int):
        self.name = f"--camera {index}"
        try:
            import cv2
        except ImportError as error:
            raise UserError(
                f"{self.name}: cameras need OpenCV: pip install opencv-python-headless"
            ) from error
        logging = cv2.utils.logging
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # a missing camera is said below
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            raise UserError(f"{self.name}: there is no such camera, or another program uses it")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = Fraction(rate).limit_denominator(1001) if 1 <= rate <= 240 else DEFAULT_RATE

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the camera is gone; raise a UserError if it gives none."""
        start, number = 0.0, 0
        while True:
            read, pixels = self._capture.read()
            if not read:
                break
            now = time.monotonic()
            start = start if number else now
            yield Frame(number, now - start, Image.fromarray(pixels[:, :, ::-1].copy()))
            number += 1
        if not number:
            raise UserError(f"{self.name}: the camera gives no pictures")

    def close(self) -> None:
        self._capture.release()
