"""How an adapter's settings are declared: one dataclass feeds the agent's loader, its messages and the reference.

    @dataclass(frozen=True, slots=True)
    class Settings:
        dsn: str = setting("", "Where the server is, as libpq takes it.", example="host=/run/postgresql user=appvss")
        password: Secret = setting(NO_SECRET, "The password, by reference.")

The kinds that a setting may have: `str`, `bool`, `int`, `timedelta`, `Path`, `tuple[str, ...]`, a `StrEnum`, `Secret`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, Final


class Secret:
    """A text that is read when it is needed, and never shown.

    Args:
        read: gives the text; called for each connection, so that a rotated password is taken up.
        source: where it comes from, for people: `the file /etc/appvss/orders`.
    """

    __slots__ = ("_read", "source")

    def __init__(self, read: Callable[[], str], source: str) -> None:
        self._read = read
        self.source = source

    def reveal(self) -> str:
        """The text itself.

        Raises:
            SettingInvalid: it cannot be read.
        """
        return self._read()

    def __repr__(self) -> str:
        return f"<secret from {self.source}>"

    def __bool__(self) -> bool:
        return self is not NO_SECRET


NO_SECRET: Final = Secret(str, "nowhere")
"""There is none: the application asks for none."""


def setting(
    default: Any, meaning: str, *, example: object = None, is_needed: bool = False, in_sample: bool = False
) -> Any:
    """One setting: a dataclass field.

    Args:
        default: what is in force when it is not given.
        meaning: one or two whole sentences, for the reference.
        example: what the sample shows; None: the default.
        is_needed: whether a configuration without it is refused.
        in_sample: whether the sample has it in force, with its example: one of several ways of which one is needed.
    """
    return field(
        default=default,
        metadata={"meaning": meaning, "example": example, "is_needed": is_needed, "in_sample": in_sample},
    )
