"""Apps: who they are, what they declare at registration, and how much their failure weighs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from appvss.model.grade import Grade
from appvss.model.names import check_name

DEFAULT_ORDER = 50
"""The order of an app that declares none: the middle, so that others fit before and after it."""
DEFAULT_HOLD_LIMIT = timedelta(seconds=60)
"""How long an app that declares nothing may stay quiet: VSS's own time between freeze and thaw (STYLE-ANCHORS section
5)."""


class Requirement(StrEnum):
    """What an app's failure does to the verdict."""

    REQUIRED = "required"
    """It fails the cycle."""
    TOLERATED = "tolerated"
    """The cycle goes on; the verdict names the failure."""
    IGNORED = "ignored"
    """The cycle goes on; only the list of outcomes shows it."""


@dataclass(frozen=True, slots=True, order=True)
class AppId:
    """One registered app. Two processes of the same name differ by instance.

    Raises:
        NameInvalid: name or instance may not be used (`model/names.py`).
    """

    name: str
    instance: str = ""
    _hash: int = field(init=False, repr=False, compare=False, default=0)
    """Worked out once: an app is looked up about ten times on its way through a cycle."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.instance:
            check_name(self.instance, "instance")
        object.__setattr__(self, "_hash", hash((self.name, self.instance)))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return f"{self.name}[{self.instance}]" if self.instance else self.name


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is behind a socket, as the kernel says (`SO_PEERCRED`), never as the app says."""

    uid: int
    gid: int
    pid: int


@dataclass(frozen=True, slots=True)
class HoldClaim:
    """What an app that registers says it still holds from before its stream broke."""

    cycle: str
    """The cycle whose freeze it is in."""
    held_for: timedelta
    """Since when, counted back from the moment of the claim by the app's own clock."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What an app declares when it registers. The administrator's configuration may override the requirement and
    order.
    """

    app: AppId
    order: int = DEFAULT_ORDER
    """Lower freezes first; all of one order freeze in parallel; thaw is the exact reverse."""
    after: tuple[str, ...] = ()
    """Names of apps that must be frozen before this one, whatever their order."""
    requirement: Requirement = Requirement.REQUIRED
    prepares: bool = False
    """Whether it wants to be asked to prepare."""
    freeze_timeout: timedelta | None = None
    """The time that it needs to get quiet. None: it takes what there is."""
    hold_limit: timedelta = DEFAULT_HOLD_LIMIT
    """The time that it may stay quiet, counted from its own ack."""
    claim: HoldClaim | None = None
    """A hold that it says has never been broken since before its stream did."""
    incarnation: str = ""
    """The process's own random word, kept over its reconnects (`proto/appvss/v1/app.proto`, Hello): who comes back with
    the same is the same process, also for a broker that is new. Empty: not known."""
    watch_paths: bool = False
    """Whether the broker looks for changes of the paths that it declared while it is held."""
    grade: Grade = Grade.APP
    """What a copy is worth, at most, that is taken in its hold: `app`; `fs` if it only stands still; `raw` if it
    promises nothing."""
    set_aside: str = ""
    """Why it is not asked to freeze, by the administrator's policy; empty: it takes part."""
