"""Reading the pages: their sections and the tables in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """The text of a page below a heading, to the next of the same rank or a higher one."""
    rank = heading.partition(" ")[0]
    text = page(name).partition(f"\n{heading}\n")[2]
    assert text, f"{name} has no heading {heading}"
    return re.split(rf"\n#{{1,{len(rank)}}} ", text)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = {index + shift for index, row in enumerate(cells) if set(row) == {"---"} for shift in (-1, 0)}
    return [row for index, row in enumerate(cells) if index not in heads]
