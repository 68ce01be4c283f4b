"""The error that a user can act on."""


class UserError(Exception):
    """Something the user gave cannot be used. The message is one line: what, and the way out."""


class CommonError(UserError):
    """A UserError that every process of the run raises, so that one line is enough."""


def user_message(error: UserError) -> str:
    """The one line of a UserError.

    A DataLoader worker sends its exception to the main process with the worker's traceback
    written into the message; the line itself is then the last one.
    """
    line = str(error).strip().splitlines()[-1]
    return line.removeprefix(f"{__name__}.{type(error).__name__}: ")
