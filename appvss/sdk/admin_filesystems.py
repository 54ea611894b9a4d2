"""What a broker tells an administrator of the file systems, as values. The meaning of every field stands in
`proto/appvss/v1/admin.proto`. All text is printable.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from appvss import contract
from appvss.model.filesystem import (
    FilesystemApp,
    FilesystemSurvey,
    FilesystemWarning,
    LeftFilesystem,
    PlannedFilesystem,
)
from appvss.model.names import printable
from appvss.sdk.admin_cycles import WORD_LIMIT
from appvss.v1 import admin_pb2

_PATH_LIMIT: Final = contract.PATH_LENGTH_LIMIT


@dataclass(frozen=True, slots=True)
class FreezerStatus:
    """Who freezes the file systems, and how it does."""

    mode: str
    """`none`, `linux`."""
    condition: str
    """`off`, `ready`, `holding`, `hanging`, `lost`."""
    guardian_pid: int | None = None
    """The process that thaws when the broker cannot; None: there is none."""
    frozen: tuple[tuple[str, timedelta], ...] = ()
    """What is frozen now, by its mount point, and for how long."""
    hanging: tuple[str, ...] = ()
    """Mount points whose freeze or thaw hangs in the kernel."""
    detail: str = ""
    """What is wrong and what to do; empty: nothing."""


def freezer_of(message: admin_pb2.Freezer) -> FreezerStatus:
    """How a freezer does, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return FreezerStatus(
        mode=printable(message.mode, WORD_LIMIT),
        condition=printable(message.condition, WORD_LIMIT),
        guardian_pid=message.guardian_pid or None,
        frozen=tuple((printable(one.path, _PATH_LIMIT), contract.length_of(one.since)) for one in message.frozen),
        hanging=tuple(printable(path, _PATH_LIMIT) for path in message.hanging),
        detail=printable(message.detail),
    )


def survey_of(message: admin_pb2.ListFilesystemsResponse) -> FilesystemSurvey:
    """What a freeze would do, from the wire."""
    return FilesystemSurvey(
        scope=contract.scope_of(message.scope),
        planned=tuple(_planned_of(one) for one in message.planned),
        left=tuple(_left_of(one) for one in message.left),
        warnings=tuple(
            FilesystemWarning(
                kind=printable(one.kind, WORD_LIMIT),
                path=printable(one.path, _PATH_LIMIT),
                sentence=printable(one.sentence),
                dead_locks=one.dead_locks,
            )
            for one in message.warnings
        ),
        veto=printable(message.veto),
        apps=tuple(
            FilesystemApp(
                printable(one.app, WORD_LIMIT), one.apart, tuple(printable(path) for path in one.paths), one.lowers
            )
            for one in message.apps
        ),
    )


def _planned_of(message: admin_pb2.PlannedFilesystem) -> PlannedFilesystem:
    return PlannedFilesystem(
        path=printable(message.path, _PATH_LIMIT),
        device=printable(message.device, contract.DEVICE_LIMIT),
        type=printable(message.type, contract.FILESYSTEM_TYPE_LIMIT),
        source=printable(message.source, _PATH_LIMIT),
        wave=message.wave,
        others=tuple(printable(path, _PATH_LIMIT) for path in message.others),
        lies_on=tuple(printable(device, contract.DEVICE_LIMIT) for device in message.lies_on),
    )


def _left_of(message: admin_pb2.LeftFilesystem) -> LeftFilesystem:
    return LeftFilesystem(
        path=printable(message.path, _PATH_LIMIT),
        device=printable(message.device, contract.DEVICE_LIMIT),
        type=printable(message.type, contract.FILESYSTEM_TYPE_LIMIT),
        outcome=contract.filesystem_outcome_of(message.outcome),
        reason=printable(message.reason),
        lowers=message.lowers,
    )
