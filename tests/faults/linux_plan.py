"""Who dies at which step of a Linux cycle: pure, and the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import StrEnum

from appvss.model.phase import Phase

STEPS = (
    Phase.PREPARING,
    Phase.FREEZING_APPS,
    Phase.CERTIFYING,
    Phase.FREEZING_FILESYSTEMS,
    Phase.HOLDING,
    Phase.THAWING_FILESYSTEMS,
    Phase.THAWING_APPS,
)
"""Every step between a host's freeze and the answer to its thaw."""
KINDS = ("ext4", "xfs", "btrfs")


class Death(StrEnum):
    """Who is killed or stopped."""

    BROKER_KILLED = "broker_killed"
    BROKER_STOPPED = "broker_stopped"
    GUARDIAN_KILLED = "guardian_killed"
    GUARDIAN_STOPPED = "guardian_stopped"
    BOTH_KILLED = "both_killed"
    """Broker and guardian."""
    ALL_KILLED = "all_killed"
    """The guardian's children, too; afterwards `appvss thaw --filesystems` is called."""

    @property
    def strikes_broker(self) -> bool:
        """Whether another broker is needed."""
        return self in (Death.BROKER_KILLED, Death.BOTH_KILLED, Death.ALL_KILLED)


class Slowness(StrEnum):
    """What makes a freeze or a thaw of file systems take time."""

    STACK = "stack"
    """One lies on another, which somebody else has frozen: the kernel finishes nothing of it until that is thawed."""
    BUSY = "busy"
    """There is much to write, and whoever is struck is struck somewhere within."""


@dataclass(frozen=True)
class DeathPlan:
    """One run."""

    seed: int
    step: Phase
    death: Death
    slowness: Slowness
    delay: timedelta
    """From the moment at which the step was seen to the strike."""
    stuck: timedelta
    """How much longer somebody else keeps frozen what another file system lies on."""
    kind: str
    """Of the file system that lies on none."""
    keeps_state_there: bool
    """Whether the broker keeps its state and its log on it."""
    thaws_at_once: bool
    """Whether the host asks for the thaw before another broker is there."""
    hold: timedelta
    """From the host's word that all are held to its thaw, when nobody keeps it."""

    @classmethod
    def of_seed(cls, seed: int, death: Death | None = None, step: Phase | None = None) -> DeathPlan:
        """The plan of a seed; with `death` or `step` given, all else is drawn."""
        draw = random.Random(seed)
        # Evenly, whatever the count: a hundred runs strike each step about as often.
        drawn_step, drawn_death = STEPS[seed % len(STEPS)], draw.choice(list(Death))
        step, slowness = step or drawn_step, draw.choice(list(Slowness))
        delays = [0, draw.uniform(0, 5), draw.uniform(0, 60)]
        if step is Phase.THAWING_FILESYSTEMS and slowness is Slowness.BUSY:
            delays.pop()  # it would be over
        return cls(
            seed=seed,
            step=step,
            death=death or drawn_death,
            slowness=slowness,
            delay=timedelta(milliseconds=draw.choice(delays)),
            stuck=timedelta(milliseconds=draw.choice((0, draw.uniform(0, 600)))),
            kind=draw.choice(KINDS),
            keeps_state_there=draw.random() < 0.3,
            thaws_at_once=draw.random() < 0.5,
            hold=timedelta(milliseconds=draw.uniform(0, 100)),
        )

    @property
    def is_stuck(self) -> bool:
        """Whether somebody else freezes in this run."""
        steps = (Phase.FREEZING_FILESYSTEMS, Phase.THAWING_FILESYSTEMS)
        return self.slowness is Slowness.STACK and self.step in steps

    def __str__(self) -> str:
        def shown(value: object) -> str:
            return f"{value.total_seconds():.3f}s" if isinstance(value, timedelta) else str(value)

        return " ".join(f"{field.name}={shown(getattr(self, field.name))}" for field in fields(self))
