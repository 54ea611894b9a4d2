"""One connection to a Redis or Valkey server, that never comes back by itself, and what it can say no with.

The client of `redis-py` connects again behind its caller's back; then a pause might have been lifted in between and
nobody would know. So this speaks on a bare connection of it: one that broke stays broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

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
from appvss.adapters.redis.information import CONFIGURED, Information
from appvss.adapters.settings import NO_SECRET, Secret, setting

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

CONNECT_LIMIT: Final = timedelta(seconds=5)
"""How long a connection may take to open."""
LOADING: Final = "is still loading its data"
IN_THE_URL: Final = "the url"
"""Where a password comes from that `without_secret` has found."""
_ACL: Final = (
    "+client|pause +client|unpause +client|id +bgsave +lastsave +info +config|get +ping +select +set +multi +discard"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the agent's configuration says of a Redis or Valkey server."""

    url: str = setting(
        "redis://127.0.0.1:6379",
        "Where the server is: `redis://HOST:PORT/DATABASE`, `rediss://` with TLS, or `unix:///PATH?db=DATABASE`. "
        "The database is where the marker key lies. A password belongs into `password`.",
        example="unix:///run/redis/redis.sock",
    )
    username: str = setting("", "The ACL user; empty: the default user.", example="appvss")
    password: Secret = setting(NO_SECRET, "The password, by reference.")
    marker_key: str = setting(
        "appvss:marker",
        "The key that is set to the cycle's id before each hold, and to say that it is over after it: the copy that "
        "has the id was taken in that cycle. It stays, and never expires.",
    )
    data_directory: Path = setting(
        Path(),
        "The server's `dir`, for accounts and servers that do not answer CONFIG GET. Not given: it is asked for.",
        example="/var/lib/redis",
    )
    margin: timedelta = setting(
        timedelta(seconds=2),
        "How much longer than the hold limit writes are paused, for the way of the thaw. When everything else fails, "
        "writers go on this much after the hold limit.",
    )


def without_secret(settings: Settings) -> Settings:
    """The same settings with a password that stands in the URL taken out of it, so that no text can show it."""
    try:
        parts = urlsplit(settings.url)
        account, _, place = parts.netloc.rpartition("@")
        username, _, password = account.partition(":")
        asked = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return settings  # it is none, and what is said of it shows nothing of it
    named = dict(asked)
    password = unquote(password) or named.get("password", "")
    if not password:
        return settings
    kept = urlencode([(name, value) for name, value in asked if name not in ("username", "password")])
    return replace(
        settings,
        url=f"{parts.scheme}://{place}{parts.path}" + (f"?{kept}" if kept else ""),
        username=settings.username or unquote(username) or named.get("username", ""),
        password=settings.password or Secret(lambda: password, IN_THE_URL),
    )


def acl_hint(settings: Settings) -> str:
    """The ACL rule that gives an account all that it needs."""
    user = settings.username or "default"
    return f"As an administrator: ACL SETUSER {user} ~{settings.marker_key} {_ACL}"


class Session:
    """A connection. `open` makes it; whoever has it owes a `close` or a `drop`."""

    def __init__(self, settings: Settings, connection: AbstractConnection, place: str) -> None:
        self.place = place
        """Where it leads, without any secret."""
        self._settings = settings
        self._connection = connection

    @classmethod
    async def open(cls, settings: Settings, limit: timedelta = CONNECT_LIMIT) -> Session:
        """Connect and log in.

        Raises:
            DriverMissing: redis-py is not installed.
            SettingInvalid: the URL is none.
            ServerUnreachable: nobody answers, or the server is full.
            LoginRefused: wrong password, or no such user.
        """
        session = cls(settings, *_connection(settings))
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await session._connection.connect()  # type: ignore[no-untyped-call] # redis-py has no type for it
        except BaseException as error:
            session.drop()
            if (told := session._told(error, "the login")) is not None:
                raise told from None
            raise
        return session

    @property
    def is_open(self) -> bool:
        """Whether this side has not seen the connection's end yet."""
        return bool(self._connection.is_connected)

    async def call(self, *words: str | int) -> Any:
        """Say one command and take its answer; texts come as `str`.

        Raises:
            AdapterError: the server refuses, or the connection has ended.
        """
        (answer,) = await self.call_together(words)
        if isinstance(answer, AdapterError):
            raise answer
        return answer

    async def call_together(self, *commands: Sequence[str | int]) -> list[Any]:
        """Say several commands at once, which the server carries out with nobody else's in between, if none waits.

        Returns:
            Their answers; an error answer as an `AdapterError`.

        Raises:
            AdapterError: the connection has ended.
        """
        if not self.is_open:  # redis-py would open another one
            raise ServerUnreachable(f"the connection to {self.place} has ended", "Look at the server's log for why.")
        from redis import exceptions  # it is loaded already: nothing is read from a disk here

        answers: list[Any] = []
        for number, words in enumerate(commands):
            try:
                if number == 0:
                    packed = self._connection.pack_commands(commands)
                    await self._connection.send_packed_command(packed, check_health=False)
                answers.append(await self._connection.read_response())
            except (exceptions.RedisError, OSError) as error:
                told = self._told(error, _shown(words))
                if told is None or isinstance(told, ServerUnreachable):
                    raise (told or error) from None
                answers.append(told)
        return answers

    async def refusal(self, *words: str | int) -> AdapterError | None:
        """The error that a command is answered with, or None."""
        try:
            await self.call(*words)
        except ServerUnreachable:
            raise
        except AdapterError as error:
            return error
        return None

    async def information(self) -> Information:
        """What the server says of itself now, without its configuration."""
        return Information.parse(await self.call("INFO"))

    async def configured(self) -> Mapping[str, str] | None:
        """The server's settings in `CONFIGURED`; None: it does not tell them to this account."""
        values: dict[str, str] = {}
        for name in CONFIGURED:  # servers before 7.0 take one name at a time
            try:
                answer = await self.call("CONFIG", "GET", name)
            except (PrivilegeMissing, ServerUnfit):
                return None
            pairs = (
                list(answer.items()) if isinstance(answer, dict) else list(zip(answer[::2], answer[1::2], strict=True))
            )
            values.update((str(key), str(value)) for key, value in pairs)
        return values

    async def close(self) -> None:
        """Close it in order."""
        with suppress(Exception):
            await self._connection.disconnect(nowait=True)

    def drop(self) -> None:
        """Close it at once, asking nobody. A closed connection ends no pause."""
        writer = self._connection._writer
        self._connection._reader = self._connection._writer = None
        if writer is not None:
            writer.transport.abort()

    def _told(self, error: BaseException, what: str) -> AdapterError | None:
        """A driver's error in our words; None: it is no such thing. Its text is used only where it has no secret."""
        from redis import exceptions

        if isinstance(error, AdapterError):
            return error
        if isinstance(error, exceptions.ConnectionError) and isinstance(error.__cause__, exceptions.RedisError):
            error = error.__cause__  # what the server has answered to the login
        text = str(error)
        for kinds, made in self._kinds():
            if isinstance(error, kinds):
                return made(what, text)
        return None

    def _kinds(self) -> list[tuple[tuple[type[BaseException], ...], Callable[[str, str], AdapterError]]]:
        """The driver's kinds of errors, and what each is for us; the first that fits counts. The driver takes the first
        word of an error answer away and makes its kind of it.
        """
        from redis import exceptions

        place = self.place
        return [
            ((exceptions.NoPermissionError,), lambda what, _: _forbidden(place, what, self._settings)),
            ((exceptions.AuthenticationError,), lambda _, text: _login_refused(place, self._settings, text)),
            ((exceptions.BusyLoadingError,), lambda *_: _loading(place)),
            ((exceptions.MovedError, exceptions.ClusterDownError), lambda *_: _not_this_node(place)),
            ((exceptions.ReadOnlyError,), lambda *_: _read_only(place)),
            ((exceptions.OutOfMemoryError,), lambda *_: _out_of_memory(place)),
            ((exceptions.ResponseError,), lambda what, text: _refused(place, what, text)),
            ((exceptions.TimeoutError, TimeoutError), lambda *_: _unreachable(place, "no answer in time")),
            ((exceptions.ConnectionError, OSError), lambda _, text: _unreachable(place, text)),
        ]


def _connection(settings: Settings) -> tuple[Any, str]:
    """A connection that is not open yet, and where it leads, in words without a secret."""
    try:
        from redis.asyncio.connection import ConnectionPool, parse_url
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ImportError:
        raise DriverMissing("the package redis is not installed", "Install it: pip install 'appvss[redis]'.") from None
    try:
        parts: dict[str, Any] = dict(parse_url(settings.url))
    except (ValueError, TypeError):
        raise SettingInvalid(
            "the url, which is not shown since it may have a password in it, is none that Redis knows",
            "Write redis://HOST:PORT/DATABASE or unix:///PATH.",
        ) from None
    host = parts.get("host", "localhost")
    place = f"unix://{parts['path']}" if "path" in parts else f"redis://{host}:{parts.get('port', 6379)}"
    account = {"username": settings.username} if settings.username else {}
    if settings.password:
        account["password"] = settings.password.reveal()
    arguments = {name: value for name, value in parts.items() if name != "connection_class"} | account
    arguments |= {
        "protocol": 2,  # the one that every version speaks
        "socket_timeout": None,  # every wait here has a limit of its own
        "socket_connect_timeout": CONNECT_LIMIT.total_seconds(),
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,  # silent in the hold
        "decode_responses": True,
        "encoding_errors": "replace",
    }
    if "connection_class" in parts:
        arguments["connection_class"] = parts["connection_class"]
    try:
        return ConnectionPool(**arguments).make_connection(), place  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, RedisError):
        raise SettingInvalid(
            f"the url of {place} has a parameter, or a value of one, that Redis's driver does not know",
            "Correct what stands behind its question mark.",
        ) from None


def _unreachable(place: str, text: str) -> AdapterError:
    return ServerUnreachable(
        f"no Redis answers at {place}: {text[:200].rstrip('.')}",
        "Start the server, or correct `url`; the account that asks must be allowed to open its socket.",
    )


def _forbidden(place: str, what: str, settings: Settings) -> AdapterError:
    return PrivilegeMissing(f"{place}: the account may not say {what}", acl_hint(settings))


def _login_refused(place: str, settings: Settings, text: str) -> AdapterError:
    who = f"the user {settings.username}" if settings.username else "the default user"
    if text.startswith("Authentication required") or not settings.password:
        hint = "Set `password`, and `username` if it has ACL users."
        return LoginRefused(f"{place} asks for a password of {who}", hint)
    return LoginRefused(
        f"{place} does not accept {who} with the password from {settings.password.source}",
        "Correct `username` and `password`; ACL LIST shows an administrator the users.",
    )


def _loading(place: str) -> AdapterError:
    return HoldRefused(f"{place} {LOADING}", "Wait until it has, and try again.")


def _not_this_node(place: str) -> AdapterError:
    return ServerUnfit(
        f"{place} is a node of a cluster that does not serve the slot of the marker key",
        "Give `marker_key` a hash tag of a slot that this node serves, such as appvss:marker{TAG}.",
    )


def _read_only(place: str) -> AdapterError:
    return ServerUnfit(f"{place} is a read-only replica", "Name its primary in `url`.")


def _out_of_memory(place: str) -> AdapterError:
    hint = "Raise `maxmemory`, or let it evict keys."
    return HoldRefused(f"{place} does not take the marker key: its memory is full", hint)


def _refused(place: str, what: str, text: str) -> AdapterError:
    """Any other error answer."""
    reason = text[:200]
    if text.startswith("MISCONF"):
        return HoldRefused(
            f"{place} takes no writes: its last save failed",
            "Read the server's log: a full disk, or no right to write to its `dir`. See `stop-writes-on-bgsave-error`.",
        )
    if "fork" in text:
        return HoldRefused(f"{place} cannot fork: {reason}", "Give it memory, or set vm.overcommit_memory=1.")
    if "unknown command" in text.lower() or "unknown subcommand" in text.lower():
        return ServerUnfit(f"{place} does not know {what}", "Redis 6.2 or newer is needed, with no command renamed.")
    return HoldRefused(f"{place} refuses {what}: {reason}", "Read the server's log.")


def _shown(words: Sequence[str | int]) -> str:
    """A command for people: its name alone, since the rest may be anything."""
    first = str(words[0])
    return f"{first} {words[1]}" if first in ("CLIENT", "CONFIG") and len(words) > 1 else first


@dataclass(frozen=True, slots=True)
class Look:
    """What a server says of itself, with its configuration."""

    information: Information
    configured: Mapping[str, str] | None = field(default=None)

    @classmethod
    async def take(cls, session: Session) -> Look:
        """Ask for both.

        Raises:
            AdapterError: it does not answer, or not even INFO is allowed.
        """
        return cls(await session.information(), await session.configured())

    def setting(self, name: str) -> str:
        """A setting of the server; empty: it is not known."""
        return (self.configured or {}).get(name, "")
