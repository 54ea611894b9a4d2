"""MongoDB as an app. **It has not been run by us against a real server**: documents, and a stand-in in the tests.

    async with mongodb.quiesce("mongodb://localhost:27017") as position:
        take_snapshot()

With the journal in the same atomic set as the data, as it is unless somebody has moved it, a snapshot without a lock is
supported. Then the recipe is one journaled write right before the freeze: it brings to the disk what was acknowledged
without the journal, and is the marker. `lock` is for a set that is not atomic: `fsync` with `lock`, until `fsyncUnlock`
(facts/database-quiesce.md section 7).

The lock is the server's, not the session's, and it counts: an adapter that dies leaves the writes blocked, so an undo
record is written first. While it is held, a new connection may not get in, because to authenticate may need a read that
waits. So the lock is released on the connection on which it was taken; only after a crash another one has to try.
"""

from __future__ import annotations

from appvss.adapters.mongodb.adapter import Adapter, quiesce
from appvss.adapters.mongodb.settings import Recipe, Settings

__all__ = ["Adapter", "Recipe", "Settings", "quiesce"]
