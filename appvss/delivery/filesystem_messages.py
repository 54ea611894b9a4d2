"""What a freeze would do to the file systems, and how their freezer does, as answers of `admin.proto`."""

from __future__ import annotations

from appvss import contract
from appvss.model.filesystem import FilesystemSurvey, FreezerState
from appvss.model.instant import Instant
from appvss.v1 import admin_pb2


def survey_message(survey: FilesystemSurvey) -> admin_pb2.ListFilesystemsResponse:
    """What a freeze would do, for the wire."""
    return admin_pb2.ListFilesystemsResponse(
        scope=contract.scope_message(survey.scope),
        planned=[
            admin_pb2.PlannedFilesystem(
                path=one.path,
                device=one.device,
                type=one.type,
                source=one.source,
                wave=one.wave,
                others=one.others,
                lies_on=one.lies_on,
            )
            for one in survey.planned
        ],
        left=[
            admin_pb2.LeftFilesystem(
                path=one.path,
                device=one.device,
                type=one.type,
                outcome=contract.filesystem_outcome_message(one.outcome),
                reason=one.reason,
                lowers=one.lowers,
            )
            for one in survey.left
        ],
        warnings=[
            admin_pb2.FilesystemWarning(kind=one.kind, path=one.path, sentence=one.sentence, dead_locks=one.dead_locks)
            for one in survey.warnings
        ],
        veto=survey.veto,
        apps=[
            admin_pb2.FilesystemApp(app=one.app, apart=one.is_apart, paths=one.paths, lowers=one.lowers)
            for one in survey.apps
        ],
    )


def freezer_message(state: FreezerState, now: Instant) -> admin_pb2.Freezer:
    """How a freezer does, for the wire.

    Args:
        state: as it is at this moment.
        now: the monotonic clock, for lengths of time.
    """
    return admin_pb2.Freezer(
        mode=state.mode,
        condition=state.condition,
        guardian_pid=state.guardian_pid or 0,
        frozen=[
            admin_pb2.FrozenFilesystem(path=path, since=contract.duration_message(now - since))
            for path, since in state.frozen
        ],
        hanging=state.hanging,
        detail=state.detail,
    )
