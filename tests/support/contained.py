"""Keeps the file-system freezes of a test's broker within the test's own folder. A host's freeze takes everything that
is mounted (`Scope.ALL`): without this, that would be the machine's own disks, and those of the tests beside it.

    configuration = containing(folder)                    # the broker excludes every mount point outside of the folder
    command = (*apart(folder), *APPVSS)                   # it sees no mount of other tests
    await is_contained(broker, folder)                    # before every freeze: it says itself what it would freeze

All three are needed. The folder holds the test's loop disks (`loop_disks.py`); it lies in `/tmp`, as
`short_directory()` makes it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from appvss import contract
from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.v1 import admin_pb2
from tests.support.running_broker import BOUND, RunningBroker

_APART = Path(__file__).with_name("apart.py")


def outside(folder: Path) -> tuple[str, ...]:
    """Patterns (fnmatch) that match every absolute path but those below `folder`.

    A path is outside if the folder's begins with it, or if it differs from the folder's at some place: two patterns for
    each place.
    """
    below = f"{folder}/"
    assert re.fullmatch(r"/([a-z0-9_-]+/)+", below), f"{folder} would need escapes in a pattern"
    begun = (below[:place] for place in range(2, len(below)))
    other = (f"{below[:place]}[!{below[place]}]*" for place in range(1, len(below)))
    return ("/", *(path for path in begun if not path.endswith("/")), *other)


def containing(folder: Path, *others: str) -> str:
    """The configuration's part about file systems: nothing outside of `folder`, and none of `others`, is frozen.

    Args:
        folder: of the test.
        others: mount points below it.
    """
    patterns = "\n".join(f'    "{pattern}",' for pattern in (*outside(folder), *others))
    return f"[filesystems]\nexclude = [\n{patterns}\n]\n"


def apart(folder: Path) -> tuple[str, ...]:
    """What stands before a broker's command: a mount namespace without what other tests have mounted (`apart.py`)."""
    return (sys.executable, "-I", "-S", "-B", str(_APART), str(folder))


async def is_contained(broker: RunningBroker, folder: Path) -> list[str]:
    """Have the broker say what the freeze of a host would take; it must all lie below `folder`. In its order."""
    choice = contract.choice_message(FilesystemChoice(Scope.ALL))
    survey = await broker.admin.ListFilesystems(admin_pb2.ListFilesystemsRequest(choice=choice), timeout=BOUND)
    planned = [one.path for one in survey.planned]
    strange = [path for path in planned if not path.startswith(f"{folder}/")]
    assert not strange, f"a freeze would take {strange}, which are not this test's"
    return planned
