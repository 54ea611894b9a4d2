"""One session with a MariaDB or MySQL server: PyMySQL in a thread of its own, cut off from outside when it must end.

The session *is* the hold: what it locks is free as soon as the server sees its end, 6 to 12 ms after a kill of this
process (facts/database-quiesce.md section 5.3). So nothing here ever connects again by itself, and a session that is
cancelled is cut at its socket: a server that is waiting for a lock notices within a second, because it looks once a
second whether its client is still there.

Statements run in the session's one thread (`run`), and there alone; `sever` may be called from anywhere.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

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
from appvss.adapters.settings import Secret

CONNECT_LIMIT: Final = timedelta(seconds=5)
"""How long a connection may take, its login included."""
ANSWER_LIMIT: Final = timedelta(seconds=10)
"""How long a statement may take that waits for nobody."""

_OWN_SETTINGS: Final = (
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', SESSION sql_quote_show_create = 1,"
    " SESSION time_zone = 'SYSTEM'"
)
"""What an administrator may have set otherwise for everybody, and what the answers depend on: how SHOW GRANTS quotes
names, and whether NOW() is in the time zone of InnoDB's own times."""
LOCK_WAIT_TIMEOUT: Final = 1205
_LOGIN: Final = frozenset({1045, 1130, 1251, 1524, 1698, 1820, 1862, 2059, 2061, 3118, 4151})
_GONE: Final = frozenset({0, 1053, 1129, 1158, 1159, 1160, 1161, 1927, 2002, 2003, 2005, 2006, 2013, 4031})
_FULL: Final = frozenset({1040, 1203, 1226})
_FORBIDDEN: Final = frozenset({1044, 1142, 1143, 1227, 1370, 3619})
_READ_ONLY: Final = frozenset({1290, 1792, 1836})
_DISK_FULL: Final = frozenset({3, 1021, 1114})

ResultT = TypeVar("ResultT")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and who logs in there."""

    socket: Path
    """The Unix socket; not used if there is a host."""
    host: str
    port: int
    user: str
    password: Secret
    tls_ca: Path
    """The certificates that the server's must be signed by; `Path()`: TLS if the server offers it, unproven."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.host else str(self.socket)


class StatementFailed(Exception):
    """The server, or the way to it, said no to a statement. Stays inside the adapters: `translated` makes it public.

    Attributes:
        code: the server's number for it; 0: the connection was closed before.
        text: in the server's words.
        needs: what the statement needs, as a GRANT names it; empty: nothing in particular.
    """

    def __init__(self, code: int, text: str, needs: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.needs = needs


class Session:
    """One connection and the thread that alone speaks on it.

    Args:
        address: where the server is.
        extra: what `pip install 'appvss[...]'` installs the driver with, for the hint.
    """

    def __init__(self, address: Address, extra: str) -> None:
        self.address = address
        self.account = f"'{address.user}'@'localhost'"
        """Whom the server takes this session for, as a GRANT names it."""
        self.handshake_id = 0
        """The connection's number as the handshake told it: another than the server's own if somebody is in between."""
        self.handshake_version = ""
        self.ended = threading.Event()
        """Set when the session is over: what waits in its thread stops."""
        self._extra = extra
        self._connection: Any = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"appvss {extra} {address}")

    # From the event loop.

    async def run(self, work: Callable[..., ResultT], *arguments: object) -> ResultT:
        """Have the thread do some work. When this is cancelled, the session is severed.

        Raises:
            AdapterError: whatever the server said no with; or the session has ended.
        """
        if self.ended.is_set():  # Its thread takes no work any more.
            raise translated(StatementFailed(0, "the session has ended"), self)
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        future.add_done_callback(_heard)  # Nobody else hears what a thread has failed with that was cut off.
        try:
            return await asyncio.shield(future)
        except StatementFailed as failure:
            raise translated(failure, self) from None
        except asyncio.CancelledError:
            self.sever()
            raise

    def sever(self) -> None:
        """End the session without a word to the server, whatever its thread is doing. May be called again."""
        if self.ended.is_set():
            return
        self.ended.set()
        descriptor = getattr(getattr(self._connection, "_sock", None), "fileno", lambda: -1)()
        # A socket of our own on the same connection: the thread may be in the middle of a read of the other.
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as way_out:
            way_out.shutdown(socket.SHUT_RDWR)
        self._executor.submit(self._discard)
        self._executor.shutdown(wait=False)

    async def close(self) -> None:
        """End the session as the protocol wants it. Bounded; a server that does not answer is left."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._executor.submit(self._say_goodbye)
        self._executor.shutdown(wait=False)

    # In the thread.

    def open(self) -> None:
        """Connect and log in.

        Raises:
            StatementFailed: nobody answers, or the account is not accepted.
            DriverMissing: PyMySQL, or what it needs for this account, is not installed.
            SettingInvalid: the password, or `tls_ca`, cannot be read.
        """
        pymysql = _driver(self._extra)
        address = self.address
        way: dict[str, Any] = {"unix_socket": str(address.socket), "ssl_disabled": True}
        if address.host:
            way = {"host": address.host, "port": address.port}
            if address.tls_ca != Path():
                way |= {"ssl_ca": str(address.tls_ca), "ssl_verify_cert": True, "ssl_verify_identity": True}
        limit = CONNECT_LIMIT.total_seconds()
        try:
            self._connection = pymysql.connect(
                user=address.user,
                password=address.password.reveal(),
                autocommit=True,
                connect_timeout=limit,
                read_timeout=limit,
                write_timeout=limit,
                defer_connect=True,
                program_name="appvss",
                init_command=_OWN_SETTINGS,
                **way,
            )
            self._connection.connect(None if address.host else self._reach())
        except pymysql.MySQLError as error:
            raise _failed(error) from None
        except OSError as error:
            raise SettingInvalid(
                f"tls_ca {address.tls_ca} cannot be used: {error}", "Name a file with certificates in PEM form."
            ) from None
        except RuntimeError as error:  # PyMySQL asks for `cryptography` this way.
            raise DriverMissing(
                f"PyMySQL cannot log in with this account's method: {error}",
                f"Install what it needs: pip install 'appvss[{self._extra}]' cryptography",
            ) from None
        if self.ended.is_set():  # It was severed before there was a socket to shut down.
            self._discard()
            raise StatementFailed(0, "the session was ended")
        self.handshake_id = self._connection.thread_id()
        self.handshake_version = self._connection.get_server_info()
        ((user, host),) = self.query(
            "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1), SUBSTRING_INDEX(CURRENT_USER(), '@', -1)"
        )
        self.account = f"'{user}'@'{host}'"

    def _reach(self) -> socket.socket:
        """Connect to the Unix socket. By ourselves: PyMySQL leaves one open that cannot be connected."""
        plain = socket.socket(socket.AF_UNIX)
        try:
            plain.settimeout(CONNECT_LIMIT.total_seconds())
            plain.connect(str(self.address.socket))
        except OSError as error:
            plain.close()
            raise StatementFailed(2002, error.strerror or str(error)) from None
        self._connection._secure = True  # As PyMySQL itself says of a Unix socket: a password may go over it.
        return plain

    def query(
        self, statement: str, arguments: Sequence[object] = (), *, needs: str = "", within: timedelta = ANSWER_LIMIT
    ) -> list[Row]:
        """Run one statement and fetch its rows.

        Args:
            statement: SQL, with `%s` for each argument; without arguments taken as it is.
            arguments: one for each `%s`.
            needs: the privilege that it needs, as a GRANT names it: `RELOAD ON *.*`.
            within: how long the answer may take; then the connection is closed.

        Raises:
            StatementFailed: the server said no, or is gone.
        """
        if self._connection is None or self.ended.is_set():
            raise StatementFailed(0, "the session has ended")
        pymysql = _driver(self._extra)
        self._connection._read_timeout = max(within.total_seconds(), 0.001)
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, tuple(arguments) or None)
                return list(cursor.fetchall())
        except pymysql.MySQLError as error:
            raise _failed(error, needs) from None

    def variables(self, *names: str) -> dict[str, str]:
        """Global variables of the server; those that it does not have are left out."""
        places = ", ".join(["%s"] * len(names))
        rows = self.query(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({places})", names)
        return {str(name): str(value) for name, value in rows}

    def status(self, *names: str) -> dict[str, int]:
        """Counters of the server; those that it does not have are left out."""
        places = ", ".join(["%s"] * len(names))
        rows = self.query(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({places})", names)
        return {str(name): int(value) for name, value in rows}

    def pause(self, length: timedelta) -> None:
        """Wait, but not beyond the session's end.

        Raises:
            StatementFailed: the session has ended.
        """
        if self.ended.wait(length.total_seconds()):
            raise StatementFailed(0, "the session was ended")

    def _say_goodbye(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()

    def _discard(self) -> None:
        """Close the socket without a word."""
        if self._connection is not None:
            with suppress(Exception):
                self._connection._force_close()


def _heard(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _driver(extra: str) -> Any:
    try:
        import pymysql
    except ImportError:
        raise DriverMissing("the package PyMySQL is not installed", f"pip install 'appvss[{extra}]'") from None
    return pymysql


def _failed(error: Exception, needs: str = "") -> StatementFailed:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 and error.args[1] else "the connection is closed"
    return StatementFailed(code, text, needs)


def translated(failure: StatementFailed, session: Session) -> AdapterError:
    """What a failure of a statement means to an administrator, with a hint."""
    server, code, text = session.address, failure.code, failure.text.rstrip(".")
    if code in _LOGIN:
        return LoginRefused(
            f"the server at {server} does not accept {server.user!r}: {text}",
            "Set user and password to those of an account of this server, and let it log in from this host.",
        )
    if code in _FULL:
        return ServerUnreachable(
            f"the server at {server} takes no more connections of {server.user!r}: {text}",
            "Raise max_connections, or what limits this account, or end what holds so many: `SHOW PROCESSLIST`.",
        )
    if code in _GONE and "CERTIFICATE_VERIFY_FAILED" in text:
        return ServerUnreachable(
            f"the server at {server} has no certificate that is good enough: {text}",
            "Set `tls_ca` to the certificate that has signed the server's, and `host` to a name that stands in it.",
        )
    if code in _GONE:
        return ServerUnreachable(
            f"the server at {server} does not answer: {text}",
            "Start it, or set `socket`, or `host` and `port`, to where it listens.",
        )
    if code in _FORBIDDEN:
        grant = f"GRANT {failure.needs} TO {session.account};" if failure.needs else "the privilege that it names"
        return PrivilegeMissing(f"{session.account} may not do what the hold needs: {text}", f"Run as root: {grant}")
    if code == LOCK_WAIT_TIMEOUT:
        return HoldRefused(
            f"the server at {server} did not come to rest in time: {text}",
            "Try again; `SHOW PROCESSLIST` shows the long statements and open transactions that are waited for.",
        )
    if code in _READ_ONLY and "read" in text.lower():
        return ServerUnfit(f"the server at {server} is read-only: {text}", "Let the primary take part instead.")
    if code in _DISK_FULL or "No space left" in text:
        return HoldRefused(f"the server at {server} cannot write: {text}", "Make room on its disk and try again.")
    return HoldRefused(f"the server at {server} said no: {text} ({code})", "Read the server's own error log.")
