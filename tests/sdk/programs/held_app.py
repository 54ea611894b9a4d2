"""An app that says on stdout what its quiesce does. `held_app.py async|threads|forgotten`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import appvss


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@asynccontextmanager
async def quiesce(freeze: appvss.Freeze) -> AsyncIterator[None]:
    say(f"frozen {freeze.cycle}")
    try:
        yield
    finally:
        say(f"thawed {freeze.cycle}")


@contextmanager
def quiesce_in_thread(freeze: appvss.Freeze) -> Iterator[None]:
    say(f"frozen {freeze.cycle}")
    yield
    say(f"thawed {freeze.cycle}")


def main() -> None:
    match sys.argv[1]:
        case "async":
            asyncio.run(appvss.serve("app", quiesce))
        case "threads":
            with appvss.serve_in_thread("app", quiesce_in_thread):
                signal.pause()
        case "forgotten":
            appvss.serve_in_thread("app", quiesce_in_thread)
            sys.stdin.readline()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
