"""Real child processes that open the devices: to be killed, or to hold what they have opened."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

OPEN_AND_WAIT = "import os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); print('open', flush=True); sys.stdin.read()"
OPEN_CLOSE_AND_WAIT = """\
import os, sys
os.close(os.open(sys.argv[1], os.O_RDONLY))
print('closed', flush=True)
sys.stdin.read()
"""
OPEN_IN_A_THREAD_AND_WAIT = """\
import os, sys, threading
opened = []
thread = threading.Thread(target=lambda: opened.append(os.open(sys.argv[1], os.O_RDONLY)))
thread.start()
thread.join()
print('open', flush=True)
sys.stdin.read()
"""
POLL_FOR_EVER = """\
import os, select, sys
poller = select.poll()
poller.register(os.open(sys.argv[1], os.O_RDONLY), select.POLLIN)
print('open', flush=True)
print(poller.poll(), flush=True)
"""
RUN_FOR_EVER = "print('running', flush=True)\nwhile True: pass"


@asynccontextmanager
async def child(program: str, *arguments: object) -> AsyncIterator[Process]:
    """A child that runs a program text and has said its first line. It is ended with the block."""
    words = [str(argument) for argument in arguments]
    process = await asyncio.create_subprocess_exec(sys.executable, "-ISc", program, *words, stdin=PIPE, stdout=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
