"""The table: what each input does in each phase, and where that can lead.

The table is data. A pair that is not in it is refused by name. `Machine` runs the steps; the diagram in docs/ is drawn
from here; with checking on, a step that enters a phase outside its row's `leads_to` is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from appvss.cycle import asking, ending, holding
from appvss.cycle.inputs import (
    AppFroze,
    AppLeft,
    AppLostHold,
    AppReady,
    AppRegistered,
    AppThawed,
    AppVetoed,
    CheckRequested,
    DeadlinePassed,
    FilesystemsFailed,
    FilesystemsFrozen,
    FilesystemsThawed,
    FreezeRequested,
    Input,
    SourceLost,
    ThawForced,
    ThawRequested,
)
from appvss.cycle.state import State
from appvss.model.phase import Phase

Step = Callable[[State, Any], None]


@dataclass(frozen=True, slots=True)
class Row:
    """What one input does in one phase."""

    step: Step
    leads_to: frozenset[Phase]
    """Every phase that the step may enter, those passed through included. Empty: it never leaves the phase."""


RESTING = (Phase.IDLE, Phase.COMPLETED, Phase.ABORTED)
ASKING = (Phase.PREPARING, Phase.PREPARED)
"""Nothing is frozen yet."""
FROZEN = (Phase.FREEZING_APPS, Phase.FREEZING_FILESYSTEMS, Phase.HOLDING)
THAWING = (Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS, Phase.ABORTING)
RUNNING = (*ASKING, *FROZEN, *THAWING)

_STAYS: frozenset[Phase] = frozenset()
_ABORTS = frozenset({Phase.ABORTING})
_ENDS = _ABORTS | {Phase.ABORTED}
"""As `_ABORTS`, but there may be nothing to undo."""
_FREEZES = _ENDS | {Phase.FREEZING_APPS, Phase.FREEZING_FILESYSTEMS}
_PREPARES = _FREEZES | {Phase.PREPARED}
_WAVES = _ENDS | {Phase.FREEZING_FILESYSTEMS}
_HOLDS = _ABORTS | {Phase.HOLDING}
_COMPLETES = frozenset({Phase.COMPLETED})
_THAWS = _COMPLETES | {Phase.THAWING_APPS}
_ABORTED = frozenset({Phase.ABORTED})

TABLE: dict[tuple[Phase, type[Input]], Row] = {}


def _rows(phases: Iterable[Phase], input: type[Input], step: Step, leads_to: frozenset[Phase]) -> None:
    for phase in phases:
        TABLE[phase, input] = Row(step, leads_to)


def _last(input: type[Input], step: Step) -> None:
    """An input about one app while all are thawed: that app may be the last one."""
    _rows((Phase.THAWING_FILESYSTEMS,), input, step, _STAYS)
    _rows((Phase.THAWING_APPS,), input, step, _COMPLETES)
    _rows((Phase.ABORTING,), input, step, _ABORTED)


# Requests
_rows(RESTING, CheckRequested, asking.begin, _ENDS | {Phase.REQUESTED, Phase.PREPARING, Phase.PREPARED})
_rows(ASKING, CheckRequested, asking.begin_instead, _ENDS)
_rows(FROZEN, CheckRequested, asking.begin_instead, _ABORTS)
_rows(THAWING, CheckRequested, asking.begin_instead, _STAYS)
_rows(RESTING, FreezeRequested, asking.begin, _FREEZES | {Phase.REQUESTED, Phase.PREPARING})
_rows((Phase.PREPARING,), FreezeRequested, asking.begin_instead, _ENDS)
_rows((Phase.PREPARED,), FreezeRequested, asking.begin_freeze_after_check, _FREEZES)
_rows(FROZEN, FreezeRequested, asking.begin_instead, _ABORTS)
_rows(THAWING, FreezeRequested, asking.begin_instead, _STAYS)
_rows(RESTING, ThawRequested, ending.thaw_in_rest, _STAYS)
_rows(ASKING, ThawRequested, ending.give_up, _ENDS)
_rows((Phase.FREEZING_APPS, Phase.FREEZING_FILESYSTEMS), ThawRequested, ending.give_up, _ABORTS)
_rows((Phase.HOLDING,), ThawRequested, ending.thaw, frozenset({Phase.THAWING_FILESYSTEMS}))
_rows(THAWING, ThawRequested, ending.thaw_again, _STAYS)
_rows(RESTING, SourceLost, ending.nothing_to_do, _STAYS)
_rows(ASKING, SourceLost, ending.lose_source, _ENDS)
_rows(FROZEN, SourceLost, ending.lose_source, _ABORTS)
_rows(THAWING, SourceLost, ending.forget_requests, _STAYS)
_rows(RESTING, ThawForced, ending.nothing_to_do, _STAYS)
_rows(ASKING, ThawForced, ending.force_thaw, _ENDS)
_rows(FROZEN, ThawForced, ending.force_thaw, _ABORTS)
_rows(THAWING, ThawForced, ending.force_thaw_again, _STAYS)
# Apps come and go
_rows(RESTING, AppRegistered, asking.register, _STAYS)
_rows(ASKING, AppRegistered, asking.join_while_preparing, _STAYS)
_rows((Phase.FREEZING_APPS,), AppRegistered, holding.return_or_join_late, _WAVES)
_rows((Phase.FREEZING_FILESYSTEMS,), AppRegistered, holding.return_or_join_late, _HOLDS)
_rows((Phase.HOLDING,), AppRegistered, holding.return_or_join_late, _ABORTS)
_last(AppRegistered, holding.return_or_watch)
_rows(RESTING, AppLeft, holding.leave, _STAYS)
_rows((Phase.PREPARING,), AppLeft, holding.leave_in_cycle, _PREPARES)
_rows((Phase.PREPARED,), AppLeft, holding.leave_prepared, _STAYS)
_rows((Phase.FREEZING_APPS,), AppLeft, holding.leave_in_cycle, _WAVES)
_rows((Phase.FREEZING_FILESYSTEMS, Phase.HOLDING), AppLeft, holding.leave_in_cycle, _ABORTS)
_last(AppLeft, holding.leave_in_cycle)
# Apps answer
_rows((Phase.PREPARING,), AppReady, asking.app_ready, _ENDS | {Phase.PREPARED, Phase.FREEZING_APPS})
_rows(RESTING, AppReady, asking.late_answer, _STAYS)
_rows(RESTING, AppVetoed, asking.late_answer, _STAYS)
_rows(RESTING, AppFroze, asking.stray_ack, _STAYS)
_rows(RUNNING, AppFroze, asking.app_froze, _STAYS)
_rows((Phase.FREEZING_APPS,), AppFroze, asking.app_froze, frozenset({Phase.FREEZING_FILESYSTEMS}))
_rows((Phase.PREPARING,), AppVetoed, asking.app_vetoed, _PREPARES)
_rows((Phase.FREEZING_APPS,), AppVetoed, asking.app_vetoed, _WAVES)
_rows(RESTING, AppLostHold, ending.lost_in_rest, _STAYS)
_rows(FROZEN, AppLostHold, holding.lost_hold, _ABORTS)
_last(AppLostHold, holding.lost_hold)
_rows(RESTING, AppThawed, ending.thawed_in_rest, _STAYS)
_rows(ASKING, AppThawed, holding.app_thawed, _STAYS)
_rows(FROZEN, AppThawed, holding.app_thawed, _ABORTS)
_last(AppThawed, holding.app_thawed)
# File systems
_rows((Phase.FREEZING_FILESYSTEMS,), FilesystemsFrozen, asking.filesystems_frozen, frozenset({Phase.HOLDING}))
_rows((Phase.FREEZING_FILESYSTEMS,), FilesystemsFailed, asking.filesystems_failed, _ABORTS)
_rows((Phase.THAWING_FILESYSTEMS,), FilesystemsThawed, ending.filesystems_thawed, _THAWS)
_rows((Phase.ABORTING,), FilesystemsThawed, ending.filesystems_thawed, _ABORTED)
# Time; in rest none is measured
_rows((Phase.PREPARING,), DeadlinePassed, asking.prepare_deadline, _PREPARES)
_rows((Phase.PREPARED,), DeadlinePassed, asking.prepared_deadline, _ENDS)
_rows((Phase.FREEZING_APPS,), DeadlinePassed, asking.freeze_deadline, _WAVES)
_rows((Phase.FREEZING_FILESYSTEMS,), DeadlinePassed, asking.filesystems_deadline, _HOLDS)
_rows((Phase.HOLDING,), DeadlinePassed, holding.hold_deadline, _ABORTS)
_rows((Phase.THAWING_FILESYSTEMS,), DeadlinePassed, ending.thaw_deadline, _THAWS)
_rows((Phase.THAWING_APPS,), DeadlinePassed, ending.thaw_deadline, _COMPLETES)
_rows((Phase.ABORTING,), DeadlinePassed, ending.thaw_deadline, _ABORTED)
