"""Where the images of a split are read from: a folder, a zip archive, or both."""

import functools
import io
import os
import stat
import warnings
import zipfile
from pathlib import Path, PureWindowsPath

from PIL import Image

from util.errors import UserError

from .pixel_values import as_rgb
from .validation.faults import cause, shown_name

# Bounds on what one image may take, whatever its header or the archive claims. Pillow's own bound
# on pixels is the same until somebody changes Image.MAX_IMAGE_PIXELS; this one stays.
MAX_PIXELS = 178_956_970
MAX_BYTES = 4 * MAX_PIXELS  # of a file: four uncompressed channels
CHUNK = 1 << 16  # bytes; some decompressors give all there is in a chunk, whatever was asked for

# Formats of pictures that decode to the size in their header, by themselves: EPS runs another
# program, icons hold images of other sizes. In the order in which Pillow tries them.
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "DIB", "TGA", "PCX",
    "SGI", "QOI",
)  # fmt: skip

# Pillow warns of large images, which MAX_PIXELS judges, and of damaged files before it fails.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageReader:
    """Reads `<root>/<file_name>`, or the member `<folder>/<file_name>` of `<root>.zip`.

    The folder comes first, file by file: what it lacks is looked for in the archive. The archive
    is opened once a process: a handle shared by forked loader workers would be moved by all of
    them and give one worker another's bytes.

    File names cannot lead out of the folder. Symbolic links in it may: they are the user's own,
    and linking the images of another data set is usual.

    Args:
        root: folder of the split, for example coco/train2017; the archive is coco/train2017.zip.

    Raises:
        UserError: neither the folder nor the archive exists.
    """

    formats = FORMATS
    no_format = "of no known format"  # said of a file in none of them

    def __init__(self, root: str | Path):
        self.folder = Path(root)
        self.archive = Path(f"{self.folder}.zip")
        if not self.folder.is_dir() and not self.archive.is_file():
            raise UserError(f"{self.folder}: no such image folder, and no {self.archive} either")
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid: int | None = None

    def __getstate__(self) -> dict:
        """Spawned workers get no handle and open their own."""
        return {**self.__dict__, "_zip": None, "_zip_pid": None}

    def read(self, file_name: str) -> Image.Image:
        """The image as RGB, as it is stored; see `datasets.orientation` for which way up.

        Raises:
            UserError: it is in neither place, or it cannot be decoded, or only with more than
                MAX_BYTES or MAX_PIXELS.
        """
        source, content = self._find(file_name)
        # Decoders meet garbage with exceptions of any type, and all of them mean the same.
        try:
            with Image.open(io.BytesIO(content), formats=_available(self.formats)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Image.DecompressionBombError(
                        f"its header claims {width} x {height} pixels, which exceeds the limit of "
                        f"{MAX_PIXELS} pixels"
                    )
                return self._decoded(image)
        except Image.UnidentifiedImageError as error:
            raise UserError(f"{source}: not a readable image ({self.no_format})") from error
        except Exception as error:
            raise UserError(f"{source}: not a readable image ({cause(error)})") from error

    def _decoded(self, image: Image.Image) -> Image.Image:
        """An open image's pixels as RGB; any exception says that it is not readable."""
        image.load()
        return as_rgb(image)

    def _find(self, file_name: str) -> tuple[str, bytes]:
        """Where the image was found, as it is shown, and its bytes."""
        name = shown_name(file_name)
        for path in (Path(file_name), PureWindowsPath(file_name)):
            # A drive or a root of its own would replace the folder.
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
        shown = self.folder / shown_name(file_name)
        try:
            found = path.stat()
            # A pipe or a device would be read without end.
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{shown}: not a regular file")
            _check_bytes(str(shown), found.st_size)
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, MemoryError) as error:  # also names that no file can have
            raise UserError(f"{shown}: not a readable file ({cause(error)})") from error

    def _from_archive(self, archive: zipfile.ZipFile, file_name: str) -> bytes | None:
        try:
            member = archive.getinfo(f"{self.folder.name}/{file_name}")
        except KeyError:
            return None
        source = f"{self.archive}: member {self.folder.name}/{shown_name(file_name)}"
        _check_bytes(source, member.file_size)
        content = bytearray()
        # zipfile and the decompressors behind it have no common exception: damage, encryption and
        # unknown methods come as a dozen types.
        try:
            with archive.open(member) as file:
                while chunk := file.read(CHUNK):
                    content += chunk
                    if len(content) > MAX_BYTES:
                        break
        except Exception as error:
            raise UserError(f"{source} is damaged or of no known kind ({cause(error)})") from error
        _check_bytes(source, len(content))
        return bytes(content)

    def open_archive(self) -> zipfile.ZipFile | None:
        """The archive, open in this process; None if there is none.

        Raises:
            UserError: it cannot be read.
        """
        if self._zip_pid != os.getpid() and self.archive.is_file():
            try:
                self._zip = zipfile.ZipFile(self.archive)
            except Exception as error:  # of as many types as above
                raise UserError(
                    f"{self.archive}: not a readable zip archive ({cause(error)})"
                ) from error
            self._zip_pid = os.getpid()
        return self._zip


@functools.cache
def _available(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those that this Pillow has."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def _check_bytes(source: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UserError(f"{source} has {size} bytes, which exceeds the limit of {MAX_BYTES} bytes")
