"""The plan of a freeze (`freezer/plan.py`), as administrators are told of it: paths as text that is safe to print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from appvss.freezer.mountinfo import shown
from appvss.freezer.plan import Plan
from appvss.model.app import AppId
from appvss.model.filesystem import (
    FilesystemApp,
    FilesystemSurvey,
    FilesystemWarning,
    LeftFilesystem,
    PlannedFilesystem,
    Scope,
)
from appvss.model.names import printable


def is_apart(plan: Plan, paths: Sequence[str]) -> bool:
    """Whether a freeze does not concern an app: it declares paths, all of which are found, and means none of them."""
    places = [plan.places.get(path) for path in paths] if plan.places is not None else []
    return bool(places) and all(place is not None and place.device and not place.is_meant for place in places)


def survey_of(plan: Plan, scope: Scope, declared: Mapping[AppId, Sequence[str]]) -> FilesystemSurvey:
    """What a freeze would do.

    Args:
        plan: what its freezer says.
        scope: what a requester would want.
        declared: the paths that each app declares.
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
        apps=tuple(_apps(plan, scope, declared)),
    )


def _apps(plan: Plan, scope: Scope, declared: Mapping[AppId, Sequence[str]]) -> Iterator[FilesystemApp]:
    for app, paths in sorted(declared.items()):
        places = [place for path in paths if plan.places is not None and (place := plan.places.get(path))]
        told = tuple(printable(f"{place.path}: {place.reason}") for place in places if place.reason)
        apart = scope is Scope.NAMED and is_apart(plan, paths)
        if apart or told:
            yield FilesystemApp(str(app), apart, told, any(place.lowers for place in places) and not apart)
