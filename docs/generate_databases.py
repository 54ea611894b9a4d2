"""Draw the table of docs/databases.md from what the tests of the databases have measured.

    python docs/generate_databases.py                    # draw the page from docs/databases.json
    python docs/generate_databases.py --record FOLDER    # take up the results of a run first (`make databases`)

A row is one setting of one engine. Its figures are those of the runs that were recorded last, for each way of copying:
as a power cut leaves it, frozen alone, in the hold. The tests compare every fresh result with what is recorded here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RECORDED = FOLDER / "databases.json"
PAGE = FOLDER / "databases.md"
BEGIN = "<!-- measured: python docs/generate_databases.py -->"
END = "<!-- end of what was measured -->"
WAYS = ("raw", "fs", "app")
GRADES = ("raw", "fs", "app", "app-verified")
GAP = ("postgresql", "synchronous_commit=off", "app")
"""Where a hold may lose something: PostgreSQL has no lock for writes (facts/database-quiesce.md section 4.1)."""
_NAMES = {
    "postgresql": "PostgreSQL",
    "mariadb": "MariaDB",
    "mysql": "MySQL",
    "redis": "Redis",
    "sqlite": "SQLite",
    "mongodb": "MongoDB",
    "openldap": "OpenLDAP",
}
_HEAD = ("engine", "setting", "power cut", "frozen alone", "in the hold", "recipe", "`appvss verify`", "last run")


@dataclass(frozen=True)
class Recorded:
    """What the runs of one way of copying have found, for one setting of one engine."""

    engine: str
    version: str
    setting: str
    way: str
    recipe: str
    runs: int
    acknowledged: int
    """In the run with the fewest."""
    least_lost: int | None
    most_lost: int | None
    """None: a copy could not be read."""
    grade: str
    """The least that `appvss verify` has given; empty: it was not asked."""
    note: str
    date: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about."""
        return self.engine, self.setting, self.way


def read(path: Path = RECORDED) -> list[Recorded]:
    """What is recorded."""
    return [Recorded(**one) for one in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def taken_up(results: Iterable[Mapping[str, Any]]) -> list[Recorded]:
    """The results of a run, each way of each setting as one."""
    found: dict[tuple[str, str, str], Recorded] = {}
    for one in results:
        lost = one["lost"]
        fresh = Recorded(
            engine=one["engine"],
            version=one["version"],
            setting=one["setting"],
            way=one["way"],
            recipe=one["recipe"],
            runs=1,
            acknowledged=one["acknowledged"],
            least_lost=lost,
            most_lost=lost,
            grade=one["grade"] or "",
            note=one["note"],
            date=one["date"],
        )
        former = found.get(fresh.key)
        found[fresh.key] = fresh if former is None else _joined(former, fresh)
    return list(found.values())


def merged(former: Iterable[Recorded], fresh: Iterable[Recorded]) -> list[Recorded]:
    """What is recorded from now on: fresh ones instead of their former ones, in the order of engines and settings."""
    kept = {one.key: one for one in former} | {one.key: one for one in fresh}
    engines = list(_NAMES)
    return sorted(
        kept.values(),
        key=lambda one: (engines.index(one.engine) if one.engine in engines else 99, one.setting, WAYS.index(one.way)),
    )


def contradiction(fresh: Recorded, recorded: Sequence[Recorded]) -> str:
    """What a fresh result says against the page; empty: nothing. What the page does not have is no contradiction, and
    neither is another loss without a hold, or in `GAP`, or where the page has one: that differs from run to run.
    """
    former = next((one for one in recorded if one.key == fresh.key), None)
    if former is None or fresh.way != "app":
        return ""
    if fresh.key != GAP and former.most_lost == 0 and fresh.most_lost != 0:
        return f"docs/databases.md says that {' '.join(fresh.key)} loses nothing; now it has lost {_lost(fresh)}"
    if former.grade and fresh.grade and GRADES.index(fresh.grade) < GRADES.index(former.grade):
        return (
            f"docs/databases.md says that {' '.join(fresh.key)} earns {former.grade}; now it has earned {fresh.grade}"
        )
    return ""


def table(recorded: Sequence[Recorded]) -> str:
    """The table in Markdown."""
    rows = [_HEAD, ("---",) * len(_HEAD)]
    for engine, setting in dict.fromkeys((one.engine, one.setting) for one in recorded):
        ways = {one.way: one for one in recorded if (one.engine, one.setting) == (engine, setting)}
        newest = max(ways.values(), key=lambda one: one.date)
        held = ways.get("app")
        rows.append(
            (
                f"{_NAMES.get(engine, engine)} {newest.version}",
                f"`{setting}`",
                *(_lost(ways[way]) if way in ways else "-" for way in WAYS),
                (held.recipe if held else "") or "-",
                (held.grade if held else "") or "-",
                newest.date,
            )
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def page(text: str, recorded: Sequence[Recorded]) -> str:
    """The page with the table that belongs into it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(recorded)}\n\n{END}{after}"


def _joined(one: Recorded, other: Recorded) -> Recorded:
    losts = [one.least_lost, one.most_lost, other.least_lost]
    known = [lost for lost in losts if lost is not None]
    return replace(
        other,
        runs=one.runs + 1,
        acknowledged=min(one.acknowledged, other.acknowledged),
        least_lost=min(known, default=None),
        most_lost=None if len(known) < len(losts) else max(known),
        grade=min(filter(None, (one.grade, other.grade)), key=GRADES.index, default=""),
        note=other.note or one.note,
    )


def _lost(one: Recorded) -> str:
    if one.least_lost is None:
        lost = "unreadable"
    elif one.most_lost is None:
        lost = f"{one.least_lost}, or unreadable"
    elif one.least_lost == one.most_lost:
        lost = str(one.least_lost)
    else:
        lost = f"{one.least_lost} to {one.most_lost}"
    of = f"{one.acknowledged} and more" if one.runs > 1 else str(one.acknowledged)
    return f"{lost} of {of}" + (f"; {one.note}" if one.note else "")


def main(arguments: Sequence[str]) -> None:
    """Write the page."""
    if arguments[:1] == ["--record"]:
        lines = [line for path in sorted(Path(arguments[1]).glob("*.jsonl")) for line in path.read_text().splitlines()]
        fresh = taken_up(json.loads(line) for line in lines)
        text = json.dumps([asdict(one) for one in merged(read(), fresh)], indent=1, ensure_ascii=False)
        RECORDED.write_text(text + "\n", encoding="utf-8")
        print(f"{len(lines)} results of {len(fresh)} kinds were taken up")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
