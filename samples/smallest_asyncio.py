"""The smallest app on an event loop. It writes one line after the other to a file, and stops while it is frozen.

python samples/smallest_asyncio.py /var/tmp/lines.txt
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TextIO

import appvss


async def write_lines(file: TextIO, writing: asyncio.Lock) -> None:
    number = 0
    while True:
        async with writing:
            number += 1
            file.write(f"{number}\n")
            file.flush()
        await asyncio.sleep(0.002)


async def run(file: TextIO) -> None:
    writing = asyncio.Lock()

    @asynccontextmanager
    async def quiesce(freeze: appvss.Freeze) -> AsyncIterator[dict[str, int]]:
        async with writing:  # No line is begun from here on, and none is half written.
            await asyncio.to_thread(os.fsync, file.fileno())
            yield {"bytes": os.fstat(file.fileno()).st_size}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write_lines(file, writing))
        tasks.create_task(appvss.serve("smallest-asyncio", quiesce, paths=[file.name]))


def main() -> None:
    with open(sys.argv[1], "w") as file, suppress(KeyboardInterrupt):
        asyncio.run(run(file))


if __name__ == "__main__":
    main()
