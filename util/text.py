"""Text of others, as it may be shown: no character of it acts on the terminal."""

LONGEST_LINE = 900  # characters of a message; a path may have 4096


def printable(text: str) -> str:
    """The text with all but its newlines and tabs escaped that a terminal does not simply draw.

    Control characters and what changes the direction of writing become \\x1b or \\u202e, lone
    surrogates (bytes of file names that are no UTF-8) become \\udcff.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in text
    )


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """The same on one line of at most `longest` characters."""
    line = printable(shorten(text, longest)).replace("\n", "\\n").replace("\t", "\\t")
    return shorten(line, longest)


def shorten(text: str, longest: int) -> str:
    """The beginning and the end of a text of more than `longest` characters, else all of it."""
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end - 3]}...{text[-end:]}"
