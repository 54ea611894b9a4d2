"""One customer of the shop, as a program: `python customer.py NUMBER DSN REDIS`.

Fills its cart in Redis, takes the goods off the stock there, orders in PostgreSQL, and begins again. What the servers
have acknowledged is written to standard output at once: `cart SEQUENCE TIME` and `order ID TIME`, with the time in
nanoseconds of the monotonic clock. It ends when it is stopped.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Final

import psycopg
import redis

ORDERS_EACH: Final = 1_000_000_000
GOODS: Final = ("apples", "bread", "candles", "dates")


def main() -> None:
    """Buy."""
    number, dsn, socket = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    carts = redis.Redis(unix_socket_path=socket)
    with psycopg.connect(dsn, autocommit=True) as orders:
        sequence = 0
        while True:
            sequence += 1
            goods = random.choice(GOODS)
            with carts.pipeline(transaction=True) as pipe:
                pipe.hset("carts", str(number), f"{sequence} {goods}")
                pipe.decr(f"stock:{goods}")
                pipe.execute()
            note("cart", sequence)
            order = number * ORDERS_EACH + sequence
            orders.execute("INSERT INTO orders (id, customer, goods) VALUES (%s, %s, %s)", (order, number, goods))
            note("order", order)
            time.sleep(0.002)  # somebody thinks


def note(what: str, number: int) -> None:
    """Write down what was acknowledged."""
    print(what, number, time.monotonic_ns(), flush=True)


if __name__ == "__main__":
    main()
