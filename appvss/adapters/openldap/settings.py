"""What the agent's configuration says about a slapd."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from appvss.adapters.settings import NO_SECRET, Secret, setting


class Recipe(StrEnum):
    """What keeps writers out."""

    NONE = "none"
    """Nothing: the file-system freeze alone stops the writes."""
    MONITOR = "monitor"
    """`readOnly` in cn=monitor, which a restart of slapd forgets."""
    CONFIG = "config"
    """`olcReadOnly` in cn=config, which is on the disk, and in the copy."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where slapd is, and which database of it."""

    uri: str = setting("ldapi:///", "The address of slapd; with `ldapi:///` the account is this process's user.")
    bind_dn: str = setting(
        "", "The account, with a password; empty: SASL EXTERNAL.", example="cn=appvss,dc=example,dc=org"
    )
    password: Secret = setting(NO_SECRET, "The password of `bind_dn`, by reference.")
    tls_ca: Path = setting(
        Path(),
        "With `ldaps://`: the file of the certificates that must have signed slapd's. Not given: those this machine "
        "trusts.",
        example=Path("/etc/ldap/ca.pem"),
    )
    suffix: str = setting(
        "", "The database, by its suffix; empty: the only one that there is.", example="dc=example,dc=org"
    )
    recipe: Recipe = setting(
        Recipe.NONE,
        "`none`, or what makes the database read-only in the hold: `monitor` or `config`. Writers get an error then.",
    )
    data_directory: str = setting("", "Where the database is, if the account may not read cn=config.")
