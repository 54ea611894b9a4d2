"""One look at the machine, and the plan that follows from it: with this each freeze begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from appvss.freezer.mountinfo import read
from appvss.freezer.plan import FilesystemSettings, Plan, plan
from appvss.freezer.surroundings import look_around
from appvss.model.filesystem import FilesystemChoice, Scope


def survey(
    choice: FilesystemChoice, declared: Sequence[str], *, own: Mapping[str, str], settings: FilesystemSettings
) -> Plan:
    """What a freeze of this choice would do to the file systems of this machine as it is now.

    May take some milliseconds, and the answer of a disk: not on the event loop.

    Args:
        choice: what the requester wants.
        declared: the paths that apps declare.
        own: what the broker has -> where it lies, as in `{"state directory": "/var/lib/appvss"}`.
        settings: the administrator's word.

    Raises:
        PlanRefused: a named path is not absolute or no mount point, or its file system cannot be frozen.
        OSError: the mount table cannot be read.
    """
    if choice.scope is Scope.NONE:
        return Plan()
    mounts = read()
    return plan(choice, declared, mounts, look_around(mounts, (*choice.paths, *declared), own), settings)
