"""What the agent's configuration says about a program of one's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from appvss.adapters.errors import SettingInvalid
from appvss.adapters.settings import setting

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*")


class Worth(StrEnum):
    """What a copy is worth that is taken while the program says that it holds."""

    APP = "app"
    """The program flushes what the application had in its memory, and keeps writers out."""
    FS = "fs"
    """It flushes nothing: a pause, a note in a log."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Either `command`, or `freeze` and `thaw`."""

    command: tuple[str, ...] = setting(
        (),
        "A program that runs through the whole hold, and its arguments; it is spoken to in lines"
        " (docs/engines/exec.md). The way to hold a lock of a database session.",
        example=("/usr/local/libexec/orders-hook",),
        in_sample=True,
    )
    freeze: tuple[str, ...] = setting(
        (), "A command that makes the application quiet, and ends. It cannot hold a lock of a database session."
    )
    thaw: tuple[str, ...] = setting(
        (),
        "The command that lets go of what `freeze` has left held. It runs always, also after a `freeze` that failed,"
        " and may run twice.",
    )
    prepare: tuple[str, ...] = setting((), "A command for the slow work ahead, beside `freeze` and `thaw`.")
    volumes: tuple[str, ...] = setting((), "The folders that must be in the snapshot.", example=("/srv/orders",))
    environment: tuple[str, ...] = setting(
        (), "What the program finds in its environment besides what is always there, as NAME=value. No secrets."
    )
    thaw_limit: timedelta = setting(timedelta(seconds=30), "How long letting go may take.")
    grace: timedelta = setting(
        timedelta(seconds=5), "How long a program that has to end has, before SIGTERM and again before SIGKILL."
    )
    worth: Worth = setting(Worth.APP, "What a copy is worth: `app`, or `fs` if the program flushes nothing.")

    @property
    def is_pair(self) -> bool:
        """Whether it is `freeze` and `thaw`."""
        return bool(self.freeze)

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            SettingInvalid: it does not.
        """
        if bool(self.command) == bool(self.freeze or self.thaw or self.prepare):
            raise SettingInvalid(
                "a program is named neither or both ways", "Write either `command`, or `freeze` and `thaw`."
            )
        if bool(self.freeze) != bool(self.thaw) or (self.prepare and not self.freeze):
            raise SettingInvalid("`freeze` and `thaw` belong together", "Write both, or `command` instead.")
        for each in self.environment:
            if _VARIABLE.fullmatch(each) is None:
                raise SettingInvalid(
                    f"the environment has {each.partition('=')[0]!r}, which is not of the form NAME=value",
                    'Write environment = ["NAME=value"].',
                )
        for each in (*self.command, *self.freeze, *self.thaw, *self.prepare):
            if "\0" in each:
                raise SettingInvalid("an argument has a zero byte in it", "Write it without.")
