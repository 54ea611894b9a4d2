"""Runs a command that may make no memory executable that it may write, and no socket but a Unix socket.

    python -I limited.py COMMAND...

It does by hand what systemd does for MemoryDenyWriteExecute= and RestrictAddressFamilies=AF_UNIX (prctl(2), seccomp(2),
linux/bpf_common.h). A kernel before 6.3 does not know the first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

PR_SET_SECCOMP, MODE_FILTER = 22, 2
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
SOCKET_CALL = {"x86_64": 41, "aarch64": 198}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, FIRST_ARGUMENT = 0, 16
"""Where they lie in struct seccomp_data, little-endian."""


def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction, a struct sock_filter."""
    return struct.pack("HBBI", code, if_true, if_false, value)


def control(*arguments: object) -> None:
    """prctl(2)."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def refuse_sockets() -> None:
    """Let socket(2) fail for every family but AF_UNIX."""
    steps = [
        step(LOAD, NUMBER),
        step(EQUAL, SOCKET_CALL[platform.machine()], 0, 3),
        step(LOAD, FIRST_ARGUMENT),
        step(EQUAL, socket.AF_UNIX, 1, 0),
        step(RETURN, ERRNO | errno.EAFNOSUPPORT),
        step(RETURN, ALLOW),
    ]
    instructions = ctypes.create_string_buffer(b"".join(steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(instructions)))
    control(PR_SET_SECCOMP, MODE_FILTER, program, 0, 0)


if __name__ == "__main__":
    refuse_sockets()
    try:
        control(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    os.execvp(sys.argv[1], sys.argv[1:])
