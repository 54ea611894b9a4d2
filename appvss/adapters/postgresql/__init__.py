"""PostgreSQL 13 to 18 as an app, with psycopg 3 (facts/database-quiesce.md section 4).

    async with postgresql.quiesce("host=/run/postgresql user=appvss dbname=postgres") as position:
        take_snapshot()

PostgreSQL has no lock that keeps writes out. With its default settings the file-system freeze alone loses nothing: the
recipe makes the freeze short (the checkpoint is done ahead) and the recovery of the copy, and leaves a position and a
proof. Where `synchronous_commit` is off it also saves the commits that were acknowledged before the freeze and were
still in memory; those between the marker and the file-system freeze (up to 5 were seen) it cannot.

    prepare    CHECKPOINT
    hold       `atomic`: syncfs, restore point, and a marker in a synchronous commit, last
               `backup`: before these a temporary slot, which keeps the WAL, and the start of a backup
    confirm    the same session, the same server; a second marker, which no copy of the hold has
               `backup`: its stop, and label and WAL are kept outside
    release    the session is closed; what is left, the server frees by itself

`atomic` is right where all of data directory, pg_wal and tablespaces are frozen before the first is copied; `backup`
also where volumes are copied one after another, or as the base of a recovery to a point in time.
"""

from __future__ import annotations

from appvss.adapters.postgresql.adapter import Adapter, quiesce
from appvss.adapters.postgresql.settings import Recipe, Settings

__all__ = ["Adapter", "Recipe", "Settings", "quiesce"]
