"""A stand-in for `mongod`, by its wire: what the adapter needs of it, and what the real one refuses.

It keeps the count of fsync locks and has writes wait while it is not zero; `fsyncUnlock` when nothing is locked, a
command elsewhere than in `admin`, a wrong password and a missing privilege are refused as the documents and the
published source say (facts/database-quiesce.md section 7; src/mongo/db/commands/fsync.cpp). It is no proof of how a
real server behaves.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import bson
from bson import Int64, ObjectId, Timestamp

Answer = dict[str, Any]

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
CHECKSUM_PRESENT, MORE_TO_COME = 1, 2
ITERATIONS = 4096
EVERYTHING = frozenset({"fsync", "unlock", "inprog", "serverStatus", "getCmdLineOpts", "update"})


class Refused(Exception):
    """What the server answers with `ok: 0`."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(text)
        self.answer: Answer = {"ok": 0.0, "errmsg": text, "code": code, "codeName": name}


@dataclass
class Connection:
    """One client's."""

    number: int
    user: str = ""
    heard: list[tuple[float, int]] = field(default_factory=list)
    """When it has said something, and how many bytes."""
    scram: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeMongod:
    """Its state. Change it in a test to have it behave otherwise."""

    version: str = "7.0.14"
    is_mongos: bool = False
    set_name: str = ""
    is_primary: bool = True
    is_hidden: bool = False
    storage_engine: str = "wiredTiger"
    data_directory: str = "/var/lib/mongodb"
    users: Mapping[str, str] = field(default_factory=dict)
    """Empty: it asks for no account."""
    allowed: frozenset[str] = EVERYTHING
    lock_refused_with: tuple[int, str, str] | None = None
    lock_never_answers: bool = False
    locked_at_the_same_moment: int = 0
    """How often somebody else locks between the adapter's look and its lock."""
    lets_nobody_in_while_locked: bool = False
    """To authenticate may need a read that waits behind a write that waits for the lock."""
    lock_count: int = 0
    process: ObjectId = field(default_factory=ObjectId)
    documents: dict[str, dict[Any, Answer]] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    writes: int = 1
    waiting: int = 0
    """How many writes wait for the lock to be taken off."""
    port: int = 0

    def __post_init__(self) -> None:
        self._changed = asyncio.Condition()
        self._numbers = itertools.count(1)
        self._streams: set[asyncio.StreamWriter] = set()

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}"

    def bytes_heard(self) -> int:
        return sum(length for each in self.connections for _, length in each.heard)

    async def unlock_all(self) -> None:
        """What another administrator does."""
        async with self._changed:
            self.lock_count = 0
            self._changed.notify_all()

    def cut(self) -> None:
        """End all connections."""
        for writer in list(self._streams):
            writer.transport.abort()

    async def write(self, name: str, key: object, document: Answer) -> None:
        """A client's write."""
        self.waiting += 1
        async with self._changed:
            await self._changed.wait_for(lambda: self.lock_count == 0)
        self.waiting -= 1
        self.documents.setdefault(name, {})[key] = document
        self.writes += 1

    # -- commands

    async def run(self, connection: Connection, command: Answer) -> Answer:
        name = next(iter(command))
        database = command.get("$db", "admin")
        self.commands.append(name)
        if name in ("hello", "isMaster", "ismaster"):
            return self._hello()
        if name in ("saslStart", "saslContinue"):
            return await self._authenticate(connection, command)
        if name in ("ping", "endSessions", "buildInfo") and (name != "ping" or connection.user or not self.users):
            return {"ok": 1.0, "version": self.version}
        if self.users and not connection.user:
            raise Refused(13, "Unauthorized", f"Command {name} requires authentication")
        handler: Callable[[Answer, str], Any] | None = {
            "fsync": self._fsync,
            "fsyncUnlock": self._fsync_unlock,
            "currentOp": self._current_op,
            "serverStatus": self._server_status,
            "getCmdLineOpts": self._options,
            "update": self._update,
        }.get(name)
        if handler is None:
            raise Refused(59, "CommandNotFound", f"no such command: '{name}'")
        if name != "update" and database != "admin":
            raise Refused(13, "Unauthorized", f"{name} may only be run against the admin database.")
        answer: Answer = await handler(command, database)
        return answer

    def _may(self, action: str, name: str) -> None:
        if action not in self.allowed:
            raise Refused(13, "Unauthorized", f"not authorized on admin to execute command {{ {name}: 1 }}")

    def _hello(self) -> Answer:
        answer: Answer = {
            "helloOk": True,
            "isWritablePrimary": self.is_primary,
            "ismaster": self.is_primary,
            "topologyVersion": {"processId": self.process, "counter": Int64(0)},
            "maxBsonObjectSize": 16777216,
            "maxMessageSizeBytes": 48000000,
            "maxWriteBatchSize": 100000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "readOnly": False,
            "ok": 1.0,
        }
        if self.is_mongos:
            return {**answer, "msg": "isdbgrid"}
        if self.users:
            answer["saslSupportedMechs"] = ["SCRAM-SHA-256"]
        if self.set_name:
            answer |= {
                "setName": self.set_name,
                "secondary": not self.is_primary,
                "hidden": self.is_hidden,
                "hosts": [f"127.0.0.1:{self.port}"],
                "me": f"127.0.0.1:{self.port}",
                "lastWrite": {"opTime": {"ts": Timestamp(1700000000, self.writes), "t": Int64(3)}},
            }
        return answer

    async def _fsync(self, command: Answer, _database: str) -> Answer:
        self._may("fsync", "fsync")
        if not command.get("lock"):
            return {"numFiles": 1, "ok": 1.0}
        if self.lock_refused_with is not None:
            raise Refused(*self.lock_refused_with)
        async with self._changed:
            self.lock_count += 1 + self.locked_at_the_same_moment
        if self.lock_never_answers:  # it has locked, and the word of it is lost
            await asyncio.Event().wait()
        text = "now locked against writes, use db.fsyncUnlock() to unlock"
        return {"info": text, "lockCount": Int64(self.lock_count), "seeAlso": "http://dochub.mongodb.org", "ok": 1.0}

    async def _fsync_unlock(self, _command: Answer, _database: str) -> Answer:
        self._may("unlock", "fsyncUnlock")
        async with self._changed:
            if self.lock_count == 0:
                raise Refused(20, "IllegalOperation", "fsyncUnlock called when not locked")
            self.lock_count -= 1
            self._changed.notify_all()
        return {"info": "fsyncUnlock completed", "lockCount": Int64(self.lock_count), "ok": 1.0}

    async def _current_op(self, command: Answer, _database: str) -> Answer:
        if not command.get("$ownOps"):
            self._may("inprog", "currentOp")
        locked: Answer = {"fsyncLock": True, "info": "use db.fsyncUnlock() to terminate"} if self.lock_count else {}
        return {"inprog": [], **locked, "ok": 1.0}

    async def _server_status(self, _command: Answer, _database: str) -> Answer:
        self._may("serverStatus", "serverStatus")
        return {"version": self.version, "storageEngine": {"name": self.storage_engine}, "ok": 1.0}

    async def _options(self, _command: Answer, _database: str) -> Answer:
        self._may("getCmdLineOpts", "getCmdLineOpts")
        return {"argv": ["mongod"], "parsed": {"storage": {"dbPath": self.data_directory}}, "ok": 1.0}

    async def _update(self, command: Answer, database: str) -> Answer:
        self._may("update", "update")
        if not self.is_primary:
            raise Refused(10107, "NotWritablePrimary", "not primary")
        for each in command["updates"]:
            key = each["q"]["_id"]
            document = {"_id": key, **each["u"]["$set"], "journaled": command["writeConcern"].get("j", False)}
            await self.write(f"{database}.{command['update']}", key, document)
        return {"n": 1, "nModified": 1, "ok": 1.0}

    async def _authenticate(self, connection: Connection, command: Answer) -> Answer:
        """SCRAM-SHA-256 (RFC 7677)."""
        if self.lets_nobody_in_while_locked and self.lock_count:
            async with self._changed:
                await self._changed.wait_for(lambda: self.lock_count == 0)
        said = bytes(command["payload"]).decode()
        if "saslStart" in command:
            bare = said.partition(",,")[2]
            parts = dict(each.split("=", 1) for each in bare.split(","))
            nonce = parts["r"] + base64.b64encode(os.urandom(18)).decode()
            salt = base64.b64encode(os.urandom(16)).decode()
            first = f"r={nonce},s={salt},i={ITERATIONS}"
            connection.scram = {"user": parts["n"], "bare": bare, "first": first, "salt": salt}
            return {"conversationId": 1, "done": False, "payload": first.encode(), "ok": 1.0}
        if not said:
            return {"conversationId": 1, "done": True, "payload": b"", "ok": 1.0}
        without, _, proof = said.partition(",p=")
        scram = connection.scram
        password = self.users.get(scram["user"], os.urandom(8).hex())
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(scram["salt"]), ITERATIONS)
        message = f"{scram['bare']},{scram['first']},{without}".encode()
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        wanted = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if not hmac.compare_digest(base64.b64decode(proof), wanted):
            raise Refused(18, "AuthenticationFailed", "Authentication failed.")
        connection.user = scram["user"]
        final = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        payload = b"v=" + base64.b64encode(final)
        return {"conversationId": 1, "done": True, "payload": payload, "ok": 1.0}

    # -- the wire

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(next(self._numbers))
        self.connections.append(connection)
        self._streams.add(writer)
        try:
            while True:
                head = await reader.readexactly(16)
                length, request, _, code = struct.unpack("<iiii", head)
                body = await reader.readexactly(length - 16)
                connection.heard.append((time.monotonic(), length))
                command, expects = _command(code, body)
                try:
                    answer = await self.run(connection, command)
                except Refused as refused:
                    answer = refused.answer
                if expects:
                    writer.write(_reply(code, next(self._numbers), request, answer))
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            self._streams.discard(writer)
            writer.transport.abort()


def _command(code: int, body: bytes) -> tuple[Answer, bool]:
    """The command in a message, and whether an answer is expected."""
    if code == OP_QUERY:  # the first word of a driver
        (flags,) = struct.unpack_from("<i", body)
        name, _, rest = body[4:].partition(b"\0")
        assert name == b"admin.$cmd", (flags, name)
        return dict(bson.decode(rest[8:])), True
    assert code == OP_MSG, code
    (flags,) = struct.unpack_from("<I", body)
    end = len(body) - (4 if flags & CHECKSUM_PRESENT else 0)
    command: Answer = {}
    offset = 4
    while offset < end:
        kind, offset = body[offset], offset + 1
        (size,) = struct.unpack_from("<i", body, offset)
        section = body[offset : offset + size]
        offset += size
        if kind == 0:
            command = {**bson.decode(section), **command}
        else:  # a sequence of documents
            name, _, documents = section[4:].partition(b"\0")
            command[name.decode()] = list(bson.decode_all(documents))
    return command, not flags & MORE_TO_COME


def _reply(code: int, number: int, request: int, answer: Answer) -> bytes:
    document = bson.encode(answer)
    if code == OP_QUERY:
        body, code = struct.pack("<iqii", 8, 0, 0, 1) + document, OP_REPLY
    else:
        body = struct.pack("<IB", 0, 0) + document
    return struct.pack("<iiii", 16 + len(body), number, request, code) + body


@asynccontextmanager
async def fake_mongod(**state: Any) -> AsyncIterator[FakeMongod]:
    """One that listens on a port of its own, on loopback."""
    fake = FakeMongod(**state)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(fake.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            with suppress(TimeoutError):
                await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()
