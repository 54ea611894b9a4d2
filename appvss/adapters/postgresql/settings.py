"""What an administrator can say about one PostgreSQL server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from appvss.adapters.settings import NO_SECRET, Secret, setting

NO_DIRECTORY: Final = Path()
"""None was given."""
# Rather too much than too little: a password may have @, /, ? and &, and a blank after a backslash.
_SECRET_IN_URL = re.compile(r"(://[^:/@]*:).*(@)", re.DOTALL)
_SECRET_IN_PAIR = re.compile(
    r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'?|(?:\\.|[^\s\\])+)", re.IGNORECASE | re.DOTALL
)


class Recipe(StrEnum):
    """How the server is held."""

    AUTOMATIC = "automatic"
    """`backup` if the files lie on several file systems and there is a `backup_directory`, else `atomic`."""
    ATOMIC = "atomic"
    """Checkpoint, restore point, marker. For files that are all frozen before the first of them is copied."""
    BACKUP = "backup"
    """With the backup API. For volumes that are copied at different instants, and for recovery to a point in time."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A PostgreSQL server, 13 to 18."""

    dsn: str = setting(
        "",
        "Where the server is and as whom to log in, in the words of libpq: pairs or a URL. What is not in it comes "
        "from libpq's environment and its defaults. It must lead to the server itself, not to a pooler.",
        example="host=/run/postgresql user=appvss dbname=postgres",
    )
    password: Secret = setting(NO_SECRET, "The password, by reference. Not needed with peer authentication.")
    recipe: Recipe = setting(
        Recipe.AUTOMATIC,
        "`atomic`: checkpoint, restore point and marker. `backup`: with the backup API. `automatic`: `backup` if the "
        "files lie on several file systems and there is a `backup_directory`, else `atomic`.",
    )
    backup_directory: Path = setting(
        NO_DIRECTORY,
        "Where the `backup` recipe keeps label, tablespace map and WAL, in a folder `CYCLE-APP` for each cycle, which "
        "nobody but you removes. Outside of the server's own directories.",
        example=Path("/var/lib/appvss-agent/postgresql"),
    )
    checkpoint: bool = setting(
        True,
        "Whether a checkpoint is made ahead of the freeze. Without it the account needs fewer privileges, and the "
        "file-system freeze takes longer.",
    )
    application_name: str = setting("appvss", "How the sessions are called in `pg_stat_activity`.")

    def __repr__(self) -> str:
        return (
            f"Settings(dsn={without_secrets(self.dsn)!r}, password={self.password!r}, recipe={self.recipe.value!r}, "
            f"backup_directory={str(self.backup_directory)!r}, checkpoint={self.checkpoint!r}, "
            f"application_name={self.application_name!r})"
        )


def without_secrets(dsn: str) -> str:
    """A DSN as people may see it: each password is three stars."""
    return _SECRET_IN_PAIR.sub(r"\1***", _SECRET_IN_URL.sub(r"\1***\2", dsn))
