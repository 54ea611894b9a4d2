"""An app that vetoes now and then: as long as its job runs, it cannot be frozen.

python samples/vetoing_job.py /var/tmp/job.running

The job runs as long as that file is there. A veto is no failure of the app: it is the honest answer, with a reason that
the administrator reads and, here, the word that trying again may help.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import appvss


async def run(flag: Path) -> None:
    @asynccontextmanager
    async def quiesce(freeze: appvss.Freeze) -> AsyncIterator[dict[str, str]]:
        if await asyncio.to_thread(flag.exists):
            raise appvss.Veto("the nightly job is running", retryable=True)
        yield {"job": "none"}  # Nothing is written between two jobs, so there is nothing to stop.

    await appvss.serve("nightly-job", quiesce, order=40, paths=[str(flag.parent)])


def main() -> None:
    with suppress(KeyboardInterrupt):
        asyncio.run(run(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
