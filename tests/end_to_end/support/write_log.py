"""Who wrote when: what an `observed_app` has noted, read by somebody else. All instants are nanoseconds of
CLOCK_MONOTONIC, all lengths nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

SECOND = 1_000_000_000
MARGIN = SECOND
"""How much later than its limit an app may write again: what a busy machine takes to wake a process."""


@dataclass(frozen=True)
class Write:
    """One record."""

    began: int
    ended: int


@dataclass(frozen=True)
class Quiet:
    """One time in which the app did not write."""

    since: int
    budget: int
    hold_limit: int
    frozen: int = 0
    """When it was about to ack; 0: it never was."""
    released: int = 0
    """0: it was killed, or it is quiet still."""

    @property
    def limit(self) -> int:
        """When it must write again."""
        end = self.since + self.budget if not self.frozen else self.frozen + self.hold_limit
        return end + MARGIN


@dataclass(frozen=True)
class WriteLog:
    """The whole log of one app."""

    name: str
    writes: tuple[Write, ...]
    quiets: tuple[Quiet, ...]

    @classmethod
    def read(cls, path: Path) -> WriteLog:
        writes: list[Write] = []
        quiets: list[Quiet] = []
        for line in path.read_text().splitlines():
            what, *words = line.split()
            at, *more = (int(word) for word in words)
            match what:
                case "write":
                    writes.append(Write(at, *more))
                case "quiet":
                    quiets.append(Quiet(at, *more))
                case "frozen":
                    quiets[-1] = replace(quiets[-1], frozen=at)
                case "released":
                    quiets[-1] = replace(quiets[-1], released=at)
                case _:
                    raise AssertionError(f"{path} has the line {line!r}")
        return cls(path.stem, tuple(writes), tuple(quiets))

    def between(self, start: int, end: int) -> list[Write]:
        """The writes that were under way in this time, at least for a moment."""
        return [write for write in self.writes if write.ended >= start and write.began <= end]

    def written_in_hold(self, acked: int, thaw_asked: int) -> str:
        """What speaks against a hold from the ack that a requester has heard to the thaw that it has asked for; empty:
        nothing does.

        Args:
            acked: when the requester was told that everything is held, or later.
            thaw_asked: when the requester asked for the thaw, or earlier.
        """
        frozen = max((quiet.frozen for quiet in self.quiets if quiet.frozen <= acked), default=0)
        if not frozen:
            return f"{self.name} was not frozen when the requester was told so"
        writes = self.between(frozen, thaw_asked)
        return f"{self.name} wrote {len(writes)} times in the hold" if writes else ""

    def overstayed(self, now: int, since: int = 0) -> Iterator[str]:
        """Each time that the app was quiet for longer than it may be.

        Args:
            now: until when its log is complete.
            since: what began before that is not looked at.
        """
        for quiet in self.quiets:
            if quiet.since < since:
                continue
            wrote = min((write.began for write in self.writes if write.began > quiet.since), default=now)
            if wrote > quiet.limit:
                late = (wrote - quiet.limit + MARGIN) / SECOND
                yield f"{self.name} wrote again {late:.2f} s after its limit: {quiet}"
