"""How a MongoDB server is spoken to: one connection, on which the driver says nothing by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from appvss.adapters.errors import (
    AdapterError,
    DriverMissing,
    HoldRefused,
    LoginRefused,
    PrivilegeMissing,
    ServerUnfit,
    ServerUnreachable,
    SettingInvalid,
)
from appvss.adapters.mongodb.settings import Settings
from appvss.model.duration import format_duration

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient

    Client: TypeAlias = AsyncMongoClient[dict[str, Any]]

CONNECT_LIMIT: Final = timedelta(seconds=5)
ASK_LIMIT: Final = timedelta(seconds=5)
UNLOCK_LIMIT: Final = timedelta(seconds=10)
_SECOND_LOOK_LIMIT: Final = timedelta(seconds=1)
_SILENT: Final = timedelta(days=1)
"""Between two words of the driver's own. By itself it asks every ten seconds, also in a hold."""
_UNAUTHORIZED: Final = 13
_LOGIN_FAILED: Final = frozenset({18, 8000})
_LOCK_BUSY: Final = frozenset({24, 50, 262})
"""LockTimeout, MaxTimeMSExpired, ExceededTimeLimit (src/mongo/base/error_codes.yml)."""
_NOT_LOCKED: Final = "not locked"
"""In what `fsyncUnlock` says when nothing is locked (src/mongo/db/commands/fsync.cpp)."""


@dataclass(frozen=True, slots=True)
class Link:
    """The way to one server."""

    client: Client
    looked: asyncio.Event
    """The driver has looked at the server for the second time, which is the last."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says about itself."""

    version: str
    process: str
    """Another one after each start."""
    is_writable: bool
    is_hidden: bool
    set_name: str
    position: str
    """The time of its last write, `seconds:increment:term`; empty: it is no member of a replica set."""


UNLOCK_HINT: Final = "See who has locked it, and run db.fsyncUnlock() in mongosh until its lockCount is 0."


async def settle(link: Link) -> None:
    """Wait until the driver says nothing by itself any more.

    Whoever asks while it does not know the server yet makes it look twice, the second time half a second later
    (MIN_HEARTBEAT_INTERVAL, pymongo/common.py).
    """
    with contextlib.suppress(TimeoutError):  # there was no second look
        async with asyncio.timeout(_SECOND_LOOK_LIMIT.total_seconds()):
            await link.looked.wait()


def open_link(settings: Settings) -> Link:
    """A client of one server, that connects when it is first asked, and says nothing by itself once it is settled.

    Raises:
        SettingInvalid: the address cannot be read, or has a password in it.
        DriverMissing: pymongo is not installed.
    """
    try:
        from pymongo import AsyncMongoClient, uri_parser
        from pymongo.errors import PyMongoError
    except ImportError as error:
        raise DriverMissing("pymongo is not installed", "Run `pip install 'appvss[mongodb]'`.") from error
    try:
        parsed = uri_parser.parse_uri(settings.uri, validate=True, warn=False)
        if parsed["password"] is not None:
            raise SettingInvalid("the address of the server has a password in it", "Give it as `password`.")
        account: dict[str, Any] = {}
        if settings.user:
            account = {"username": settings.user, "password": settings.password.reveal()}
            account["authSource"] = settings.auth_source
        milliseconds = int(CONNECT_LIMIT.total_seconds() * 500)  # it knows better than we why it waits: it is first
        looked = asyncio.Event()
        client: Client = AsyncMongoClient(
            settings.uri,
            event_listeners=[_listener(looked)],
            directConnection=True,
            connect=False,
            maxPoolSize=1,
            serverSelectionTimeoutMS=milliseconds,
            connectTimeoutMS=milliseconds,
            # The driver says nothing by itself: in a hold nobody may be asked.
            serverMonitoringMode="poll",
            heartbeatFrequencyMS=int(_SILENT.total_seconds() * 1000),
            retryReads=False,
            retryWrites=False,
            appname="appvss",
            **account,
        )
        return Link(client, looked)
    except (PyMongoError, ValueError) as error:  # its text may have what was written in it
        raise SettingInvalid(
            f"the address of the server cannot be read ({type(error).__name__})",
            'Write uri = "mongodb://host:27017", and the account as `user` and `password`.',
        ) from None


def _listener(looked: asyncio.Event) -> Any:
    """Sets the event when the driver has looked at its server for the second time."""
    from pymongo.monitoring import ServerHeartbeatListener

    class Looks(ServerHeartbeatListener):
        count = 0

        def started(self, event: object) -> None:
            pass

        def succeeded(self, event: object) -> None:
            self.count += 1
            if self.count > 1:
                looked.set()

        def failed(self, event: object) -> None:
            pass

    return Looks()


async def ask(link: Link, command: Mapping[str, Any], limit: timedelta, database: str = "admin") -> dict[str, Any]:
    """One command, on any state of the member.

    Raises:
        AdapterError: by what has gone wrong.
    """
    from pymongo import ReadPreference
    from pymongo.errors import OperationFailure, PyMongoError

    name = next(iter(command))
    try:
        async with asyncio.timeout(limit.total_seconds()):
            answer: dict[str, Any] = await link.client[database].command(
                dict(command), read_preference=ReadPreference.PRIMARY_PREFERRED
            )
            return answer
    except TimeoutError as error:
        raise ServerUnreachable(
            f"the server did not answer {name} within {format_duration(limit)}", "See whether it hangs or is locked."
        ) from error
    except OperationFailure as error:
        raise _refusal(name, error.code or 0, str((error.details or {}).get("errmsg", ""))) from error
    except PyMongoError as error:
        raise ServerUnreachable(
            f"no MongoDB answers {name} ({type(error).__name__})", "Is it running, and is `uri` right?"
        ) from error


def _refusal(name: str, code: int, text: str) -> AdapterError:
    if code in _LOGIN_FAILED:
        return LoginRefused("the server does not accept the account", "Look at `user`, `password` and `auth_source`.")
    if code == _UNAUTHORIZED:
        return PrivilegeMissing(
            f"the account may not run {name}",
            'Run in mongosh: db.getSiblingDB("admin").grantRolesToUser("appvss", ["hostManager", "clusterMonitor",'
            ' {role: "readWrite", db: "appvss"}])',
        )
    if code in _LOCK_BUSY:
        return HoldRefused(f"the server did not get to {name} in its time: a long operation runs", "Try again later.")
    printable = "".join(each if each.isprintable() else "?" for each in text)[:200]
    return HoldRefused(f"the server refuses {name}: {printable} (code {code})", "Look at the server's log.")


async def is_locked(link: Link) -> bool:
    """Whether anybody has locked the server."""
    answer = await ask(link, {"currentOp": 1, "$ownOps": True}, ASK_LIMIT)
    return bool(answer.get("fsyncLock"))


async def unlock_once(link: Link, limit: timedelta) -> int | None:
    """Take one lock off; how many are left, or None: there was none to take off."""
    try:
        answer = await ask(link, {"fsyncUnlock": 1}, limit)
    except HoldRefused as error:
        if _NOT_LOCKED in error.sentence:
            return None
        raise
    return int(answer.get("lockCount", 0))


def _position(hello: Mapping[str, Any]) -> str:
    time = hello.get("lastWrite", {}).get("opTime", {})
    stamp = time.get("ts")
    return f"{stamp.time}:{stamp.inc}:{time.get('t', 0)}" if stamp is not None else ""


async def look(link: Link) -> Server:
    """What it is, with what every account may ask.

    Raises:
        ServerUnfit: a router of a sharded cluster.
        AdapterError: it does not say.
    """
    hello = await ask(link, {"hello": 1}, ASK_LIMIT)
    if hello.get("msg") == "isdbgrid":
        raise ServerUnfit(
            "it is a mongos, whose lock would hold a whole cluster",
            "Name each shard's own mongod: a hidden secondary of each, and the config servers.",
        )
    build = await ask(link, {"buildInfo": 1}, ASK_LIMIT)
    return Server(
        version=f"MongoDB {build.get('version', '')}",
        process=str(hello.get("topologyVersion", {}).get("processId", "")),
        is_writable=bool(hello.get("isWritablePrimary")),
        is_hidden=bool(hello.get("hidden")),
        set_name=str(hello.get("setName", "")),
        position=_position(hello),
    )
