"""The error that a user can act on."""

import errno

from util.text import one_line


class UserError(Exception):
    """Something the user gave cannot be used. Its text is one line: what, and the way out.

    Args:
        text: is made one printable line, whatever names of files are in it.
        message: instead of `text`, what a DataLoader worker raised with its traceback before it.
    """

    # A DataLoader calls an exception's class with message= if it has such an attribute, else like
    # everybody else. The last line is the worker's text, since that is one line.
    message = "with the traceback of a worker"

    def __init__(self, text: str = "", *, message: str | None = None):
        if message is not None:
            text = message.rstrip("\n").rpartition("\n")[2]
            text = text.removeprefix(f"{type(self).__module__}.{type(self).__qualname__}: ")
        super().__init__(one_line(str(text)))


class CommonError(UserError):
    """A UserError that every process of the run raises, so that one line is enough."""


def lack_of_resources(error: Exception) -> UserError | None:
    """A UserError of an exception that says what the system has too little of; None of others."""
    text = str(error)
    number = getattr(error, "errno", 0)
    told = f"({one_line(text or type(error).__name__, 200)})"
    signs = ("can't allocate memory", "out of memory", "Storage size calculation overflowed",
             "not enough memory")  # fmt: skip
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or (isinstance(error, RuntimeError) and any(sign in text for sign in signs))
    ):
        return UserError(
            "there is not enough memory: smaller --batch_size, --image_size, --hidden_dim, "
            f"--dim_feedforward or --num_queries need less {told}"
        )
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in text:
        return UserError(f"too many files are open: ulimit -n 65536 allows more {told}")
    if number == errno.EAGAIN:
        return UserError(f"the system starts no more processes: lower --num_workers {told}")
    return None
