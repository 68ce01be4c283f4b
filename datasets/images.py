"""Reading the images of a split, as 8-bit RGB, from a folder, a zip archive, or both."""

import functools
import io
import os
import stat
import warnings
import zipfile
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image

from util.errors import UserError

from .validation.issues import error_text, printable_name

# Bounds on what one image may take, whatever its header or the archive claims. Pillow has the same
# bound on pixels, but Image.MAX_IMAGE_PIXELS can be changed by anybody.
MAX_PIXELS = 178_956_970
MAX_BYTES = 4 * MAX_PIXELS  # of a file: four uncompressed channels
# Bytes read from an archive at a time; some decompressors return all that a chunk expands to,
# however little was asked for.
READ_SIZE = 1 << 16

# Formats that decode to the size in their header, by Pillow alone: EPS runs another program, icons
# hold images of other sizes. In the order in which Pillow tries them.
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "DIB", "TGA", "PCX",
    "SGI", "QOI",
)  # fmt: skip

GREY_16 = "I;16"  # PIL's mode; the names of other byte orders begin the same
GREY_32 = ("I", "F")  # integers, floats

# Pillow warns of large images, which MAX_PIXELS judges, and of damaged files before it fails.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageReader:
    """Reads `<root>/<file_name>`, or the member `<folder>/<file_name>` of `<root>.zip`.

    Files of the folder are preferred; what it lacks is read from the archive. The archive is
    opened once in each process: forked loader workers would move the position of a shared handle
    and read one another's bytes.

    File names cannot lead out of the folder. Symbolic links in it may: they are the user's own,
    and linking the images of another data set is usual.

    Args:
        root: folder of the split, for example coco/train2017; the archive is coco/train2017.zip.

    Raises:
        UserError: neither the folder nor the archive exists.
    """

    formats = FORMATS
    unknown_format = "of no known format"  # in messages, for a file in none of them

    def __init__(self, root: str | Path):
        self.folder = Path(root)
        self.archive = Path(f"{self.folder}.zip")
        if not self.folder.is_dir() and not self.archive.is_file():
            raise UserError(f"{self.folder}: no such image folder, and no {self.archive} either")
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid: int | None = None

    def __getstate__(self) -> dict:
        """Drop the handle: spawned workers open their own."""
        return {**self.__dict__, "_zip": None, "_zip_pid": None}

    def read(self, file_name: str) -> Image.Image:
        """Return the image as RGB, not turned; see `datasets.orientation` for which way is up.

        Raises:
            UserError: it is in neither place, or it cannot be decoded, or only with more than
                MAX_BYTES or MAX_PIXELS.
        """
        source, content = self._find(file_name)
        # Decoders raise exceptions of any type at malformed files.
        try:
            with Image.open(io.BytesIO(content), formats=_available(self.formats)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Image.DecompressionBombError(
                        f"its header claims {width} x {height} pixels, which exceeds the limit of "
                        f"{MAX_PIXELS} pixels"
                    )
                return self._decode(image)
        except Image.UnidentifiedImageError as error:
            raise UserError(f"{source}: not a readable image ({self.unknown_format})") from error
        except Exception as error:
            raise UserError(f"{source}: not a readable image ({error_text(error)})") from error

    def open_archive(self) -> zipfile.ZipFile | None:
        """Return the archive, opened in this process; None if there is none.

        Raises:
            UserError: it cannot be read.
        """
        if self._zip_pid != os.getpid() and self.archive.is_file():
            try:
                self._zip = zipfile.ZipFile(self.archive)
            except Exception as error:  # of any type, as in _from_archive
                raise UserError(
                    f"{self.archive}: not a readable zip archive ({error_text(error)})"
                ) from error
            self._zip_pid = os.getpid()
        return self._zip

    def _decode(self, image: Image.Image) -> Image.Image:
        """Return an open image's pixels as RGB; any exception means that it is not readable."""
        image.load()
        return as_rgb(image)

    def _find(self, file_name: str) -> tuple[str, bytes]:
        """Return where the image is, for messages, and its bytes."""
        name = printable_name(file_name)
        for path in (Path(file_name), PureWindowsPath(file_name)):
            # An absolute name or one with a drive would replace the folder.
            if path.anchor or ".." in path.parts:
                raise UserError(f"{name}: the name of an image leads out of {self.folder}")
        content = self._from_folder(file_name)
        if content is not None:
            return f"{self.folder / name}", content
        archive = self.open_archive()
        if archive is not None:
            content = self._from_archive(archive, file_name)
            if content is not None:
                return f"{self.archive}:{self.folder.name}/{name}", content
        places = [str(self.folder)] * self.folder.is_dir()
        places += [str(self.archive)] * (archive is not None)
        raise UserError(f"{name}: image missing from {' and from '.join(places)}")

    def _from_folder(self, file_name: str) -> bytes | None:
        path = self.folder / file_name
        source = str(self.folder / printable_name(file_name))
        try:
            found = path.stat()
            # Reading a pipe or a device would never end.
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{source}: not a regular file")
            _check_bytes(source, found.st_size)
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, MemoryError) as error:  # also names that no file can have
            raise UserError(f"{source}: not a readable file ({error_text(error)})") from error

    def _from_archive(self, archive: zipfile.ZipFile, file_name: str) -> bytes | None:
        try:
            member = archive.getinfo(f"{self.folder.name}/{file_name}")
        except KeyError:
            return None
        source = f"{self.archive}: member {self.folder.name}/{printable_name(file_name)}"
        _check_bytes(source, member.file_size)
        content = bytearray()
        # zipfile and the decompressors behind it have no common exception: damage, encryption and
        # unknown methods come as a dozen types. The header's size may be wrong, so it is not relied
        # on while reading.
        try:
            with archive.open(member) as file:
                while chunk := file.read(READ_SIZE):
                    content += chunk
                    if len(content) > MAX_BYTES:
                        break
        except Exception as error:
            raise UserError(
                f"{source} is damaged or of an unknown kind ({error_text(error)})"
            ) from error
        _check_bytes(source, len(content))
        return bytes(content)


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, 8 bits a channel; EXIF and other metadata are kept.

    16-bit grey is divided by 257, so that 65535 becomes 255. For 32-bit grey no value is agreed to
    be white: values are taken as they are if the largest is from 2 to 255 and none is negative.

    Raises:
        ValueError: an image of 32-bit grey has other values.
    """
    if image.mode == "RGB":
        return image  # most images are: converting them would only copy them
    if image.mode.startswith(GREY_16):
        grey = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
        grey.info = image.info
        return grey.convert("RGB")
    if image.mode in GREY_32:
        low, high = image.getextrema()
        if not (low >= 0 and 2 <= high <= 255):
            raise ValueError(
                f"its 32-bit grey goes from {low:g} to {high:g}, and which of it is white is not "
                "known; save it with 8 or 16 bits"
            )
    return image.convert("RGB")


@functools.cache
def _available(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats that this build of Pillow can open."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def _check_bytes(source: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UserError(f"{source} has {size} bytes, which exceeds the limit of {MAX_BYTES} bytes")
