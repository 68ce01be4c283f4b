"""Write pictures with their times as a video, in H.264 where there is an encoder for it."""

import os
from fractions import Fraction
from pathlib import Path

from PIL import Image

from util.files import report_write_errors

from .reading import import_av

# Times are multiples of it. All usual rates have whole numbers of it for a frame, also 30000/1001,
# and MPEG-4 allows no finer one.
TICK = Fraction(1, 60000)
# The first that is there. CRF 20: differences from the pictures are hardly seen.
ENCODERS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}


class VideoWriter:
    """An MP4 file that pictures are added to; `close` makes it playable and gives it its name.

    Args:
        path: of the file. Until `close` its content is in a hidden file beside it.
        rate: frames a second, roughly.

    Raises:
        UserError: PyAV is missing, or the file cannot be written.
    """

    def __init__(self, path: Path, rate: Fraction):
        self.path, self._rate = path, rate
        self._av = import_av(str(path))
        self._part = path.with_name(f".{path.name}.part")
        self._container = None
        self._last = -1

    def add(self, picture: Image.Image, seconds: float) -> None:
        """Add a picture that is shown from so many seconds on; the first gives the video's size."""
        with report_write_errors(self.path):
            if self._container is None:
                self._open(picture.size)
            frame = self._av.VideoFrame.from_image(self._fitted(picture))
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            self._last = frame.pts = max(round(seconds / TICK), self._last + 1)
            frame.time_base, frame.duration = TICK, round(1 / self._rate / TICK)
            self._container.mux(self._stream.encode(frame))

    def _open(self, size: tuple[int, int]) -> None:
        self._part.unlink(missing_ok=True)
        self._container = self._av.open(str(self._part.absolute()), "w", format="mp4")
        encoder = next(name for name in ENCODERS if name in self._av.codecs_available)
        self._stream = self._container.add_stream(encoder, self._rate, options=ENCODERS[encoder])
        # Encoders want even numbers, because colours have half the resolution.
        self._stream.width, self._stream.height = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = TICK
        self._stream.codec_context.colorspace = self._av.video.reformatter.Colorspace.ITU709
        self._size = size

    def _fitted(self, picture: Image.Image) -> Image.Image:
        """Return a picture of the video's size, which frames of a file may leave."""
        if picture.size != self._size:
            picture = picture.resize(self._size)
        if self._stream.width == picture.width and self._stream.height == picture.height:
            return picture
        wider = Image.new("RGB", (self._stream.width, self._stream.height))
        wider.paste(picture)
        return wider

    def close(self) -> None:
        """Finish the file, if any picture was added."""
        if self._container is None:
            return
        container, self._container = self._container, None
        with report_write_errors(self.path):
            try:
                container.mux(self._stream.encode(None))
                container.close()
                os.replace(self._part, self.path)
            finally:
                self._part.unlink(missing_ok=True)
