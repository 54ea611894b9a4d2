"""The SDK's own words, for the app's log: `logging.getLogger("appvss.sdk")`.

A handler may write to a file on the very disk that is frozen, and would then keep the thaw from being heard. So what is
said while the app may hold something is kept in memory and handed on afterwards.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import suppress
from typing import Final

from appvss.model.names import printable

LOG: Final = logging.getLogger("appvss.sdk")
LOG.addHandler(logging.NullHandler())
KEPT_LIMIT: Final = 64
"""How many sentences are kept; the oldest go first."""


class HeldBackLog:
    """Sentences about one app, in order, each with a level.

    Args:
        app: the app that they are about.
    """

    def __init__(self, app: str) -> None:
        self._app = app
        self._kept: deque[tuple[int, str]] = deque(maxlen=KEPT_LIMIT)

    def add(self, level: int, sentence: str) -> None:
        """Keep a sentence."""
        self._kept.append((level, sentence))

    def hand_on(self) -> None:
        """Give everything that is kept to the log. May block in the app's own handlers."""
        with suppress(IndexError):  # Two threads may empty it at the same time.
            while True:
                level, sentence = self._kept.popleft()
                LOG.log(level, "%s: %s", self._app, printable(sentence))
