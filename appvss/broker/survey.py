"""The plan of a freeze (`freezer/plan.py`), as administrators are told of it: paths as text that is safe to print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from appvss.freezer.mountinfo import shown
from appvss.freezer.plan import Plan
from appvss.model.app import AppId
from appvss.model.filesystem import (
    DeclaredPath,
    FilesystemApp,
    FilesystemSurvey,
    FilesystemWarning,
    LeftFilesystem,
    PlannedFilesystem,
    Scope,
)
from appvss.model.names import printable


def is_apart(plan: Plan, paths: Sequence[str]) -> bool:
    """Whether a freeze does not concern an app: it declares paths, all of which are there, and means none of them.

    One at which the broker sees nothing may have its files anywhere, such as in a container's volume.
    """
    places = _places(plan, paths)
    is_known = plan.places is not None and all(path in plan.places for path in paths)
    return bool(places) and is_known and all(one.device and one.is_there and not one.is_meant for one in places)


def _places(plan: Plan, paths: Sequence[str]) -> list[DeclaredPath]:
    return [place for path in paths for place in (plan.places or {}).get(path, ())]


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
        places = _places(plan, paths)
        told = tuple(printable(f"{place.path}: {place.reason}") for place in places if place.reason)
        apart = scope is Scope.NAMED and is_apart(plan, paths)
        is_seen = scope is Scope.ALL or any(place.is_there for place in places)
        if apart or told:
            lowers = not is_seen or any(place.lowers for place in places)
            yield FilesystemApp(str(app), apart, told, lowers and not apart)
