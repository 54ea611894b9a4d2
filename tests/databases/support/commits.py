"""How one row is written and acknowledged, for each engine: what a writer of the ledger is told to do.

Each function takes the writer's number and what it needs to connect, and gives the function that writes one row. The
table, made by `..._table`, is `ledger(id, payload)`; in Redis a row is the key `ledger:ID`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PAYLOAD = "x" * 100

Write = Callable[[int], object]


def postgresql(writer: int, *, dsn: str, asynchronous: bool = False) -> Write:
    """Into PostgreSQL; asynchronous: with `synchronous_commit=off`."""
    import psycopg

    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute(f"SET synchronous_commit = {'off' if asynchronous else 'on'}")

    def write(row: int) -> None:
        connection.execute("INSERT INTO ledger VALUES (%s, %s)", (row, PAYLOAD))

    return write


def postgresql_table(connection: Any) -> None:
    connection.execute("CREATE TABLE ledger (id bigint PRIMARY KEY, payload text)")


def postgresql_rows(connection: Any) -> set[int]:
    return {row[0] for row in connection.execute("SELECT id FROM ledger").fetchall()}


def mariadb(writer: int, *, socket: str, table: str = "test.ledger", user: str = "root") -> Write:
    """Into MariaDB or MySQL."""
    import pymysql

    connection = pymysql.connect(unix_socket=socket, user=user, autocommit=True)
    cursor = connection.cursor()

    def write(row: int) -> None:
        cursor.execute(f"INSERT INTO {table} VALUES (%s, %s)", (row, PAYLOAD))

    return write


def mariadb_table(connection: Any, table: str = "test.ledger", options: str = "ENGINE=InnoDB") -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {table.partition('.')[0]}")
        cursor.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, payload text) {options}")


def mariadb_rows(connection: Any, table: str = "test.ledger") -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {table}")
        return {row[0] for row in cursor.fetchall()}


def redis(writer: int, *, socket: str) -> Write:
    """Into Redis or Valkey."""
    import redis as driver

    client = driver.Redis(unix_socket_path=socket)
    return lambda row: client.set(f"ledger:{row}", PAYLOAD)


def redis_rows(client: Any) -> set[int]:
    return {int(key.rpartition(b":")[2]) for key in client.scan_iter("ledger:*", count=1000)}


def sqlite(writer: int, *, file: str, synchronous: str = "NORMAL") -> Write:
    """Into a SQLite database, in the mode that its file has. This writer hangs while its volume is frozen."""
    import sqlite3

    connection = sqlite3.connect(file, timeout=60.0, isolation_level=None)
    connection.execute(f"PRAGMA synchronous = {synchronous}")

    def write(row: int) -> None:
        connection.execute("INSERT INTO ledger VALUES (?, ?)", (row, PAYLOAD))

    return write
