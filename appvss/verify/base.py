"""What a verifier is: one per engine, in a file of the engine's name, with a function `verify(copy, evidence)`.

It looks at the copy before anything is started (marker, position: the positive proof of grade `app`), starts a private
server on it (loopback or a socket in a private folder, another port, replication off, links re-pointed; never the live
server), classifies what its recovery log says, runs the engine's own check, and stops it. Judge by the first answer:
a check that repairs is none (facts/database-quiesce.md sections 9 and 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appvss.model.grade import Grade


@dataclass(frozen=True, slots=True)
class Copy:
    """A private copy of an application's files, which may be changed."""

    files: Mapping[Path, Path]
    """Where what lay below a path of the machine lies now: absolute path -> folder of the copy; the longest that is a
    prefix counts. `/` alone: the whole machine's tree."""
    work: Path
    """An empty folder of the verifier's own, for sockets, logs and settings; mode 0711 below `/tmp`."""

    def locate(self, path: str | Path) -> Path:
        """Where a path of the machine lies in the copy.

        A link on the way leads to where it led on the machine, and so does a `..` in evidence that somebody has
        changed: to the live server's own files. Neither is given.

        Raises:
            FileNotFoundError: no part of the copy carries it, or it leads out of the copy.
        """
        wanted = Path(path)
        for place in (wanted, *wanted.parents):
            if place in self.files:
                found = self.files[place] / wanted.relative_to(place)
                if not self.has(found):
                    raise FileNotFoundError(f"{wanted} leads out of the copy")
                return found
        raise FileNotFoundError(f"the copy has nothing of {wanted}")

    def has(self, path: Path) -> bool:
        """Whether a path of now is one of the copy's, with all links followed."""
        found = path.resolve()
        return any(found.is_relative_to(folder.resolve()) for folder in self.files.values())


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a verifier has looked at."""

    name: str
    """A stable word: `marker`, `position`, `recovery`, `check`, `start`, `setting`."""
    passed: bool
    sentence: str
    """One lower-case sentence: what was found, with the figures."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a copy has earned."""

    engine: str
    version: str
    grade: Grade
    """`raw`: it did not start, or its own check failed. `fs`: it started and is in order, but nothing shows that it
    was taken in the cycle's hold. `app`: the marker was found before the start, and nothing speaks against it.
    `app-verified`: that, and the started copy passed the engine's own check."""
    findings: tuple[Finding, ...]
    """In the order in which they were made."""
