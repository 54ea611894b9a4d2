"""The baseline of `benchmarks.fanout`: messages of the same size over plain asyncio Unix sockets.

It is a program of its own and imports nothing that bare asyncio does not need: with all of gRPC in the same process
Python's collector runs at other times, and the baseline is no longer one.
"""

from __future__ import annotations

import asyncio
import struct
import time
from datetime import timedelta

from appvss.v1 import app_pb2
from benchmarks.turns import be_a_process, run_rounds


async def baseline_side(path: str, apps: int, rounds: int) -> list[float]:
    """The same bytes both ways over plain asyncio streams; seconds from the first write to the last answer."""
    message = app_pb2.AttachResponse(freeze=app_pb2.Freeze(cycle="20261120T150031Z-4f2a9c", requester="benchmark"))
    message.freeze.budget.FromTimedelta(timedelta(seconds=59.9))
    message.freeze.hold_limit.FromTimedelta(timedelta(seconds=60))
    data = _framed(message.SerializeToString())
    writers: list[asyncio.StreamWriter] = []
    count = 0
    all_in = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        await _read(reader)
        writers.append(writer)
        while (answer := await _read(reader)) is not None:
            app_pb2.AttachRequest.FromString(answer)
            count += 1
            if count == apps:
                all_in.set()

    server = await asyncio.start_unix_server(serve, path, backlog=4096)
    print("ready", flush=True)
    while len(writers) < apps:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)

    async def one(_number: int) -> float:
        nonlocal count
        count = 0
        all_in.clear()
        began = time.perf_counter()
        for writer in writers:
            writer.write(data)
        await all_in.wait()
        return time.perf_counter() - began

    took = await run_rounds(one, rounds)
    server.close()
    return took


async def plain_app(path: str, number: int) -> None:
    """One app of the baseline."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(_framed(f"app-{number}".encode()))
    while (data := await _read(reader)) is not None:
        message = app_pb2.AttachResponse.FromString(data)
        frozen = app_pb2.AttachRequest(frozen=app_pb2.Frozen(cycle=message.freeze.cycle))
        writer.write(_framed(frozen.SerializeToString()))


def _framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    try:
        (length,) = struct.unpack("<I", await reader.readexactly(4))
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


if __name__ == "__main__":
    be_a_process(baseline_side, plain_app)
