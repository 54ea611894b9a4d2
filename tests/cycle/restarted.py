"""A hold whose broker is killed, for the tests of those who take it up."""

from __future__ import annotations

from datetime import timedelta

from appvss.model.app import HoldClaim, Requirement
from appvss.model.journal import JournalEntry
from appvss.model.request import Request
from appvss.model.verdict import Verdict
from tests.cycle.support import World, seconds

GRACE = seconds(5)
GONE = seconds(2)
"""How long nobody is there."""


def held(source: str = "freebsd", *, watched: bool = False, required: bool = True) -> tuple[World, JournalEntry]:
    """`a` froze before `b`, which another policy may tolerate; all is held."""
    world = World(return_grace=GRACE)
    world.register("a", 10, incarnation="one", watched=watched)
    world.register("b", 20, Requirement.REQUIRED if required else Requirement.TOLERATED, incarnation="two")
    world.freeze(source)
    world.ack("a", "b")
    world.filesystems_froze(frozen=False)
    return world, world.entry()


def adopted(source: str = "freebsd", *, watched: bool = False, required: bool = True) -> World:
    """The broker was killed in the hold, and another one is there."""
    world, entry = held(source, watched=watched, required=required)
    world.sent.clear()
    world.restart(entry, GONE)
    return world


def come_back(world: World, *names: str, held: timedelta | None = None, cycle: str = "c1") -> None:
    """Apps come back with their hold unbroken."""
    incarnations = {"a": "one", "b": "two"}
    for name in names:
        claim = HoldClaim(cycle, GONE if held is None else held)
        world.register(name, 99, claim=claim, incarnation=incarnations.get(name, ""))


def finish(world: World) -> tuple[Request, Verdict]:
    """The requester asks for the thaw, and everybody does as asked."""
    thaw = world.thaw()
    return thaw, world.finish()
