"""One session with a server: how it is opened, asked and ended, and what its failures mean.

Whatever is under way can be cancelled at once: the socket is shut down from outside, the server frees by itself what
the session held, and no answer is waited for (psycopg alone would wait up to ten seconds for one).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString

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
from appvss.adapters.postgresql.settings import Settings
from appvss.model.names import printable

if TYPE_CHECKING:
    import psycopg

OLDEST: Final = 130000
"""`server_version_num` of the oldest server that is served."""
_REFUSALS: Final = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "is not permitted to log in",
    "does not exist",
    "permission denied for database",
    "certificate",
)
"""What a server says that does not take the account. In other languages than English it counts as unreachable."""
_HINT: Final = (
    "Write it as libpq takes it: host=/run/postgresql user=appvss dbname=postgres; in a URL write %40 for @, %2F for / "
    "and %3A for : in user and password."
)
_URL: Final = re.compile(r"postgres(?:ql)?://([^?]*)")
_PREFIX: Final = re.compile(r"^(connection failed: )?(connection to server .*? failed: )?(FATAL:  )?")


class Session:
    """One connection, in autocommit. `connect` makes them.

    Attributes:
        version: `server_version_num`.
        login_pid: the process id that the login gave. A pooler makes one up.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], where: str) -> None:
        self._connection = connection
        self.where = where
        self.version = connection.info.server_version
        self.login_pid = connection.info.backend_pid

    async def rows(self, statement: LiteralString, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The whole answer to one statement. Cancelling it ends the session.

        Raises:
            AdapterError: the server has refused it, or is gone.
        """
        task = asyncio.create_task(self._ask(statement, values))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._cut()
            with contextlib.suppress(AdapterError, asyncio.CancelledError):
                await task
            raise

    async def row(self, statement: LiteralString, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The one row of an answer."""
        return (await self.rows(statement, values))[0]

    async def end(self) -> None:
        """Close it. Waits for nobody; what the session held, the server frees."""
        await self._connection.close()

    async def _ask(self, statement: LiteralString, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        import psycopg

        try:
            cursor = await self._connection.execute(statement, values or None)
            return await cursor.fetchall() if cursor.description is not None else []
        except psycopg.Error as error:
            raise meaning_of(error, self.where) from None

    def _cut(self) -> None:
        """Have the server see the end of the session, and whoever waits for an answer here, too."""
        import psycopg

        with (
            contextlib.suppress(OSError, psycopg.Error),  # the server may have ended it in the same moment
            socket.socket(fileno=os.dup(self._connection.fileno())) as twin,
        ):
            twin.shutdown(socket.SHUT_RDWR)


async def connect(settings: Settings) -> Session:
    """Log in. The caller bounds it.

    Raises:
        DriverMissing, SettingInvalid, ServerUnreachable, LoginRefused, ServerUnfit: in words, and never with a secret.
    """
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict, make_conninfo
    except ImportError:
        raise DriverMissing("psycopg is not installed", "Install it: pip install 'appvss[postgres]'.") from None
    try:
        parameters = conninfo_to_dict(settings.dsn)
    except (psycopg.Error, UnicodeError):  # its text quotes what it could not read, which may be a part of a password
        raise SettingInvalid("the dsn cannot be read", _HINT) from None
    _check_dsn(settings.dsn, parameters)
    if settings.password:
        parameters["password"] = settings.password.reveal()
    parameters["application_name"] = settings.application_name
    # Else a database in SQL_ASCII, as initdb makes it under LC_ALL=C, would have every text come as bytes.
    parameters["client_encoding"] = "UTF8"
    where = _where(parameters)
    try:
        # A statement that is asked once needs not be prepared, and a pooler would not keep it.
        connection = await psycopg.AsyncConnection.connect(
            make_conninfo("", **parameters), autocommit=True, prepare_threshold=None
        )
    except psycopg.Error as error:
        raise _not_connected(error, parameters, where) from None
    except UnicodeError:  # a label of a host's name that is empty or too long; a password that is no UTF-8
        raise SettingInvalid("the dsn or the password has what no host or server can be asked with", _HINT) from None
    session = Session(connection, where)
    try:
        _check(connection, session)
    except AdapterError:
        await session.end()
        raise
    return session


def _check_dsn(dsn: str, parameters: dict[str, Any]) -> None:
    """Refuse a URL with a password as it is: from its first `/` or `@` on, libpq takes it for port, host or database,
    which messages name.

    Raises:
        SettingInvalid: it is one, or the port is no number.
    """
    address = _URL.match(dsn)
    if address and (address[1].count("@") > 1 or "@" in address[1].partition("/")[2]):
        raise SettingInvalid("the dsn is a URL in which it is not clear where the password ends", _HINT)
    if not re.fullmatch(r"[0-9,\s]*", str(parameters.get("port") or "")):
        raise SettingInvalid("the port in the dsn is no number", _HINT)


def _check(connection: psycopg.AsyncConnection[Any], session: Session) -> None:
    """Refuse who is not a server that is new enough, by what it has said at the login."""
    version = connection.info.parameter_status("server_version") or ""
    if "bouncer" in version:
        raise pooler(f"{session.where} is the console of a pooler ({printable(version)})")
    if session.version < OLDEST:
        raise ServerUnfit(
            f"PostgreSQL {printable(version)} at {session.where} is too old: 13 is the oldest that is served",
            "Upgrade the server; its file systems can be frozen without its adapter meanwhile.",
        )


def pooler(sentence: str) -> ServerUnfit:
    """The refusal of a pooler. One that gives a server's session to another client, or keeps it when this one dies,
    would leave a hold behind; so none is taken, whatever its mode.
    """
    return ServerUnfit(
        sentence, "Connect to the server itself: give its own host and port (5432) or socket in the dsn."
    )


def meaning_of(error: psycopg.Error, where: str) -> AdapterError:
    """What a failed statement means."""
    said = printable(error.diag.message_primary or str(error).partition("\n")[0])
    match error.sqlstate or "":
        case "42501":
            return PrivilegeMissing(f"PostgreSQL at {where} says: {said}", "`appvss agent check` names the GRANT.")
        case "57014":
            return HoldRefused(
                f"PostgreSQL at {where} was not done in time: {said}", "Give the freeze more time, or try again."
            )
        case "" | "57P01" | "57P02" | "57P03" | "57P05":
            return ServerUnreachable(f"PostgreSQL at {where} has ended the session: {said}", "Look into its log.")
    return HoldRefused(f"PostgreSQL at {where} says: {said}", "Look into its log.")


def _not_connected(error: psycopg.Error, parameters: dict[str, Any], where: str) -> AdapterError:
    said = _PREFIX.sub("", str(error)).partition("\n")[0]
    for key in ("password", "sslpassword"):
        if secret := parameters.get(key):
            said = said.replace(str(secret), "***")
    said = printable(said)
    if any(refusal in said for refusal in _REFUSALS) and "server running" not in said:
        return LoginRefused(
            f"PostgreSQL at {where} does not take the account {_user(parameters)}: {said}",
            "Check user, password and pg_hba.conf; the password belongs into `password`.",
        )
    return ServerUnreachable(f"PostgreSQL at {where} does not answer: {said}", "Start it, or correct the dsn.")


def _user(parameters: dict[str, Any]) -> str:
    return printable(str(parameters.get("user") or os.environ.get("PGUSER") or f"of uid {os.geteuid()}"))


def _where(parameters: dict[str, Any]) -> str:
    """Which server is meant, for people: no user's secret is in it."""
    host = parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST") or "the default socket"
    port = parameters.get("port") or os.environ.get("PGPORT") or "5432"
    return printable(f"{host} port {port}")


def seconds(length: timedelta) -> float:
    """For asyncio's time-outs."""
    return max(0.0, length.total_seconds())
