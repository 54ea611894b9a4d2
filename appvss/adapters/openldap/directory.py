"""How a slapd is spoken to: one connection, in a thread of its own, whose socket can be closed from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

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
from appvss.adapters.openldap.settings import Recipe, Settings
from appvss.adapters.waiting import to_the_end
from appvss.model.duration import format_duration

ASK_LIMIT: Final = timedelta(seconds=5)
_SUCCESS: Final = 0
_NO_SUCH_ATTRIBUTE: Final = 16
_NO_SUCH_OBJECT: Final = 32
_CREDENTIALS: Final = frozenset({7, 8, 13, 48, 49})  # RFC 4511, appendix A.1
_ACCESS: Final = 50
_LOCAL: Final = frozenset({"ldapi:///", "ldapi://"})
"""The socket at the place that slapd was built with. ldap3 takes it for the folder `/`."""
_SOCKETS: Final = (
    "/var/run/slapd/ldapi",  # Debian's, seen; the others' are those of their documents
    "/var/run/ldapi",
    "/var/run/openldap/ldapi",
    "/usr/local/var/run/ldapi",
)
_UNPROVEN: Final = re.compile(r"certificate verify failed: (.*?) \(_ssl")
_DATABASES: Final = "cn=Databases,cn=Monitor"

_ResultT = TypeVar("_ResultT")


@dataclass(frozen=True, slots=True)
class Switch:
    """What makes a database read-only, and what it says now."""

    dn: str
    attribute: str
    value: str
    """`TRUE`, `FALSE`, or empty: it is not there."""

    @property
    def is_on(self) -> bool:
        """Whether the database is read-only."""
        return self.value.upper() == "TRUE"


@dataclass(frozen=True, slots=True)
class Database:
    """What a slapd says about one of its databases."""

    suffix: str
    version: str
    directory: str
    """Empty: it does not say, or not to this account."""
    position: str
    """`contextCSN`; empty: it keeps none (the overlay syncprov does)."""
    entries: str
    """How many; empty: it does not say (cn=monitor does)."""
    settings: Mapping[str, str]


class Directory:
    """One connection. Made by `connect`; whoever has it owes `close`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="openldap")
        self._connection: Any = None

    async def connect(self) -> None:
        """Open it.

        Raises:
            AdapterError: nobody answers, or the account is not accepted.
        """
        await self._run(self._connect)

    async def look(self) -> Database:
        """What the database is, and where it stands.

        Raises:
            AdapterError: there is none, or several and no suffix is configured.
        """
        return await self._run(self._look)

    async def switch(self, recipe: Recipe) -> Switch:
        """What makes the database read-only.

        Raises:
            AdapterError: there is no such thing, or not for this account.
        """
        return await self._run(lambda: self._switch(recipe))

    async def set(self, switch: Switch, value: str) -> None:
        """Make the database read-only, or not. Empty: take the attribute away.

        Raises:
            AdapterError: slapd refuses.
        """
        # Cut off half-way, slapd might read it still when somebody has undone it already.
        await self._run(lambda: self._set(switch, value), is_awaited=True)

    def drop(self) -> None:
        """Close the socket, without a word to slapd. Waits for nobody."""
        connection = self._connection
        opened = getattr(connection, "socket", None)
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                opened.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], _ResultT], *, is_awaited: bool = False) -> _ResultT:
        """In the thread. Cancelled or too late, the socket is closed, which ends the thread's wait.

        Args:
            work: what is done there.
            is_awaited: whether the answer is waited for also when cancelled, as long as any answer is.
        """
        try:
            future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        except RuntimeError as error:  # `drop` has ended the thread; whoever has something to undo connects again
            raise ServerUnreachable("the connection to slapd was cut", "It was needed no more.") from error
        try:
            async with asyncio.timeout(ASK_LIMIT.total_seconds()):
                return await asyncio.shield(future)
        except TimeoutError as error:
            self.drop()
            await to_the_end(_ended(future))
            raise ServerUnreachable(
                f"slapd did not answer within {format_duration(ASK_LIMIT)}", "See whether its disk hangs."
            ) from error
        except asyncio.CancelledError:
            if not is_awaited or not await to_the_end(_ended(future)):
                self.drop()
                await to_the_end(_ended(future))
            raise

    # -- in the thread

    def _connect(self) -> None:
        ldap3 = _ldap3()
        seconds = int(ASK_LIMIT.total_seconds())
        account: dict[str, Any] = {
            "authentication": ldap3.SASL,
            "sasl_mechanism": ldap3.EXTERNAL,
            "sasl_credentials": "",
        }
        if self._settings.bind_dn:
            account = {"user": self._settings.bind_dn, "password": self._settings.password.reveal()}
        try:
            server = ldap3.Server(
                _address(self._settings.uri), get_info=ldap3.NONE, connect_timeout=seconds, tls=self._tls()
            )
            self._connection = ldap3.Connection(
                server, receive_timeout=seconds, auto_referrals=False, check_names=False, **account
            )
            self._connection.bind()
        except ldap3.core.exceptions.LDAPInvalidServerError as error:
            raise SettingInvalid("the address of slapd cannot be read", 'Write uri = "ldapi:///".') from error
        except (ldap3.core.exceptions.LDAPExceptionError, OSError) as error:
            if unproven := _UNPROVEN.search(str(error)):
                raise ServerUnreachable(
                    f"slapd at {self._settings.uri} has no certificate that is good enough: {unproven[1]}",
                    "Set `tls_ca` to the certificate that has signed slapd's, and `uri` to a name that stands in it.",
                ) from error
            raise ServerUnreachable(f"no slapd answers at {self._settings.uri}", _where(self._settings.uri)) from error
        code = int(self._connection.result["result"])
        if code != _SUCCESS:
            raise _refusal("bind", code, str(self._connection.result["description"]))

    def _tls(self) -> Any:
        """What a server behind `ldaps://` must show before it is told a password; None for other addresses.

        ldap3 asks for nothing by itself, and compares names by what later Pythons do not have any more.
        """
        if not self._settings.uri.lower().startswith("ldaps:"):
            return None
        authorities = self._settings.tls_ca
        try:
            context = ssl.create_default_context(cafile=str(authorities) if authorities != Path() else None)
        except OSError as error:
            raise SettingInvalid(
                f"tls_ca {authorities} cannot be used: {(error.strerror or str(error)).lower()}",
                "Name a file with certificates in PEM form.",
            ) from error

        class Proven(_ldap3().Tls):  # type: ignore[misc]  # a class of a module that is imported when it is needed
            def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
                connection.socket = context.wrap_socket(
                    connection.socket, server_hostname=connection.server.host, do_handshake_on_connect=do_handshake
                )

        return Proven(validate=ssl.CERT_REQUIRED)

    def _look(self) -> Database:
        found = self._search("cn=config", "(&(objectClass=olcDatabaseConfig)(olcSuffix=*))", "SUBTREE", _CONFIG)
        suffixes = [each["olcSuffix"] for each in found] or self._naming_contexts()
        suffix = self._settings.suffix or (suffixes[0] if len(suffixes) == 1 else "")
        if not suffix:
            raise ServerUnfit(f"slapd has {len(suffixes)} databases", "Name one of them as `suffix`.")
        entry = next((each for each in found if _same(each["olcSuffix"], suffix)), {})
        base = self._search(suffix, "(objectClass=*)", "BASE", ("contextCSN", "entryDN"))
        if not base:
            raise ServerUnfit(f"there is no entry {suffix}, or not for this account", "Is `suffix` right?")
        monitored = self._monitored(suffix)
        product = self._search("cn=Monitor", "(objectClass=*)", "BASE", ("monitoredInfo",))
        return Database(
            suffix=suffix,
            version=product[0].get("monitoredInfo", "") if product else "",
            directory=entry.get("olcDbDirectory", "") or monitored.get("olmDbDirectory", ""),
            position=base[0].get("contextCSN", ""),
            entries=monitored.get("olmMDBEntries", ""),
            settings={name: entry.get(name, "") for name in ("olcDbNoSync", "olcDbEnvFlags") if entry},
        )

    def _naming_contexts(self) -> list[str]:
        found = self._search("", "(objectClass=*)", "BASE", ("namingContexts",))
        return found[0].get("namingContexts", "").split("\n") if found else []

    def _monitored(self, suffix: str) -> dict[str, str]:
        wanted = ("namingContexts", "readOnly", "olmMDBEntries", "olmDbDirectory")
        found = self._search(_DATABASES, "(namingContexts=*)", "LEVEL", wanted)
        return next((each for each in found if _same(each.get("namingContexts", ""), suffix)), {})

    def _switch(self, recipe: Recipe) -> Switch:
        suffix = self._look().suffix
        if recipe is Recipe.MONITOR:
            found = self._monitored(suffix)
            hint = "Add the database `monitor` to slapd, and let the account write to it (slapd-monitor(5))."
            attribute = "readOnly"
        else:
            entries = self._search("cn=config", "(&(objectClass=olcDatabaseConfig)(olcSuffix=*))", "SUBTREE", _CONFIG)
            found = next((each for each in entries if _same(each["olcSuffix"], suffix)), {})
            hint = "Have slapd run from cn=config, and let the account manage it (slapd-config(5))."
            attribute = "olcReadOnly"
        if not found:
            raise ServerUnfit(f"the account sees no entry of {suffix} in cn={recipe.value}", hint)
        return Switch(found["dn"], attribute, found.get(attribute, ""))

    def _set(self, switch: Switch, value: str) -> None:
        change = ("MODIFY_REPLACE", [value] if value else [])  # an empty replacement takes it away (RFC 4511, 4.6)
        self._ask("modify", switch.dn, {switch.attribute: [change]})
        code = int(self._connection.result["result"])
        if code not in (_SUCCESS, _NO_SUCH_ATTRIBUTE):
            raise _refusal(f"to set {switch.attribute}", code, str(self._connection.result["description"]))

    def _search(self, base: str, wanted: str, scope: str, attributes: tuple[str, ...]) -> list[dict[str, str]]:
        """What is found, several values joined by a new line; nothing, where the account sees nothing."""
        self._ask("search", base, wanted, scope, attributes=list(attributes))
        code = int(self._connection.result["result"])
        if code in (_NO_SUCH_OBJECT, _ACCESS):
            return []
        if code != _SUCCESS:
            raise _refusal("to search", code, str(self._connection.result["description"]))
        return [
            {"dn": each["dn"], **{name: _text(values) for name, values in each["raw_attributes"].items() if values}}
            for each in self._connection.response
            if each["type"] == "searchResEntry"
        ]

    def _ask(self, method: str, *arguments: Any, **more: Any) -> None:
        ldap3 = _ldap3()
        try:
            getattr(self._connection, method)(*arguments, **more)
        except (ldap3.core.exceptions.LDAPExceptionError, OSError) as error:
            raise ServerUnreachable(
                f"the connection to slapd has ended ({type(error).__name__})", "See slapd's log."
            ) from error


_CONFIG: Final = ("olcSuffix", "olcDbDirectory", "olcReadOnly", "olcDbNoSync", "olcDbEnvFlags")


async def _ended(future: asyncio.Future[Any]) -> bool:
    """Wait for the end as long as for any answer; whether it came."""
    await asyncio.wait([future], timeout=ASK_LIMIT.total_seconds())
    if future.done() and not future.cancelled():
        future.exception()  # it was heard
    return future.done()


def _ldap3() -> Any:
    try:
        with warnings.catch_warnings():  # of its own use of pyasn1
            warnings.simplefilter("ignore", DeprecationWarning)
            import ldap3
    except ImportError as error:
        raise DriverMissing("ldap3 is not installed", "Run `pip install 'appvss[openldap]'`.") from error
    return ldap3


def _address(uri: str) -> str:
    """The address with the path of its socket in it, if it stands for that of the distribution."""
    if uri not in _LOCAL:
        return uri
    path = next((each for each in _SOCKETS if os.path.exists(each)), _SOCKETS[0])
    return f"ldapi://{quote(path, safe='')}"


def _where(uri: str) -> str:
    """What to do where nobody answers."""
    hint = "Is it running, with this address in its `-h`?"
    if _address(uri) == uri:
        return hint
    return (
        f"{hint} Its socket is looked for at {', '.join(_SOCKETS)}; elsewhere write its path: ldapi://%2Fsome%2Fldapi"
    )


def _refusal(what: str, code: int, text: str) -> AdapterError:
    if code in _CREDENTIALS:
        return LoginRefused("slapd does not accept the account", "Look at `bind_dn` and `password`.")
    if code == _ACCESS:
        return PrivilegeMissing(
            f"the account may not do it: {what}",
            "Give it access, such as olcAccess: {0}to * by"
            " dn.exact=gidNumber=0+uidNumber=0,cn=peercred,cn=external,cn=auth manage by * none",
        )
    return HoldRefused(f"slapd refuses {what}: {text}", "See slapd's log.")


def _text(values: list[bytes]) -> str:
    return "\n".join(each.decode("utf-8", "replace") for each in values)


def _same(one: str, other: str) -> bool:
    """Whether two suffixes are the same. One of several lines is as good."""
    return other.replace(" ", "").lower() in (each.replace(" ", "").lower() for each in one.split("\n"))
