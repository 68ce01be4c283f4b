"""Where the images of a split are read from: a folder, a zip archive, or both."""

import io
import os
import zipfile
import zlib
from pathlib import Path

from PIL import Image

from util.errors import UserError


class ImageReader:
    """Reads `<root>/<file_name>`, or the member `<folder>/<file_name>` of `<root>.zip`.

    The folder comes first, file by file: what it lacks is looked for in the archive. The archive
    is opened once a process: a handle shared by forked loader workers would be moved by all of
    them and give one worker another's bytes.

    Args:
        root: folder of the split, for example coco/train2017; the archive is coco/train2017.zip.

    Raises:
        UserError: neither the folder nor the archive exists.
    """

    def __init__(self, root: str | Path):
        self.folder = Path(root)
        self.archive = self.folder.with_name(self.folder.name + ".zip")
        if not self.folder.is_dir() and not self.archive.is_file():
            raise UserError(f"{self.folder}: no such image folder, and no {self.archive} either")
        self._zip: zipfile.ZipFile | None = None
        self._zip_pid: int | None = None

    def __getstate__(self) -> dict:
        """Spawned workers get no handle and open their own."""
        return {**self.__dict__, "_zip": None, "_zip_pid": None}

    def read(self, file_name: str) -> Image.Image:
        """The image as RGB.

        Raises:
            UserError: it is in neither place, or it cannot be decoded.
        """
        source, content = self._find(file_name)
        try:
            with Image.open(content) as image:
                image.load()
                # Most images are RGB: converting them would only copy them.
                return image if image.mode == "RGB" else image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).replace(str(content), "the content")
            raise UserError(f"{source}: not a readable image ({reason})") from error

    def _find(self, file_name: str) -> tuple[str, io.BytesIO]:
        """Where the image was found, and its bytes."""
        if Path(file_name).is_absolute() or ".." in Path(file_name).parts:
            raise UserError(f"{file_name}: the name of an image leads out of {self.folder}")
        path = self.folder / file_name
        if path.is_file():
            return str(path), io.BytesIO(path.read_bytes())
        member = f"{self.folder.name}/{file_name}"
        archive = self._open_archive()
        if archive is not None:
            try:
                return f"{self.archive}:{member}", io.BytesIO(archive.read(member))
            except KeyError:
                pass  # not a member: the error below names all places that were searched
            except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
                raise UserError(f"{self.archive}: member {member} is damaged ({error})") from error
        places = [str(self.folder)] * self.folder.is_dir()
        places += [str(self.archive)] * (archive is not None)
        raise UserError(f"{file_name}: image missing from {' and from '.join(places)}")

    def _open_archive(self) -> zipfile.ZipFile | None:
        if self._zip_pid != os.getpid() and self.archive.is_file():
            try:
                self._zip = zipfile.ZipFile(self.archive)
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"{self.archive}: not a readable zip archive ({error})") from error
            self._zip_pid = os.getpid()
        return self._zip
