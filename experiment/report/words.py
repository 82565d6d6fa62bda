"""How wide words are in a table and a figure, and words cut to fit.

文字占几格；太宽的截去中间。
"""

from unicodedata import combining, east_asian_width


def width(text: str) -> int:
    """The columns that a terminal gives a text; a Chinese character has two."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, columns: int) -> str:
    """A text with blanks behind it, to as many columns."""
    return text + " " * (columns - width(text))


def shortened(text: str, columns: int) -> str:
    """A text within as many columns: the whole where it fits, else its beginning and its end."""
    if width(text) <= columns:
        return text
    head = tail = ""
    for first, last in zip(text, reversed(text), strict=True):
        if width(head + first + tail) >= columns:
            break
        head += first
        if width(head + last + tail) >= columns:
            break
        tail = last + tail
    return f"{head}…{tail}"
