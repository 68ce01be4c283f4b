"""Code blocks of Markdown pages, and the command lines in them."""

import re


def code_blocks(text: str, language: str) -> list[str]:
    """Return the contents of a page's blocks in one language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.M | re.S)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


def command_lines(block: str) -> list[str]:
    """Return the lines of a block of bash, those that a backslash continues as one."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]
