"""Figures as a block for the screen, or as a table in Markdown.

测得的数字：屏幕上的一段，或 Markdown 的表。
"""

from typing import Any


def figure(name: str, value: float | None) -> str:
    """A figure in a few characters; a name that ends in ``bytes`` says what it is."""
    if value is None:
        return "–"
    if name.endswith("bytes"):
        return f"{value / 1e9:.2f} GB"
    if isinstance(value, int):
        return str(value)
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 0.01 else f"{value:.3f}"


def show(title: str, entries: dict[str, Any], depth: int = 0) -> None:
    """Print an indented, aligned block of names and figures."""
    print(f"{'  ' * depth}{title}")
    for name, value in entries.items():
        if isinstance(value, dict):
            show(name, value, depth + 1)
        else:
            print(f"{'  ' * (depth + 1)}{name:<{44 - 2 * depth}}{figure(name, value):>12}", flush=True)


def table(columns: dict[str, dict[str, Any]]) -> str:
    """A table in Markdown: a column for each entry, a row for each of their figures; nested names are joined.

    Parameters
    ----------
    columns : dict
        ``{column: {name: figure, or such a dict again}}``.
    """
    flat = {column: _flat(entries) for column, entries in columns.items()}
    names = dict.fromkeys(name for entries in flat.values() for name in entries)
    lines = ["", *flat], ["---"] * (len(flat) + 1)
    rows = ([name, *(figure(name, entries.get(name)) for entries in flat.values())] for name in names)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (*lines, *rows)) + "\n"


def _flat(entries: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in entries.items():
        found |= _flat(value, f"{before}{name}: ") if isinstance(value, dict) else {before + name: value}
    return found
