"""OpenLDAP as an app.

    async with openldap.quiesce("ldapi:///", suffix="dc=example,dc=org") as position:
        take_snapshot()

slapd on MDB is crash safe: a copy of a frozen file system lost nothing (facts/database-quiesce.md sections 3 and 6.5).
So by default nothing is held, and the position is all that the adapter adds.

Who wants no write between the position and the snapshot makes the database read-only. Writers then get an **error**
(`unwillingToPerform`), they do not wait. slapd undoes that by itself never, so an undo record is written first. There
are two switches: `readOnly` in cn=monitor, which is gone when slapd is started again and leaves no trace in the copy,
and `olcReadOnly` in cn=config, which is on the disk: it survives a crash, and **it is in the copy**.
"""

from __future__ import annotations

from appvss.adapters.openldap.adapter import Adapter, quiesce
from appvss.adapters.openldap.settings import Recipe, Settings

__all__ = ["Adapter", "Recipe", "Settings", "quiesce"]
