"""Lines in and out over pipes that may be slow, closed or full."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import timedelta

import pytest

from appvss.simulator.console import LineReader, LineWriter

PATIENCE = timedelta(seconds=10)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


async def lines_of(reader: LineReader) -> list[str]:
    lines = []
    async with asyncio.timeout(10):
        while (line := await reader.lines.get()) is not None:
            lines.append(line)
    return lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\n\ntwo", ["one", "", "two"]),
        (b"\xff\n", ["\ufffd"]),
        (b"x" * 11 + b"\nshort\n", ["x" * 11, "short"]),
        (b"x" * 5000 + b"\nshort\n", ["x" * 11, "short"]),
    ],
)
async def test_lines_in(pipe: tuple[int, int], data: bytes, lines: list[str]) -> None:
    reader = LineReader(pipe[0], 10)
    await asyncio.to_thread(os.write, pipe[1], data)
    os.close(pipe[1])
    assert await lines_of(reader) == lines


async def test_more_lines_than_the_queue_holds(pipe: tuple[int, int]) -> None:
    reader = LineReader(pipe[0], 10)
    await asyncio.to_thread(os.write, pipe[1], b"x\n" * 1000)
    os.close(pipe[1])
    assert len(await lines_of(reader)) == 1000


async def test_a_descriptor_that_cannot_be_read_has_no_lines(pipe: tuple[int, int]) -> None:
    assert await lines_of(LineReader(pipe[1], 10)) == []


def test_an_event_loop_that_ends_with_lines_waiting(pipe: tuple[int, int]) -> None:
    async def begin() -> None:
        reader = LineReader(pipe[0], 10)
        await reader.lines.get()

    os.write(pipe[1], b"x\n" * 1000)
    asyncio.run(begin())


def read_all(descriptor: int) -> bytes:
    data = b""
    while chunk := os.read(descriptor, 1 << 16):
        data += chunk
    return data


def test_lines_out(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    for text in ("one", "zwö", "\udcff"):
        writer.write(text)
    writer.finish(PATIENCE)
    os.close(pipe[1])
    assert read_all(pipe[0]) == "one\nzwö\n\\udcff\n".encode()


def test_nobody_reads_any_more(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    writer = LineWriter(pipe[1])
    writer.write("one")
    writer.write("two")
    writer.finish(PATIENCE)
    assert writer.dropped == 0


def test_a_reader_that_sleeps_holds_nobody_up(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    for _ in range(30_000):
        writer.write("x" * 100)
    assert writer.dropped > 0
    writer.finish(timedelta(milliseconds=1))
    os.set_blocking(pipe[0], False)
    assert os.read(pipe[0], 100) == b"x" * 100
