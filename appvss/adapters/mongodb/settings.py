"""What the agent's configuration says about a MongoDB server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from appvss.adapters.settings import NO_SECRET, Secret, setting


class Recipe(StrEnum):
    """How writes are made durable, and whether they are kept out."""

    JOURNAL = "journal"
    """One journaled write, and no lock: data and journal are in one atomic set."""
    LOCK = "lock"
    """`fsync` with `lock`: no write from before the freeze to after the thaw."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the server is, and which recipe it takes."""

    uri: str = setting(
        "mongodb://localhost:27017",
        "The address of one `mongod`, with TLS options if need be. Without a password: that is `password`.",
    )
    user: str = setting("", "The account; empty: none.", example="appvss")
    password: Secret = setting(NO_SECRET, "Its password, by reference.")
    auth_source: str = setting("admin", "The database in which the account is defined.")
    recipe: Recipe = setting(
        Recipe.JOURNAL,
        "`journal` if data and journal are in one atomic set, else `lock`, which blocks all writes of the server.",
    )
    marker: str = setting(
        "appvss.cycles", "The collection into which the cycle is written, one document for each app; empty: none."
    )
    data_directory: str = setting("", "Its dbPath, if the account may not ask for it.", example="/var/lib/mongodb")
