"""What is done in one run of the fault matrix: pure, and the same for the same seed.

A plan is a phase of the cycle, a fault, and the process that it strikes; everything else about it (who asks, when
exactly, for how long) is drawn, too. `selection` is the short list of seeds that `make test` plays.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from enum import StrEnum
from functools import cache

from appvss.model.phase import Phase

PHASES = (
    Phase.IDLE,
    Phase.REQUESTED,
    Phase.PREPARING,
    Phase.PREPARED,
    Phase.FREEZING_APPS,
    Phase.CERTIFYING,
    Phase.FREEZING_FILESYSTEMS,
    Phase.HOLDING,
    Phase.THAWING_FILESYSTEMS,
    Phase.THAWING_APPS,
    Phase.ABORTING,
)
"""Every step of the cycle's table in which something can be struck; the other resting ones are as `idle` is."""
APPS = ("first", "second", "slow")
"""`first` and `second` freeze before `slow` does, and are thawed after it."""


class Fault(StrEnum):
    """What goes wrong."""

    NONE = "none"
    KILL = "kill"
    """SIGKILL."""
    STOP = "stop"
    """SIGSTOP, and after a while SIGCONT."""
    CLOSED_SOCKET = "closed_socket"
    """Its connections are cut, and for a while new ones, too."""
    SLOW = "slow"
    """What it says and hears is late, or it gets hardly any processor."""
    GARBAGE = "garbage"
    """Bytes that mean nothing, where it reads."""
    DISK_FULL = "disk_full"
    CLOCK_JUMP = "clock_jump"
    """Its wall clock jumps, there or back."""
    DEVICE_GONE = "device_gone"


class Victim(StrEnum):
    """Whom it strikes."""

    APP = "app"
    BROKER = "broker"
    SOURCE = "source"
    """The simulator as the host, or `appvss freeze`."""
    SUPERVISOR = "supervisor"
    """The broker, which is ended then and started again at once by its supervisor."""


class SourceName(StrEnum):
    """Who asks for the freeze."""

    FREEBSD = "freebsd"
    LOCAL = "local"


NOT_APPLICABLE = {
    (Fault.DEVICE_GONE, Victim.APP): "an app has no device",
    (Fault.DISK_FULL, SourceName.FREEBSD): "the simulated host writes nothing in the guest",
    (Phase.PREPARED, SourceName.LOCAL): "only a host asks in two steps",
    (Phase.IDLE, SourceName.LOCAL): "the source that is there before any request is the device",
    (Fault.DEVICE_GONE, SourceName.LOCAL): "a local requester has no device",
}
"""The pairs that mean nothing, and why. The second and fourth are about the source as the victim."""

_SHORT = timedelta(milliseconds=250)
_LONG = timedelta(seconds=8)
"""The hold limit of apps that a new broker must find in their hold, also on a machine that has much to do."""
_JUMPS = (-3600.0, -20.0, -1.0, 1.0, 20.0, 3600.0)


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    phase: Phase
    fault: Fault
    victim: Victim
    source: SourceName
    app: str
    """Which app, when the victim is one."""
    style: str
    """How `slow` is written: `async` or `threads`."""
    delay: timedelta
    """From the moment at which the phase was seen to the fault."""
    length: timedelta
    """How long a fault lasts that ends."""
    releases_first: bool
    """Whether what keeps the cycle in its phase is let go before the fault ends."""
    hold: timedelta
    """How long the requester holds."""
    hold_limit: timedelta
    """Of each app."""
    jump: timedelta
    """By how much the clock jumps."""
    ends_orderly: bool
    """Whether a supervised broker gets SIGTERM rather than SIGKILL."""

    @classmethod
    def of_seed(cls, seed: int) -> Plan:
        """The plan of a seed."""
        draw = random.Random(seed)
        phase = draw.choice(PHASES)
        if draw.random() < 0.08:
            fault, victim = Fault.NONE, Victim.BROKER
        else:
            fault, victim = draw.choice(sorted(pairs()))
        source = draw.choice(_sources(phase, fault, victim) or [SourceName.LOCAL])
        if not _sources(phase, fault, victim):
            phase = Phase.HOLDING
        plan = cls(
            seed=seed,
            phase=phase,
            fault=fault,
            victim=victim,
            source=source,
            app=draw.choice(APPS),
            style=draw.choice(("async", "threads")),
            delay=timedelta(milliseconds=draw.choice((0, draw.uniform(0, 5), draw.uniform(0, 30)))),
            length=timedelta(milliseconds=draw.choice((draw.uniform(20, 200), draw.uniform(200, 1500)))),
            releases_first=draw.random() < 0.5,
            hold=timedelta(milliseconds=draw.uniform(10, 150)),
            hold_limit=draw.choice((1, 2)) * timedelta(seconds=1),
            jump=timedelta(seconds=draw.choice(_JUMPS)),
            ends_orderly=fault is not Fault.KILL and draw.random() < 0.4,
        )
        if plan.is_adopted:
            plan = replace(plan, hold_limit=_LONG, length=min(plan.length, _SHORT))
        elif victim is Victim.SUPERVISOR:
            plan = replace(plan, hold_limit=2 * plan.hold_limit)
        # Whoever is kept at a gate for longer than its budget has failed, and that would be no fault of the fault.
        return replace(plan, length=min(plan.length, _SHORT)) if plan.leaves_the_cycle_alone else plan

    @property
    def triple(self) -> tuple[Phase, Fault, Victim]:
        """What the matrix is about."""
        return self.phase, self.fault, self.victim

    @property
    def is_adopted(self) -> bool:
        """Whether the broker is killed in the hold of a host and another one takes the cycle up: with the thaw the host
        must be told the truth, and the truth is that everybody held.
        """
        is_killed = self.fault is Fault.KILL and self.victim is Victim.SUPERVISOR
        return is_killed and self.phase is Phase.HOLDING and self.source is SourceName.FREEBSD

    @property
    def leaves_the_cycle_alone(self) -> bool:
        """Whether the cycle must succeed all the same: nothing of it was touched, or only what must not matter."""
        if self.fault is Fault.NONE:
            return self.phase is not Phase.ABORTING
        if self.phase in (Phase.IDLE, Phase.ABORTING):
            return self.phase is Phase.IDLE
        if self.fault is Fault.CLOCK_JUMP:
            # A host's request has the guest's wall clock in it: it may look as if it came too late.
            return self.victim is Victim.APP or (self.source is SourceName.LOCAL and self.victim is Victim.BROKER)
        return (self.fault, self.victim) in {(Fault.GARBAGE, Victim.BROKER), (Fault.DISK_FULL, Victim.SOURCE)}

    def __str__(self) -> str:
        def shown(value: object) -> str:
            return f"{value.total_seconds():.3f}s" if isinstance(value, timedelta) else str(value)

        return " ".join(f"{field.name}={shown(getattr(self, field.name))}" for field in fields(self))


def pairs() -> Iterator[tuple[Fault, Victim]]:
    """Every fault with every victim that it can strike."""
    for fault in Fault:
        for victim in Victim:
            if fault is not Fault.NONE and (fault, victim) not in NOT_APPLICABLE:
                yield fault, victim


def _sources(phase: Phase, fault: Fault, victim: Victim) -> list[SourceName]:
    """Who may ask in a run of these."""
    found = []
    for source in SourceName:
        reasons = [
            (fault, source) in NOT_APPLICABLE and (fault is Fault.DEVICE_GONE or victim is Victim.SOURCE),
            (phase, source) in NOT_APPLICABLE and (phase is Phase.PREPARED or victim is Victim.SOURCE),
        ]
        if not any(reasons):
            found.append(source)
    return found


def wanted_pairs() -> set[tuple[StrEnum, StrEnum]]:
    """What the short selection must contain: each victim struck in every phase, and by every fault."""
    by_phase = {(phase, victim) for phase in PHASES for victim in Victim}
    return by_phase | set(pairs())


@cache
def selection() -> tuple[int, ...]:
    """The shortest list of seeds that a greedy look finds in which every wanted pair is played."""
    missing = wanted_pairs()
    plans = [Plan.of_seed(seed) for seed in range(1, 4001)]
    chosen: list[int] = []
    while missing:
        best = max(plans, key=lambda plan: len(_pairs_of(plan) & missing))
        chosen.append(best.seed)
        missing -= _pairs_of(best)
    return tuple(chosen)


def _pairs_of(plan: Plan) -> set[tuple[StrEnum, StrEnum]]:
    return set() if plan.fault is Fault.NONE else {(plan.phase, plan.victim), (plan.fault, plan.victim)}
