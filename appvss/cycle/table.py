"""The table: what each input does in each phase, and where that can lead.

The table is data. A pair that is not in it is refused by name. `Machine` runs the steps; the diagram in docs/ is drawn
from here; with checking on, a step that enters a phase outside its row's `leads_to` is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from appvss.cycle import adopting, apps, asking, ending, filesystems, holding, journaling, overlap, releasing
from appvss.cycle.inputs import (
    AppFroze,
    AppLeft,
    AppLostHold,
    AppReady,
    AppRegistered,
    AppThawed,
    AppVetoed,
    CheckRequested,
    CycleAdopted,
    DeadlinePassed,
    FilesystemsFailed,
    FilesystemsFrozen,
    FilesystemsLost,
    FilesystemsPrepared,
    FilesystemsThawed,
    FreezeRequested,
    Input,
    JournalFailed,
    JournalWritten,
    PathsInspected,
    RegistrationChanged,
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
ASKING = (Phase.REQUESTED, Phase.PREPARING, Phase.PREPARED)
"""Nothing is frozen yet."""
GATHERING = (Phase.FREEZING_APPS, Phase.CERTIFYING, Phase.FREEZING_FILESYSTEMS)
"""Apps are frozen; the requester has not been told "go on"."""
FROZEN = (*GATHERING, Phase.HOLDING)
THAWING = (Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS, Phase.ABORTING)
RUNNING = (*ASKING, *FROZEN, *THAWING)

_STAYS: frozenset[Phase] = frozenset()
_ABORTS = frozenset({Phase.ABORTING})
_ENDS = _ABORTS | {Phase.ABORTED}
"""As `_ABORTS`, but there may be nothing to undo."""
_UNDOES = (Phase.FREEZING_APPS, Phase.FREEZING_FILESYSTEMS)
"""Here there is always something to undo: an app that is asked, or file systems. Elsewhere it may be that no app takes
part; and a rehearsal freezes no file system.
"""
_ACKED = frozenset({Phase.CERTIFYING, Phase.HOLDING})
"""A rehearsal's hold needs neither certificate nor file systems."""
_WAVES = _ENDS | _ACKED
_FREEZES = _WAVES | {Phase.FREEZING_APPS}
_PREPARES = _FREEZES | {Phase.PREPARED}
_CERTIFIED = frozenset({Phase.FREEZING_FILESYSTEMS})
_CERTIFIES = _ENDS | _CERTIFIED
_HOLDS = _ABORTS | {Phase.HOLDING}
_THAW = frozenset({Phase.THAWING_FILESYSTEMS})
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


def _may_abort(phases: Iterable[Phase], input: type[Input], step: Step, others: frozenset[Phase] = _STAYS) -> None:
    """An input that can end the cycle early."""
    for phase in phases:
        _rows((phase,), input, step, others | (_ABORTS if phase in _UNDOES else _ENDS))


# Requests
_rows(RESTING, CheckRequested, asking.begin, _ENDS | {Phase.REQUESTED, Phase.PREPARING, Phase.PREPARED})
_may_abort((*ASKING, *GATHERING), CheckRequested, overlap.begin_instead)
_may_abort((Phase.HOLDING,), CheckRequested, overlap.begin_instead, _THAW)
_rows(THAWING, CheckRequested, overlap.begin_instead, _STAYS)
_rows(RESTING, FreezeRequested, asking.begin, _ENDS | {Phase.REQUESTED})
_may_abort((*ASKING, *GATHERING), FreezeRequested, overlap.begin_instead)
_may_abort((Phase.HOLDING,), FreezeRequested, overlap.begin_instead, _THAW)
_rows((Phase.PREPARED,), FreezeRequested, asking.begin_freeze_after_check, _ENDS | {Phase.REQUESTED})
_rows(THAWING, FreezeRequested, overlap.begin_instead, _STAYS)
_rows(RESTING, ThawRequested, releasing.thaw_in_rest, _STAYS)
_may_abort((*ASKING, *GATHERING), ThawRequested, releasing.give_up)
_rows((Phase.HOLDING,), ThawRequested, releasing.thaw, _THAW | _THAWS)
_rows(THAWING, ThawRequested, releasing.thaw_again, _STAYS)
_rows(RESTING, SourceLost, releasing.nothing_to_do, _STAYS)
_may_abort((*ASKING, *GATHERING), SourceLost, releasing.lose_source)
_may_abort((Phase.HOLDING,), SourceLost, releasing.lose_source, _THAW)
_rows(THAWING, SourceLost, releasing.forget_requests, _STAYS)
_rows(RESTING, ThawForced, releasing.nothing_to_do, _STAYS)
_may_abort((*ASKING, *FROZEN), ThawForced, releasing.force_thaw)
_rows(THAWING, ThawForced, releasing.force_thaw_again, _STAYS)
_rows((Phase.IDLE,), CycleAdopted, adopting.adopt, _ENDS | {Phase.FREEZING_APPS, Phase.HOLDING})
# The journal
_rows((*RESTING, *RUNNING), JournalWritten, journaling.late_journal, _STAYS)
_rows((*RESTING, *RUNNING), JournalFailed, journaling.late_journal, _STAYS)
_rows((Phase.REQUESTED,), JournalWritten, asking.journal_written, _FREEZES | {Phase.PREPARING})
_rows((Phase.REQUESTED,), JournalFailed, asking.journal_failed, _FREEZES | {Phase.PREPARING})
_rows((Phase.REQUESTED,), DeadlinePassed, asking.journal_deadline, _FREEZES | {Phase.PREPARING})
_rows((Phase.CERTIFYING,), JournalWritten, asking.journal_written, _CERTIFIED)
_rows((Phase.CERTIFYING,), JournalFailed, asking.journal_failed, _CERTIFIES)
_rows((Phase.CERTIFYING,), DeadlinePassed, asking.journal_deadline, _CERTIFIES)
# Apps come and go
_rows(RESTING, AppRegistered, apps.register, _STAYS)
_rows((*RESTING, *RUNNING), RegistrationChanged, apps.change_registration, _STAYS)
_rows(ASKING, AppRegistered, asking.join_while_preparing, _STAYS)
_rows((Phase.FREEZING_APPS,), AppRegistered, holding.return_or_join_late, _WAVES)
_rows((Phase.CERTIFYING,), AppRegistered, holding.return_or_join_late, _CERTIFIES)
_rows((Phase.FREEZING_FILESYSTEMS,), AppRegistered, holding.return_or_join_late, _HOLDS)
_may_abort((Phase.HOLDING,), AppRegistered, holding.return_or_join_late)
_last(AppRegistered, holding.return_or_watch)
_rows(RESTING, AppLeft, holding.leave, _STAYS)
_rows((Phase.PREPARING,), AppLeft, holding.leave_in_cycle, _PREPARES)
_rows((Phase.REQUESTED, Phase.PREPARED), AppLeft, holding.leave_prepared, _STAYS)
_rows((Phase.FREEZING_APPS,), AppLeft, holding.leave_in_cycle, _WAVES)
_may_abort((Phase.CERTIFYING, Phase.FREEZING_FILESYSTEMS, Phase.HOLDING), AppLeft, holding.leave_in_cycle)
_last(AppLeft, holding.leave_in_cycle)
# Apps answer
_rows((Phase.PREPARING,), AppReady, asking.app_ready, _PREPARES)
_rows(RESTING, AppReady, apps.late_answer, _STAYS)
_rows(RESTING, AppVetoed, apps.late_answer, _STAYS)
_rows(RESTING, AppFroze, apps.stray_ack, _STAYS)
_rows(RUNNING, AppFroze, asking.app_froze, _STAYS)
_rows((Phase.FREEZING_APPS,), AppFroze, asking.app_froze, _ACKED)
_rows((Phase.PREPARING,), AppVetoed, asking.app_vetoed, _PREPARES)
_rows((Phase.FREEZING_APPS,), AppVetoed, asking.app_vetoed, _WAVES)
_rows(RESTING, AppLostHold, ending.lost_in_rest, _STAYS)
_may_abort(FROZEN, AppLostHold, holding.lost_hold)
_last(AppLostHold, holding.lost_hold)
_rows(RESTING, AppThawed, ending.thawed_in_rest, _STAYS)
_rows(ASKING, AppThawed, holding.app_thawed, _STAYS)
_may_abort(FROZEN, AppThawed, holding.app_thawed)
_last(AppThawed, holding.app_thawed)
# File systems
_rows(
    (Phase.PREPARING,),
    FilesystemsPrepared,
    filesystems.filesystems_prepared,
    _ABORTS | {Phase.FREEZING_APPS, Phase.CERTIFYING},
)
_rows((Phase.PREPARING,), FilesystemsFailed, filesystems.filesystems_failed, _ABORTS)
_rows((Phase.FREEZING_FILESYSTEMS, Phase.HOLDING), FilesystemsLost, filesystems.filesystems_lost, _ABORTS)
_rows((*RESTING, *THAWING), FilesystemsLost, releasing.nothing_to_do, _STAYS)
_rows((Phase.FREEZING_FILESYSTEMS,), FilesystemsFrozen, filesystems.filesystems_frozen, frozenset({Phase.HOLDING}))
_rows((Phase.FREEZING_FILESYSTEMS,), FilesystemsFailed, filesystems.filesystems_failed, _ABORTS)
_rows((Phase.THAWING_FILESYSTEMS,), FilesystemsThawed, ending.filesystems_thawed, _THAWS)
_rows((Phase.ABORTING,), FilesystemsThawed, ending.filesystems_thawed, _ABORTED)
_rows((Phase.THAWING_FILESYSTEMS,), PathsInspected, ending.paths_inspected, _THAWS)
# Time; in rest none is measured
_rows((Phase.PREPARING,), DeadlinePassed, asking.prepare_deadline, _PREPARES)
_rows((Phase.PREPARED,), DeadlinePassed, asking.prepared_deadline, _ENDS)
_rows((Phase.FREEZING_APPS,), DeadlinePassed, asking.freeze_deadline, _WAVES)
_rows((Phase.FREEZING_FILESYSTEMS,), DeadlinePassed, filesystems.filesystems_deadline, _HOLDS)
_may_abort((Phase.HOLDING,), DeadlinePassed, holding.hold_deadline)
_rows((Phase.THAWING_FILESYSTEMS,), DeadlinePassed, ending.thaw_deadline, _THAWS)
_rows((Phase.THAWING_APPS,), DeadlinePassed, ending.thaw_deadline, _COMPLETES)
_rows((Phase.ABORTING,), DeadlinePassed, ending.thaw_deadline, _ABORTED)
