"""What the triples found, kept so that docs/databases.md can be made of it (`docs/generate_databases.py`).

Each result is one line of JSON in a file of the process's own, in the folder that `APPVSS_RESULTS` names, or else in
`.results` of this repository. A result that contradicts what the page says fails its test.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from appvss.model.grade import Grade
from docs import generate_databases
from tests.databases.support.triple import Way
from tests.support.running_broker import ROOT


@dataclass(frozen=True)
class Result:
    """One copy that was taken under load and looked at."""

    engine: str
    """Its word in `appvss.adapters.ENGINES`."""
    version: str
    """Of the server, such as `15.18`."""
    setting: str
    """What makes the difference, such as `synchronous_commit=off`; in the words of section 3 of the facts."""
    way: Way
    acknowledged: int
    """How many writes had been acknowledged before the freeze."""
    lost: int | None
    """How many of these are not in the copy; None: the copy did not start, or cannot be read."""
    recipe: str = ""
    """The evidence's `recipe`; empty with the other ways."""
    grade: Grade | None = None
    """What `appvss verify` found it to be worth; None: it was not asked."""
    note: str = ""
    """What else is to be said, in a few words: `marked crashed`."""


def results_folder() -> Path:
    """Where results are kept; it is made if it is not there."""
    folder = Path(os.environ.get("APPVSS_RESULTS") or ROOT / ".results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def record(result: Result) -> None:
    """Keep one result.

    Raises:
        AssertionError: it contradicts docs/databases.md.
    """
    fields = {**asdict(result), "date": datetime.now(UTC).date().isoformat()}
    with (results_folder() / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    (fresh,) = generate_databases.taken_up([fields])
    against = generate_databases.contradiction(fresh, generate_databases.read())
    assert not against, against
