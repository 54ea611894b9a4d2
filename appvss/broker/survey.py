"""The plan of a freeze (`freezer/plan.py`), as administrators are told of it: paths as text that is safe to print."""

from __future__ import annotations

from appvss.freezer.mountinfo import shown
from appvss.freezer.plan import Plan
from appvss.model.filesystem import FilesystemSurvey, FilesystemWarning, LeftFilesystem, PlannedFilesystem, Scope


def survey_of(plan: Plan, scope: Scope) -> FilesystemSurvey:
    """What a freeze would do.

    Args:
        plan: what its freezer says.
        scope: what a requester would want.
    """
    return FilesystemSurvey(
        scope=scope,
        planned=tuple(
            PlannedFilesystem(
                path=shown(target.path),
                device=target.device,
                type=target.type,
                source=target.source,
                wave=number,
                others=tuple(map(shown, target.others)),
                lies_on=target.lies_on,
            )
            for number, wave in enumerate(plan.waves, 1)
            for target in wave
        ),
        left=tuple(
            LeftFilesystem(shown(one.path), one.device, one.type, one.outcome, one.reason, one.lowers)
            for one in plan.left
        ),
        warnings=tuple(
            FilesystemWarning(one.kind, shown(one.path), one.sentence, one.dead_locks) for one in plan.cautions
        ),
        veto=plan.veto,
    )
