"""Databases and other programs as apps, one file each, built on the SDK alone.

Every adapter is two things: an `Adapter` that the agent serves from its configuration, and a module-level `quiesce`
that works without broker and agent:

    async with postgresql.quiesce("host=/run/postgresql user=appvss") as position:
        take_snapshot()

`base.py` is the contract that all keep; `ENGINES` says where each is. Nothing is imported before it is used: a driver
that is not installed is missed by its own adapter alone.
"""

from __future__ import annotations

from typing import Final

ENGINES: Final = {
    "postgresql": "appvss.adapters.postgresql",
    "mariadb": "appvss.adapters.mariadb",
    "mysql": "appvss.adapters.mysql",
    "redis": "appvss.adapters.redis",
    "sqlite": "appvss.adapters.sqlite",
    "mongodb": "appvss.adapters.mongodb",
    "openldap": "appvss.adapters.openldap",
    "exec": "appvss.adapters.exec",
    "cgroup": "appvss.adapters.cgroup",
}
"""The word for `adapter` in the agent's configuration, and the module that has `Settings`, `Adapter` and `quiesce`."""
