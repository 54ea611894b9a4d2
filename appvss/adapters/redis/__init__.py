"""Redis 6.2+ and Valkey: writes are held back with `CLIENT PAUSE ... WRITE`, and what is in memory is brought to disk.

    async with redis.quiesce("unix:///run/redis/redis.sock") as evidence:
        take_snapshot()

Two recipes (facts/database-quiesce.md sections 2 and 6.1), chosen by what the server itself is set to:

- **aof**: a marker key, the pause, and a wait until the append-only file has everything and no child is at work. Also
  with both kinds of persistence: a server with an append-only file loads nothing else.
- **rdb**: a marker key, the pause, a dump, and a wait until it has everything. As long as the dump takes, writers wait;
  what does not fit into the budget is refused. A dump without the pause is no recipe: it lost 1111 to 2691 writes.

The pause is a timer of the server: it ends by itself when this process dies (`AutoRelease.TIMER`). Reads are answered
all the time, on a frozen volume too, which they would not be without it. Redis Cluster: the one node that is named.

`session` is the connection, `information` what a server says of itself, `preflight` the look at it, `adapter` the hold.
"""

from appvss.adapters.redis.adapter import Adapter, quiesce
from appvss.adapters.redis.session import Settings

__all__ = ["Adapter", "Settings", "quiesce"]
