"""Which process this is, and which apps it serves: two of one name would push each other out for ever."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appvss.model.app import AppId
from appvss.model.errors import UsageError


class _Process:
    """What belongs to one process and must not be inherited by its children."""

    def __init__(self) -> None:
        self.incarnation = secrets.token_hex(16)
        self.served: set[tuple[Path, AppId]] = set()
        self.lock = threading.Lock()


_process = _Process()


def _after_fork_in_child() -> None:
    global _process
    _process = _Process()


os.register_at_fork(after_in_child=_after_fork_in_child)


def incarnation() -> str:
    """32 hexadecimal digits, chosen once per process; a forked child has its own."""
    return _process.incarnation


@contextmanager
def served(directory: Path, app: AppId) -> Iterator[None]:
    """Note that this process serves `app` at the broker in `directory`, until the context is left.

    Raises:
        UsageError: it does so already.
    """
    process = _process
    key = (directory, app)
    with process.lock:
        if key in process.served:
            raise UsageError(
                f"this process serves {app} already", "Close the other one first, or give each its own `instance`."
            )
        process.served.add(key)
    try:
        yield
    finally:
        with process.lock:
            process.served.discard(key)
