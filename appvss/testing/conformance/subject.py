"""Whom the kit checks, and how long anything may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Subject:
    """The program that brings the app, what its user promises of it, and the lengths of time of the cases."""

    command: tuple[str, ...]
    """Program and arguments. No shell reads them. It finds the broker by `APPVSS_RUNTIME_DIRECTORY`."""
    app: str = ""
    """Which app, as `name` or `name[instance]`; empty: the program brings only one."""
    restart_with: tuple[str, ...] = ()
    """What is started in place of `command` after the program has ended; empty: `command` again."""
    writable: tuple[str, ...] = ()
    """Program and arguments that write to the application; exit code 0: the write went through. Empty: what depends on
    it is not played."""
    holds_writes: bool = False
    """Whether no write goes through in a hold; else the file-system freeze alone stops them."""
    environment: Mapping[str, str] | None = None
    """The program's environment, to which `APPVSS_RUNTIME_DIRECTORY` is added; None: this process's own."""
    attach_within: timedelta = timedelta(seconds=20)
    """From the start of the program to the app's welcome."""
    budget: timedelta = timedelta(seconds=10)
    """The time to prepare and to get quiet, where a case does not say it."""
    hold_limit: timedelta = timedelta(seconds=1)
    """The hold limit of the cases in which it passes. The app's own counts if it is shorter."""
    answer_within: timedelta = timedelta(seconds=5)
    """From a thaw or an abort to the answer."""
    margin: timedelta = timedelta(seconds=1)
    """How late a word may come after the moment in which it is due: for the machine, not for the app."""
    released_within: timedelta = timedelta(seconds=2)
    """From the end of a hold, however it ends, to the first write that goes through."""
    end_within: timedelta = timedelta(seconds=10)
    """From SIGTERM to the end of the program."""
    silence: timedelta = timedelta(milliseconds=300)
    """How long is listened for a word that must not come."""
    cycles: int = 20
    """How many cycles in a row show that nothing leaks."""
