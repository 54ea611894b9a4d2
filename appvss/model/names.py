"""What an app may call itself, and how foreign text is made safe to show.

Everything here comes from the other side of a socket and ends in terminals and logs, so the limits are strict: an app's
name is a plain ASCII word, a reason is one printable line of bounded length (ARCHITECTURE section 8).
"""

from __future__ import annotations

import re

from appvss.model.errors import NameInvalid

NAME_LIMIT = 64
"""Longest name or instance, in characters."""
REASON_LIMIT = 500
"""Longest reason that is kept, in characters; a longer one is cut and ends in an ellipsis."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")
_HINT = (
    f"Use 1 to {NAME_LIMIT} characters: ASCII letters, digits and . _ : @ / + - , beginning with a letter or a digit."
)


def check_name(name: str, what: str = "app name") -> str:
    """`name` itself, if it may be used.

    Args:
        name: the text to check.
        what: what it is, for the sentence: "app name", "instance".

    Raises:
        NameInvalid: it is empty, too long, or has a character that is not allowed.
    """
    if not name:
        raise NameInvalid(f"the {what} is empty", _HINT)
    if len(name) > NAME_LIMIT:
        raise NameInvalid(f"the {what} {name[:20]!r}... has {len(name)} characters, over {NAME_LIMIT}", _HINT)
    if _NAME.fullmatch(name) is None:
        raise NameInvalid(f"the {what} {name!r} has a character that is not allowed", _HINT)
    return name


def printable(text: str, limit: int = REASON_LIMIT) -> str:
    """`text` as one line that is safe to write to a terminal: what is not printable becomes `?`, and it is cut at
    `limit`.
    """
    if len(text) <= limit and text.isprintable():
        return text.strip()
    cut = text[: limit + 1]
    line = "".join(c if c.isprintable() else (" " if c.isspace() else "?") for c in cut).strip()
    return line if len(cut) <= limit else line[: limit - 3] + "..."
