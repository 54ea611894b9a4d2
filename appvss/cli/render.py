"""The one place that writes: lines, tables, JSON and complaints. It knows no command and no value of ours but errors.

On a terminal tables are drawn by rich; elsewhere, and with NO_COLOR or TERM=dumb, they are plain aligned lines. Results
go to stdout, complaints to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence

from appvss.model.errors import AppvssError, ConfigurationInvalid
from appvss.model.names import printable

_STYLES = {
    "application": "green",
    "held": "green",
    "serving": "green",
    "filesystem": "yellow",
    "waiting": "yellow",
    "away": "yellow",
    "crash": "red",
    "failed": "red",
    "lost": "red",
    "absent": "red",
    "failing": "red",
    "in_memory": "red",
    "problem": "red",
    "no": "red",
    "ok": "green",
    "passed": "green",
    "yes": "green",
    "keeping": "green",
    "warning": "yellow",
    "skipped": "yellow",
    "vetoed": "red",
    "timed_out": "red",
    "disconnected": "red",
    "hold_lost": "red",
}
"""Words that a table colours."""
_COLOURS = {"green": "32", "yellow": "33", "red": "31"}
"""How a terminal is told (ECMA-48, SGR)."""
_GRADE_WIDTH = 7
_LINE_LIMIT = 4096
_WIDTH = 80
"""Columns of a paragraph: what every terminal has."""
_COMMAND = re.compile(r"`[^`]{1,70}`")
_KEPT_BLANK = "\x1f"
"""Stands for a blank at which a line must not be broken; no printable text has it."""


def is_plain() -> bool:
    """Whether tables are plain lines: stdout is no terminal, or somebody asked for no colour (no-color.org)."""
    return (
        not sys.stdout
        or not sys.stdout.isatty()
        or bool(os.environ.get("NO_COLOR"))
        or os.environ.get("TERM") == "dumb"
    )


def line(text: str = "") -> None:
    """Write one line of the result.

    Raises:
        BrokenPipeError: nobody reads any more.
        AppvssError: it cannot be written.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AppvssError(
            f"the output cannot be written: {(error.strerror or str(error)).lower()}", "Write it to another place."
        ) from error


def note(text: str) -> None:
    """Write one line beside the result. Where there is no place for it (the terminal is gone), it is left out."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def document(message_type: str, fields: Mapping[str, object]) -> None:
    """Write one JSON object on a line of its own. It raises what `line` raises."""
    line(json.dumps({"message_type": message_type, **fields}))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table. Cells are printable already. It raises what `line` raises."""
    if is_plain():
        for text in plain_table(columns, rows):
            line(text)
        return
    from rich.console import Console  # slow to import, and only terminals need it
    from rich.table import Table
    from rich.text import Text

    drawing = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawing.add_column(column)
    for row in rows:
        # Text, not str: what an app says must not be read as markup.
        drawing.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console = Console(file=sys.stdout, highlight=False)
    with console.capture() as drawn:
        console.print(drawing)
    line(drawn.get().rstrip("\n"))


def paragraph(text: str, first: str = "", rest: str | None = None) -> None:
    """Write a text in lines of at most 80 columns. A command in backquotes stays in one line, so that it can be copied.

    It raises what `line` raises.

    Args:
        text: printable already.
        first: what stands before the first line.
        rest: what stands before the others; None: as many blanks.
    """
    for part in wrapped(text, first, rest):
        line(part)


def graded(grade: str, first: str, text: str) -> None:
    """Write a paragraph behind a word that a terminal colours. It raises what `line` raises."""
    lead = f"{grade.ljust(_GRADE_WIDTH)}  "
    lines = wrapped(text, lead + first)
    colour = "" if is_plain() else _COLOURS.get(_STYLES.get(grade, ""), "")
    if colour:
        lines[0] = f"\x1b[{colour}m{grade}\x1b[0m{lines[0][len(grade) :]}"
    for part in lines:
        line(part)


def wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """The lines of a paragraph."""
    joined = _COMMAND.sub(lambda found: found[0].replace(" ", _KEPT_BLANK), text)
    lines = textwrap.wrap(
        joined,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first) if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [part.replace(_KEPT_BLANK, " ") for part in lines] or [first.rstrip()]


def rows(pairs: Sequence[tuple[str, str]]) -> None:
    """Write names with their values, one below the other, the values aligned and wrapped. It raises what `line`
    raises.
    """
    width = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        paragraph(text, f"{name.ljust(width)}  ", " " * (width + 2))


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of an aligned table; the last column is not padded."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]


def complaint(sentence: str, hint: str) -> None:
    """Write what is wrong and what to do, for people."""
    note(f"appvss: {printable(sentence, _LINE_LIMIT)}")
    note(f"HINT: {printable(hint, _LINE_LIMIT)}")


def failure(error: AppvssError, *, as_json: bool) -> None:
    """Write an error to stderr, as lines or as a JSON object."""
    problems = list(error.problems) if isinstance(error, ConfigurationInvalid) else []
    if as_json:
        fields = {
            "name": error.name,
            "sentence": error.sentence,
            "hint": error.hint,
            "problems": problems,
            "exit_code": int(error.exit_code),
        }
        note(json.dumps({"message_type": "error", **fields}))
        return
    if len(problems) > 1:
        # One line for each, instead of all in one sentence.
        note(f"appvss: {printable(error.sentence.removesuffix(': ' + '; '.join(problems)), _LINE_LIMIT)}:")
        for problem in problems:
            note(f"  {printable(problem, _LINE_LIMIT)}")
        note(f"HINT: {error.hint}")
        return
    complaint(error.sentence, error.hint)


def bug(error: Exception, trace: str | None) -> None:
    """Write that the command itself failed."""
    name, text = type(error).__name__, printable(str(error))
    note(f"appvss: this is a bug in appvss: {name}{': ' if text else ''}{text}")
    if trace is None:
        note("HINT: Report it with what `appvss --debug` prints when it is called with the same arguments.")
    else:
        note(trace.rstrip())
        note("HINT: Report it with the lines above.")
