"""A slapd of a test's own: its own cn=config, its own database, a socket in its own folder, a child of the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.running_broker import short_directory

SUFFIX = "dc=example,dc=org"
ROOT_DN, ROOT_PASSWORD = f"cn=admin,{SUFFIX}", "open sesame"
BOUND = 20.0
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/libexec", "/usr/local/libexec"))
_MODULES = next((each for each in ("/usr/lib/ldap", "/usr/lib64/openldap") if Path(each, "back_mdb.la").exists()), "")
_SCHEMA = "/etc/ldap/schema/core.ldif"

CONFIG = """\
dn: cn=config
objectClass: olcGlobal
cn: config
{tls}

dn: cn=module{{0}},cn=config
objectClass: olcModuleList
cn: module{{0}}
olcModulePath: {modules}
olcModuleLoad: back_mdb
olcModuleLoad: syncprov
olcModuleLoad: back_monitor

dn: cn=schema,cn=config
objectClass: olcSchemaConfig
cn: schema

include: file://{schema}

dn: olcDatabase={{0}}config,cn=config
objectClass: olcDatabaseConfig
olcDatabase: {{0}}config
olcAccess: {{0}}to * by dn.exact={me} {config_access} by * none

dn: olcDatabase={{1}}mdb,cn=config
objectClass: olcDatabaseConfig
objectClass: olcMdbConfig
olcDatabase: {{1}}mdb
olcSuffix: {suffix}
olcDbDirectory: {home}/db
olcRootDN: cn=admin,{suffix}
olcRootPW: open sesame
olcAccess: {{0}}to * by * read
{more}
{overlay}
dn: olcDatabase={{2}}monitor,cn=config
objectClass: olcDatabaseConfig
olcDatabase: {{2}}monitor
olcAccess: {{0}}to * by dn.exact={me} {monitor_access} by * none
"""
OVERLAY = """
dn: olcOverlay={0}syncprov,olcDatabase={1}mdb,cn=config
objectClass: olcOverlayConfig
objectClass: olcSyncProvConfig
olcOverlay: {0}syncprov

"""
ENTRIES = f"""\
dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
dc: example
o: example
"""


def why_not() -> str:
    """Why there can be no slapd here; empty: there can."""
    missing = [each for each in ("slapd", "slapadd") if shutil.which(each, path=_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (sh scripts/setup databases)"
    return (
        ""
        if _MODULES and Path(_SCHEMA).exists()
        else "the modules or the schema of slapd are not where they are looked for"
    )


class Slapd:
    """One that may be started again.

    Args:
        home: an empty folder, short: a socket's path is.
        more: further lines of the database's entry.
        tls: a TCP port for `ldaps://`, and the file of the key and the certificate that it shows there.
    """

    def __init__(
        self,
        home: Path,
        *,
        more: str = "",
        overlay: str = OVERLAY,
        config_access: str = "manage",
        monitor_access: str = "write",
        tls: tuple[int, Path] | None = None,
    ) -> None:
        self.home = home
        self.uri = f"ldapi://{quote(str(home / 'ldapi'), safe='')}"
        self._addresses = f"{self.uri} ldaps://localhost:{tls[0]}" if tls else self.uri
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("config", "db"):
            (home / name).mkdir()
        me = f"gidNumber={os.getegid()}+uidNumber={os.geteuid()},cn=peercred,cn=external,cn=auth"
        text = CONFIG.format(
            modules=_MODULES,
            schema=_SCHEMA,
            me=me,
            suffix=SUFFIX,
            home=home,
            more=more,
            overlay=overlay,
            config_access=config_access,
            monitor_access=monitor_access,
            tls="".join(f"olcTLSCertificate{of}File: {tls[1]}\n" for of in ("", "Key")) if tls else "",
        )
        self._add(text, "0")
        self._add(ENTRIES, "1")
        self.start()

    def _add(self, text: str, number: str) -> None:
        command = (_program("slapadd"), "-n", number, "-F", str(self.home / "config"))
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=BOUND, check=False)
        assert done.returncode == 0, done.stderr

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it listens. What is said to it then is answered."""
        command = (_program("slapd"), "-F", str(self.home / "config"), "-h", self._addresses, "-d", "0")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + BOUND
        while True:
            with socket.socket(socket.AF_UNIX) as tried:
                if tried.connect_ex(str(self.home / "ldapi")) == 0:
                    return
            assert self._process.poll() is None, "slapd has ended"
            assert time.monotonic() < deadline, "slapd does not answer"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(BOUND)
            self._process = None

    def send(self, number: int) -> None:
        """A signal to it."""
        assert self._process is not None
        self._process.send_signal(number)

    def connection(self, *, as_root_of_the_data: bool = False) -> Any:
        """A connection of the test's own."""
        import ldap3

        server = ldap3.Server(self.uri, get_info=ldap3.NONE, connect_timeout=5)
        account: dict[str, Any] = {
            "authentication": ldap3.SASL,
            "sasl_mechanism": ldap3.EXTERNAL,
            "sasl_credentials": "",
        }
        if as_root_of_the_data:
            account = {"user": ROOT_DN, "password": ROOT_PASSWORD}
        connection = ldap3.Connection(server, receive_timeout=10, check_names=False, **account)
        assert connection.bind(), connection.result
        return connection

    def write(self, number: int) -> str:
        """A client's write; what slapd says to it."""
        connection = self.connection(as_root_of_the_data=True)
        try:
            connection.add(f"o=o{number},{SUFFIX}", "organization", {"o": f"o{number}"})
            return str(connection.result["description"])
        finally:
            connection.unbind()

    def set(self, dn: str, attribute: str, value: str) -> None:
        """What another administrator does."""
        connection = self.connection()
        try:
            connection.modify(dn, {attribute: [("MODIFY_REPLACE", [value])]})
            assert connection.result["result"] == 0, connection.result
        finally:
            connection.unbind()

    def on_disk(self) -> str:
        """The database's entry in cn=config, as it lies there."""
        return (self.home / "config" / "cn=config" / "olcDatabase={1}mdb.ldif").read_text()


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    assert found is not None
    return found


@contextmanager
def private_slapd(**more: Any) -> Iterator[Slapd]:
    """One that is gone afterwards. Skips where there is none."""
    if reason := why_not():
        pytest.skip(reason)
    home = short_directory()
    slapd = Slapd(home, **more)
    try:
        yield slapd
    finally:
        slapd.stop()
        shutil.rmtree(home)
