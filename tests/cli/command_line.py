"""Running `appvss` in tests: in this process for what is pure, in a process of its own for signals and commands."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sdk.broker_peer import BOUND

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-c", "from appvss.cli.main import main; main()")


Ask = Callable[..., "Awaitable[Done]"]
"""The fixture `ask`: runs a command against the test's peer."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON object on the last line of stdout."""
        document = json.loads(self.out.splitlines()[-1])
        assert isinstance(document, dict)
        return document


async def start(
    *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
) -> asyncio.subprocess.Process:
    """Start `appvss` in a process of its own."""
    return await asyncio.create_subprocess_exec(
        *PROGRAM,
        *arguments,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        **{"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE, **options},
    )


async def ended(process: asyncio.subprocess.Process) -> Done:
    """Wait for its end; kill it and fail when that does not come."""
    try:
        out, err = await asyncio.wait_for(process.communicate(), BOUND)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, (out or b"").decode(), (err or b"").decode())


async def run_apart(*arguments: str, environment: Mapping[str, str] | None = None, **options: Any) -> Done:
    """Run `appvss` in a process of its own to its end."""
    return await ended(await start(*arguments, environment=environment, **options))
