"""A network namespace of its own for one test, and programs in it that send what they like over netlink."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from appvss.sources.wire.linux_netlink import (
    ADD_MEMBERSHIP,
    CONNECTOR,
    GROUP,
    NETLINK_FAMILY,
    SOL_NETLINK,
)

_CLONE_NEWNET = 0x40000000
SECONDS = 20


@pytest.fixture
def private_network() -> Iterator[None]:
    """The test's own thread, and what it starts, is in a fresh network namespace; skips, with the reason, where that or
    the netlink connector cannot be had.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("the netlink connector is Linux's")
    library = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if library.unshare(_CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespace of its own here: {os.strerror(ctypes.get_errno())}")
        try:
            try:
                connector_socket().close()
            except OSError as error:
                pytest.skip(f"no netlink connector in this kernel (CONFIG_CONNECTOR): {error.strerror}")
            yield
        finally:
            if library.setns(before, _CLONE_NEWNET) != 0:
                pytest.exit(f"the test's thread cannot leave its namespace: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(before)


def connector_socket(portid: int = 0, *, joined: bool = False) -> socket.socket:
    """A connector socket that blocks for `SECONDS` at most.

    Args:
        portid: its port id; 0: the kernel chooses.
        joined: whether it is in the driver's group, as a daemon's.
    """
    made = socket.socket(NETLINK_FAMILY, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, CONNECTOR)
    try:
        made.bind((portid, 0))
        if joined:
            made.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP)
        made.settimeout(SECONDS)
    except BaseException:
        made.close()
        raise
    return made


def send(to: socket.socket | int, *datagrams: bytes, group: int = 0) -> None:
    """Send from a socket of its own that is gone afterwards.

    Args:
        to: a socket, or its port id.
        datagrams: what to send.
        group: a mask of groups that hear it, too.
    """
    portid = to if isinstance(to, int) else to.getsockname()[0]
    with connector_socket() as sender:
        for datagram in datagrams:
            try:
                sender.sendto(datagram, (portid, group))
            except OSError as error:
                # Nobody has port 0 here; the group has it all the same.
                if error.errno != errno.ECONNREFUSED or not group:
                    raise


def without_rights(program: str, *arguments: str) -> str:
    """What a Python program of this repository's writes to standard output, run without CAP_NET_ADMIN."""
    command = ["setpriv", "--bounding-set", "-net_admin,-sys_admin"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("root that cannot give up its rights here")
    done = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return done.stdout
