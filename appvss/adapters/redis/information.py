"""What a server says of itself in INFO, as values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

OLDEST: Final = (6, 2)
"""`CLIENT PAUSE ... WRITE` and `CLIENT UNPAUSE` came with it."""
WAITAOF_SINCE: Final = (7, 2)
_BYTES_PER_SECOND: Final = 100_000_000
"""What a dump writes of `used_memory`, at least, where nothing else is known: 300,000 values of 200 bytes took 340 to
880 ms (facts/database-quiesce.md section 2)."""
CONFIGURED: Final = (
    "dir",
    "dbfilename",
    "appenddirname",
    "appendfilename",
    "appendfsync",
    "save",
    "stop-writes-on-bgsave-error",
    "auto-aof-rewrite-percentage",
    "auto-aof-rewrite-min-size",
)
"""The settings that decide what a copy is worth, and where it lies."""


class Recipe(StrEnum):
    """What is done in a hold."""

    AOF = "aof"
    RDB = "rdb"


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a server is: two that are equal have no write between them."""

    run_id: str
    changes: int
    """`rdb_changes_since_last_save`."""
    saved_at: int
    """`rdb_last_save_time`, in seconds since 1970 by the server's clock."""
    saves: int
    """`rdb_saves`: how often it has saved, for two saves of one second; zero where the server does not count them."""
    aof_size: int
    """`aof_current_size`, in bytes; zero without an append-only file."""
    offset: int
    """`master_repl_offset`, in bytes; it stays zero as long as the server never had a replica."""

    def moved(self, then: Stand, recipe: Recipe, *, has_pings: bool) -> str:
        """What differs from `then`, in words; empty: nothing that a write would have changed.

        Between a primary and its replicas the offset grows by pings (`has_pings`). With an append-only file a save that
        the server makes by its own rules sets the changes back; the file's size tells of every write all the same.
        """
        if self.run_id != then.run_id:
            return "it was started anew"
        if self.aof_size != then.aof_size:
            return f"aof_current_size went from {then.aof_size} to {self.aof_size}"
        if (self.saved_at, self.saves) != (then.saved_at, then.saves) and recipe is Recipe.RDB:
            return f"it saved again: rdb_last_save_time went from {then.saved_at} to {self.saved_at}"
        if self.changes > then.changes:
            return f"rdb_changes_since_last_save went from {then.changes} to {self.changes}"
        if self.offset != then.offset and not has_pings:
            return f"master_repl_offset went from {then.offset} to {self.offset}"
        return ""


@dataclass(frozen=True, slots=True)
class Information:
    """One answer to INFO."""

    fields: Mapping[str, str]

    @classmethod
    def parse(cls, answer: str | Mapping[str, object]) -> Information:
        """Read the lines `name:value`; newer drivers give a mapping."""
        if not isinstance(answer, str):
            return cls({name: str(value) for name, value in answer.items()})
        pairs = (line.partition(":")[::2] for line in answer.splitlines() if ":" in line and not line.startswith("#"))
        return cls(dict(pairs))

    def text(self, name: str) -> str:
        """A field; empty: the server has none of that name."""
        return self.fields.get(name, "")

    def number(self, name: str, default: int = 0) -> int:
        """A field as a number; one that is none counts as `default`."""
        try:
            return int(self.text(name))
        except ValueError:
            return default

    def is_set(self, name: str) -> bool:
        """Whether a field is there and not zero."""
        return self.number(name) != 0

    @property
    def version(self) -> str:
        """`Redis 7.0.15`, `Valkey 9.1.2`."""
        if valkey := self.text("valkey_version"):
            return f"Valkey {valkey}"
        return f"Redis {self.text('redis_version')}"

    @property
    def protocol_version(self) -> tuple[int, ...]:
        """The version of Redis that it is like; Valkey says 7.2.4."""
        return tuple(int(part) for part in self.text("redis_version").split(".")[:2] if part.isdigit())

    @property
    def stand(self) -> Stand:
        """Where it is."""
        return Stand(
            self.text("run_id"),
            self.number("rdb_changes_since_last_save"),
            self.number("rdb_last_save_time"),
            self.number("rdb_saves"),
            self.number("aof_current_size"),
            self.number("master_repl_offset"),
        )

    @property
    def clock(self) -> timedelta | None:
        """The server's own clock, by which it ends a pause; None: it does not tell."""
        return timedelta(microseconds=self.number("server_time_usec")) if self.text("server_time_usec") else None

    @property
    def has_replicas(self) -> bool:
        """Whether replicas are attached."""
        return self.is_set("connected_slaves")

    @property
    def is_replica(self) -> bool:
        """Whether another server feeds it."""
        return self.text("role") == "slave"

    @property
    def primary(self) -> str:
        """The server that feeds it; empty: none does. What it takes over at the start of that is no write."""
        return f"{self.text('master_host')}:{self.text('master_port')}" if self.is_replica else ""

    @property
    def writes_aof(self) -> bool:
        """Whether it keeps an append-only file."""
        return self.is_set("aof_enabled")

    @property
    def child_at_work(self) -> str:
        """What a child of it is doing or about to do; empty: there is none."""
        for name, words in (
            ("rdb_bgsave_in_progress", "a save is running"),
            ("aof_rewrite_in_progress", "the append-only file is being rewritten"),
            ("aof_rewrite_scheduled", "the append-only file is about to be rewritten"),
        ):
            if self.is_set(name):
                return words
        return ""

    @property
    def undrained(self) -> str:
        """What is still on its way into the append-only file; empty: nothing (facts section 6.1)."""
        for name, words in (
            ("aof_buffer_length", "bytes wait to be appended"),
            ("aof_pending_bio_fsync", "fsyncs are under way"),
        ):
            if self.is_set(name):
                return f"{self.number(name)} {words}"
        return self.child_at_work

    def rewrites_soon(self, percentage: str, least: str) -> bool:
        """Whether it will rewrite its append-only file by its own rule, in a hold as at any other time.

        Args:
            percentage: `auto-aof-rewrite-percentage`; empty: not known.
            least: `auto-aof-rewrite-min-size`.
        """
        size, base = self.number("aof_current_size"), self.number("aof_base_size")
        if not self.writes_aof or not percentage.isdigit() or not least.isdigit() or int(percentage) == 0:
            return False
        return size > int(least) and (size - base) * 100 >= int(percentage) * max(base, 1)

    @property
    def last_dump(self) -> timedelta | None:
        """How long the last dump took; None: it has made none since it was started.

        The server takes the difference of two times of the wall clock in whole seconds: 1 s is what a dump of 5 ms
        took that had a second's end in it, as well as one of 1.9 s.
        """
        last = self.number("rdb_last_bgsave_time_sec", -1)
        return timedelta(seconds=last) if last >= 0 else None

    @property
    def dump_takes_at_least(self) -> timedelta:
        """What the last dump took for certain; nothing where there was none."""
        return max((self.last_dump or timedelta()) - timedelta(seconds=1), timedelta())

    @property
    def dump_takes(self) -> timedelta:
        """How long a dump takes, about: as long as the last one, or by what is in memory."""
        return self.last_dump or timedelta(seconds=self.number("used_memory") / _BYTES_PER_SECOND)
