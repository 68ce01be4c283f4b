"""The error that a user can act on."""


class UserError(Exception):
    """Something the user gave cannot be used. The message is one line: what, and the way out."""


def user_message(error: UserError) -> str:
    """The one line of a UserError.

    A DataLoader worker sends its exception to the main process with the worker's traceback
    written into the message; the line itself is then the last one.
    """
    return str(error).strip().splitlines()[-1].removeprefix(f"{__name__}.UserError: ")
