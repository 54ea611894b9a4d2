"""The names and attributes of a folder whose files are device nodes that come and go."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from appvss.simulator.fuse import abi
from appvss.simulator.fuse.abi import Attributes, Opcode, Request

_ROOT_MODE: Final = stat.S_IFDIR | 0o755
_REFUSED: Final = frozenset(
    {
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.LINK,
        Opcode.CREATE,
    }
)


class NodeFolder:
    """Answers what is asked about names and attributes, and passes on what is asked about open files.

    Args:
        present: the nodes that are there at this moment, number to name. A number is above `abi.ROOT_NODE` and is never
            given twice, so that a descriptor of a node that is gone is told apart.
        mode: of a node that is new, without its kind.
        handlers: what answers the requests about a node, by opcode.
    """

    def __init__(
        self, present: Callable[[], Mapping[int, str]], mode: int, handlers: Mapping[int, Callable[[Request], bytes]]
    ) -> None:
        self._present = present
        self._mode = stat.S_IFREG | mode
        self._attributes: dict[int, Attributes] = {}
        self._handlers: dict[int, Callable[[Request], bytes]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: lambda request: abi.attributes_reply(self._attributes_of(request.node)),
            Opcode.SETATTR: self._setattr,
            Opcode.OPENDIR: lambda _: abi.open_reply(0),
            Opcode.READDIR: self._readdir,
            Opcode.RELEASEDIR: lambda _: b"",
            Opcode.STATFS: lambda _: abi.STATFS_OUT,
            Opcode.DESTROY: lambda _: b"",
            **handlers,
        }

    def handle(self, request: Request) -> bytes:
        """The body of the reply.

        Raises:
            OSError: the error to reply, with its errno.
        """
        if request.opcode in _REFUSED:
            raise OSError(errno.EPERM, "the folder has the driver's nodes and nothing else")
        handler = self._handlers.get(request.opcode)
        if handler is None:
            raise OSError(errno.ENOSYS, "not part of the protocol that was agreed on")
        return handler(request)

    def _attributes_of(self, node: int) -> Attributes:
        if node == abi.ROOT_NODE:
            return Attributes(node, _ROOT_MODE, os.geteuid(), os.getegid(), links=2)
        fresh = Attributes(node, self._mode, os.geteuid(), os.getegid())
        known = self._attributes.get(node, fresh)
        return known if node in self._present() else replace(known, links=0)

    def _lookup(self, request: Request) -> bytes:
        name = abi.parse_name(request.body)
        for node, known in self._present().items():
            if name == known.encode() and request.node == abi.ROOT_NODE:
                return abi.entry_reply(self._attributes_of(node), node)
        raise OSError(errno.ENOENT, "no such node")

    def _setattr(self, request: Request) -> bytes:
        """Take chmod and chown of a node, as devfs does; the kernel has checked that the caller may."""
        if request.node not in self._present():
            raise OSError(errno.EPERM, "only the nodes can be changed")
        wanted = abi.parse_setattr(request.body)
        now = self._attributes_of(request.node)
        if wanted.valid & abi.SET_MODE:
            now = replace(now, mode=stat.S_IFREG | stat.S_IMODE(wanted.mode))
        if wanted.valid & abi.SET_UID:
            now = replace(now, uid=wanted.uid)
        if wanted.valid & abi.SET_GID:
            now = replace(now, gid=wanted.gid)
        self._attributes[request.node] = now
        return abi.attributes_reply(now)

    def _readdir(self, request: Request) -> bytes:
        folder = stat.S_IFDIR >> 12
        entries = [(abi.ROOT_NODE, folder, b"."), (abi.ROOT_NODE, folder, b"..")]
        entries += [(node, stat.S_IFREG >> 12, name.encode()) for node, name in self._present().items()]
        return abi.directory_reply(request.body, entries)
