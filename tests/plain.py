"""Plain forms of the project's definitions, for comparison."""

import re


def words(text: bytes) -> list[bytes]:
    """The words of a text, as KenLM's lmplz splits them."""
    return re.findall(rb"[^ \t\n\r\0]+", text)
