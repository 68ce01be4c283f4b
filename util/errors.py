"""Errors that a user can act on, and text that is safe to show in a terminal."""

import errno
import os

# Of a path that the system refuses: rights, a disk that is full or read-only, names, links.
OF_PATHS = {
    errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG,
    errno.ELOOP,
}  # fmt: skip
MAX_MESSAGE = 900  # characters; a path alone may have 4096


class UserError(Exception):
    """An error in what the user gave: one line that says what is wrong and what to do.

    Args:
        text: The message. It is made one printable line, whatever file names it contains.
        message: Instead of `text`: the traceback of a DataLoader worker whose last line is the
            message.
    """

    # DataLoader re-raises a worker's exception as cls(message=...) if the class has an attribute
    # of this name (torch/_utils.py, ExceptionWrapper.reraise), and as cls(text) otherwise.
    message = "with the traceback of a worker"

    def __init__(self, text: str = "", *, message: str | None = None):
        if message is not None:
            text = message.rstrip("\n").rpartition("\n")[2]
            text = text.removeprefix(f"{type(self).__module__}.{type(self).__qualname__}: ")
        super().__init__(one_line(str(text)))


class UnreadableError(UserError):
    """A UserError of a file that may be whole, but cannot be read now: rights, memory, a disk."""


class CommonError(UserError):
    """A UserError that every process of the run raises, so that the main process alone shows it."""


def resource_error(error: Exception) -> UserError | None:
    """Return a UserError if memory, files or processes ran out, or a path cannot be used.

    Returns:
        None for all other errors, which are mistakes of the program.
    """
    text = str(error)
    number = getattr(error, "errno", 0)
    reason = f"({one_line(text or type(error).__name__, 200)})"
    signs = ("can't allocate memory", "out of memory", "Storage size calculation overflowed",
             "not enough memory")  # fmt: skip
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or (isinstance(error, RuntimeError) and any(sign in text for sign in signs))
    ):
        return UserError(
            "there is not enough memory: smaller --batch_size, images (--image_size, --input-size) "
            "or models (--hidden_dim, --dim_feedforward, --num_queries) need less "
            f"{reason}"
        )
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        return UserError(f"too many files are open: ulimit -n 65536 allows more {reason}")
    if number == errno.EAGAIN:
        return UserError(f"the system starts no more processes: lower --num_workers {reason}")
    if isinstance(error, OSError) and error.filename is not None and number in OF_PATHS:
        return UserError(f"{os.fsdecode(error.filename)}: {error.strerror}")
    return None


def printable(text: str) -> str:
    r"""Escape all characters but newlines and tabs that a terminal does not simply draw.

    Control characters and those that change the direction of writing become \x1b or \u202e, lone
    surrogates (bytes of file names that are not UTF-8) become \udcff.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def one_line(text: str, max_length: int = MAX_MESSAGE) -> str:
    """Return `text` as one printable line of at most `max_length` characters."""
    line = printable(truncate(text, max_length)).replace("\n", "\\n").replace("\t", "\\t")
    return truncate(line, max_length)


def truncate(text: str, max_length: int) -> str:
    """Replace the middle of a text of more than `max_length` characters by "..."."""
    if len(text) <= max_length:
        return text
    end = max_length // 4
    return f"{text[: max_length - end - 3]}...{text[-end:]}"
