"""Run every benchmark and write docs/performance.md.

usage: python -m benchmarks

Nothing here fails because a machine is slow: the page says what was found, and beside it what is aimed at.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import ack_path, databases, fanout, filesystems, memory, window
from tests.support.loop_disks import why_not

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
AIMS = {10: None, 100: 4.0, 1000: 3.5}
"""Ratio to bare asyncio that is aimed at, by number of apps."""
BASE_AIM, APP_AIM = 60.0, 45.0
"""MiB of a broker without apps, and KiB for each app, that are aimed at."""

GUARDIAN_AIM = 20.0
"""MiB of a guardian that are aimed at."""
STALL_AIM, FREEZE_AIM = 1.2, 3.0
"""Of PostgreSQL: a client's longest wait in a cycle, to that in a plain freeze; and how many times shorter its file
system's freeze is."""
FREEZE_AIMS = {1: None, 3: None, 10: 1.0}
"""Ratio to fsfreeze that is aimed at, by number of file systems."""


def main() -> None:
    """Measure and write."""
    parts = (_head(), _fanout(), _ack_path(), _filesystems(), _window(), _databases(), _memory(), _guardian(), _notes())
    text = "\n\n".join(parts) + "\n"
    PAGE.write_text(text, encoding="utf-8")
    print(text)


def _head() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf"))
    return f"""# Performance

Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores, {platform.system()} \
{platform.release().split("-")[0]}, {platform.machine()}, Python {platform.python_version()}, {packages}.
Times of a shared machine vary; compare the ratios."""


def _fanout() -> str:
    rows = [
        "## Fan-out: one freeze until every ack is back",
        "",
        "From the first freeze that is sent to the last ack. The broker side is the real one with the whole cycle;",
        "each app is a stream of its own and answers at once.",
        "The baseline sends messages of the same size over plain asyncio Unix sockets, in turns with it; it is a",
        "program of its own that imports nothing else. Both serving processes run at the broker's own priority.",
        "",
        "The journal is written before the first freeze, the certificate after the last ack; both wait for the disk.",
        "",
        "| apps | broker p50 / p99, ms | bare asyncio p50, ms | ratio | aimed at | journal, ms | certificate, ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for apps, aim in AIMS.items():
        found = fanout.measure(apps, rounds=50, processes=4, turns=5)
        times = f"{found['broker_p50_ms']} / {found['broker_p99_ms']} | {found['baseline_p50_ms']}"
        disk = f"{found['journal_p50_ms']} | {found['certificate_p50_ms']}"
        aimed = "-" if aim is None else f"at most {aim}"
        rows.append(f"| {apps:,} | {times} | **{found['ratio']}** | {aimed} | {disk} |")
    return "\n".join(rows)


def _ack_path() -> str:
    found = ack_path.measure()
    return f"""## From POLLIN on the FreeBSD device to the WRITE of the ack, {ack_path.APPS} idle apps

| | p50, ms | p99, ms |
| --- | --- | --- |
| whole way | {found.total_p50} | {found.total_p99} |
| without the apps (their question to the last ack) | {found.own_p50} | {found.own_p99} |

{found.rounds} freezes through the simulated device, journal and certificate on disk included.
**{found.share:.0%}** of the whole way is not the apps'."""


def _filesystems() -> str:
    early, late = (f"{size // 1024:,} KiB" for size in (filesystems.EARLY, filesystems.LATE))
    rows = [
        "## Freezing file systems, against fsfreeze one after the other",
        "",
        f"ext4 on loop devices, their images on this machine's disk. Each file system got {early} of new data before,",
        f"and {late} right before the freeze; nobody has synced them. Both sides freeze the same ones in turns;",
        f"medians of {filesystems.ROUNDS} rounds. *prepare* is find, open and sync: apps go on meanwhile. *freeze*",
        "is what they wait for. fsfreeze(8) of util-linux is called by a shell that runs already.",
        "",
        "| file systems | prepare, ms | freeze, ms | fsfreeze, ms | ratio | aimed at | with the prepare |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    if why := why_not("ext4"):
        return "\n".join((*rows[:2], f"Not measured: {why}."))
    for found in filesystems.measure(tuple(FREEZE_AIMS)):
        aim = FREEZE_AIMS[found.filesystems]
        aimed = "-" if aim is None else f"at most {aim}"
        times = f"{found.prepare} | {found.freeze} | {found.fsfreeze} | **{found.ratio}**"
        rows.append(f"| {found.filesystems} | {times} | {aimed} | {found.whole_ratio} |")
    return "\n".join(rows)


def _window() -> str:
    rows = [
        "## From FREEZE read on Linux's Hyper-V device to the reply written",
        "",
        "Through the simulated device, with the whole cycle: prepare, journal and certificate on disk, idle apps, file",
        "systems as above. Of the window nobody is held while file systems are found, opened and synced (*prepared*);",
        "*frozen* is their freeze alone. Medians, but for *longest*.",
        "",
        "| file systems | apps | window, ms | longest, ms | prepared, ms | frozen, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    if why := why_not("ext4"):
        return "\n".join((*rows[:2], f"Not measured: {why}."))
    for found in window.measure():
        times = f"{found.whole} | {found.longest} | {found.prepared} | {found.frozen}"
        rows.append(f"| {found.filesystems} | {found.apps} | {times} |")
    return "\n".join(rows)


def _databases() -> str:
    rows = [
        "## Databases under load: a cycle against a plain freeze",
        "",
        "Real servers on ext4 on a loop device, with writers that commit all the time, and for PostgreSQL",
        f"pgbench ({databases.SCALE * 15} MB, 4 clients); Redis has {databases.KEYS:,} keys of 200 bytes.",
        "In turns the file system is frozen alone, and in the adapter's hold; the copy in between takes milliseconds.",
        "*wait* is the longest that a client waited for its answer, from the beginning of the prepare on. Medians of",
        f"{databases.ROUNDS} turns, in ms; each copy was started once.",
        "",
        "| engine | prepare | hold | freeze / alone | wait / alone | ratio of the waits | start of the copy / alone |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    if why := databases.why_not():
        return "\n".join((*rows[:2], f"Not measured: {why}."))
    rows += [
        *map(database_row, databases.measure()),
        "",
        f"Aimed at for PostgreSQL: a ratio of at most {STALL_AIM}, and a freeze {FREEZE_AIM:.0f} times shorter.",
        "What a hold is worth besides is in [databases.md](databases.md).",
    ]
    return "\n".join(rows)


def database_row(found: databases.Cost) -> str:
    """One engine's line."""
    freeze = f"{found.freeze:.0f} / {found.plain_freeze:.0f}"
    waits = f"{found.stall:.0f} / {found.plain_stall:.0f} | **{found.stall_ratio:.2f}**"
    starts = "-" if found.start is None else f"{found.start:.0f} / {found.plain_start:.0f}"
    return f"| {found.engine} | {found.prepare:.0f} | {found.hold:.0f} | {freeze} | {waits} | {starts} |"


def _guardian() -> str:
    if why := why_not("ext4"):
        return f"## Memory of the guardian\n\nNot measured: {why}."
    found = filesystems.guardian_memory()
    return f"""## Memory of the guardian

| | resident, MiB | aimed at |
| --- | --- | --- |
| the guardian | {found.resident:.1f} | at most {GUARDIAN_AIM} |
| the largest of its {found.filesystems} children, one for each file system that is held | {found.child:.1f} | - |
| all together, what they share counted once (PSS) | {found.together:.1f} | - |"""


def _memory() -> str:
    rows = [
        "## Memory of the broker",
        "",
        "A fresh broker process with idle apps that use the SDK, token and side connection included.",
        "",
        "| apps | resident, MiB | aimed at |",
        "| --- | --- | --- |",
    ]
    for found in memory.measure():
        aim = BASE_AIM + found.apps * APP_AIM / 1024
        rows.append(f"| {found.apps:,} | {found.mebibytes:.1f} | at most {aim:.1f} |")
    return "\n".join(rows)


def _notes() -> str:
    return """## What it takes

- gRPC itself is most of a fan-out. What the broker adds is the cycle and the registry.
- Journal and certificate are the disk's time: a commit of SQLite with its fsync(2) before the first freeze, and after
  the last ack another one and a file with two (`appvss/history/book.py`). Only the second lengthens the time in which
  apps are quiet. Neither is waited for longer than a second (`appvss/cycle/journaling.py`).
- Watched paths cost a look beside the other acks, and one before the thaw, which waits for that a second at most
  (`appvss/witness/witness.py`).
- One FIFREEZE waits for the kernel's readers of that file system (RCU) and for its journal, mostly asleep. The guardian
  has a child for each file system, so that they wait at the same time (`appvss/freezer/guardian.py`); and what is dirty
  is synced before the first app is asked to freeze.
- `grpc.http2.bdp_probe = 0` on both sides takes a fifth off the server's work: the probe sends a ping of its own with
  nearly every small message (`appvss/contract.py`).
- A message that goes to many apps is encoded once (`appvss/broker/encoder.py`).
- Python's collector does not run while a cycle is under way: a tenth (`appvss/broker/loop.py`).
- The broker runs at nice -10 where it may: busy apps do not keep it from its acks (`appvss/broker/main.py`)."""


if __name__ == "__main__":
    main()
