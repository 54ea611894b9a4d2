"""An `appvss` command whose broker has a bug: its core fails when a local requester is told that everything is held.

running_broker(command=BROKEN_CORE)
"""

from __future__ import annotations

import sys

from appvss.broker import sources
from appvss.model.request import Answer
from appvss.sources.local import LocalSource

BROKEN_CORE = (sys.executable, "-m", "tests.support.broken_core")


class Buggy(LocalSource):
    """A local source that cannot give good news."""

    def answer(self, answer: Answer) -> None:
        if answer.go_on:
            raise ZeroDivisionError("a bug\nin two lines")
        super().answer(answer)


if __name__ == "__main__":
    from appvss.cli.main import main

    vars(sources)["LocalSource"] = Buggy  # a bug cannot be had in another way
    main()
