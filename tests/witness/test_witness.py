"""The witness itself: its cycles, its limits, and file systems that never answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.app import AppId
from appvss.simulator.fuse.mount import mount, unmount
from appvss.witness import Witness
from tests.witness.held import APP, BOUND, CLOCK, MachineClock, begin, said, witness

SHORT = timedelta(milliseconds=100)
needs_fuse = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="mounts over FUSE")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "orders.db").write_bytes(b"x")
    return folder


@contextmanager
def dead_folder(path: Path) -> Iterator[Path]:
    """A real file system that never answers, until the block ends."""
    descriptor = mount(path)
    try:
        yield path
    finally:
        os.close(descriptor)
        unmount(path)


def test_app_that_keeps_its_word_is_not_mentioned(data: Path) -> None:
    with witness() as seen:
        begin(seen, "c", data)
        assert said(seen, "c") == {}
        assert said(seen, "c") == {}


def test_app_that_does_not_is_named_with_the_paths(data: Path) -> None:
    with witness() as seen:
        begin(seen, "c", data)
        assert said(seen, "c") == {}
        (data / "orders.db").write_bytes(b"xy")
        assert said(seen, "c") == {APP: f"its files changed while it was held: {data}/orders.db (size 1 -> 2)"}


def test_only_the_one_who_lied_is_accused(tmp_path: Path) -> None:
    with witness() as seen:
        for number in range(50):
            (tmp_path / f"{number}.log").write_bytes(b"x")
            begin(seen, "c", tmp_path / f"{number}.log", app=AppId("log", str(number)))
        assert said(seen, "c") == {}
        (tmp_path / "7.log").write_bytes(b"xy")
        assert said(seen, "c").keys() == {AppId("log", "7")}


def test_without_paths_nothing_is_watched(data: Path) -> None:
    with witness() as seen:
        begin(seen, "c")
        assert said(seen, "c") == said(seen, "another") == {}


def test_an_app_that_comes_back_in_its_hold_is_measured_by_its_first_look(data: Path) -> None:
    with witness() as seen:
        begin(seen, "c", data)
        assert said(seen, "c") == {}
        (data / "orders.db").write_bytes(b"xy")
        begin(seen, "c", data)
        assert said(seen, "c").keys() == {APP}


def test_the_next_cycle_begins_anew(data: Path) -> None:
    with witness() as seen:
        begin(seen, "c", data)
        assert said(seen, "c") == {}
        seen.forget("c")
        (data / "orders.db").write_bytes(b"xy")
        begin(seen, "d", data)
        assert said(seen, "d") == said(seen, "c") == {}


def test_cycles_that_nobody_forgets_are_forgotten(data: Path) -> None:
    with witness(entries_in_all=6) as seen:
        for number in range(10):  # each looks at two entries
            begin(seen, str(number), data)
            assert said(seen, str(number)) == {}
        assert said(seen, "0") == {}


def test_too_many_files_are_said_to_be_too_many(data: Path) -> None:
    for number in range(20):
        (data / f"{number}").touch()
    with witness(entries=10) as seen:
        begin(seen, "c", data)
        assert said(seen, "c") == {APP: "its paths could not be inspected: too many files to watch: over 10"}


def test_too_many_files_of_all_apps_together(data: Path) -> None:
    other = AppId("other")
    with witness(entries_in_all=3) as seen:
        begin(seen, "c", data)
        assert said(seen, "c") == {}
        begin(seen, "c", data, app=other)
        assert said(seen, "c") == {other: "its paths could not be inspected: too many files to watch: over 1"}
        seen.forget("c")
        begin(seen, "d", data, app=other)
        assert said(seen, "d") == {}


def test_a_step_back_of_the_wall_clock_accuses_nobody(data: Path) -> None:
    class SetBack(MachineClock):
        by = timedelta(0)

        def wall(self) -> timedelta:
            return super().wall() - self.by

    clock = SetBack()
    seen = Witness(clock)
    try:
        (data / "orders.db").write_bytes(b"before the step")
        clock.by = SHORT  # this write now lies in the future
        begin(seen, "c", data)
        assert said(seen, "c") == {}
    finally:
        seen.close(BOUND)


def test_a_write_between_ack_and_first_look_shows_in_its_time(data: Path) -> None:
    """The ack was heard a moment ago: both threads were busy."""

    class Late(MachineClock):
        def wall(self) -> timedelta:
            return super().wall() - (timedelta(seconds=1) if threading.current_thread() is main else timedelta(0))

    main = threading.current_thread()
    seen = Witness(Late())
    try:
        (data / "orders.db").write_bytes(b"after the ack")
        begin(seen, "c", data / "orders.db")
        said_of = said(seen, "c")
        assert said_of == {APP: f"its files changed while it was held: {data}/orders.db (time)"}
    finally:
        seen.close(BOUND)


# -- file systems that never answer


@needs_fuse
def test_paths_that_never_answer_cost_the_others_nothing(data: Path, tmp_path: Path) -> None:
    hung = AppId("hung")
    with witness() as seen, dead_folder(tmp_path / "dead") as dead:
        begin(seen, "c", dead, app=hung)
        begin(seen, "c", data)
        (data / "orders.db").write_bytes(b"xy")
        said_of = said(seen, "c", SHORT)
        assert said_of[hung] == "its paths could not be inspected: that takes longer than 0.09 s"
        assert said_of.get(APP, "its files changed").startswith("its files changed")


@needs_fuse
def test_threads_that_do_not_come_back_are_replaced_once_for_each_app(data: Path, tmp_path: Path) -> None:
    with witness(look_limit=SHORT) as seen, dead_folder(tmp_path / "dead") as dead:
        for number in range(4):  # more than there are threads
            begin(seen, "c", dead, app=AppId("hung", str(number)))
        begin(seen, "c", data)
        said_of = said(seen, "c")
        assert said_of.keys() == {AppId("hung", str(number)) for number in range(4)}
        assert set(said_of.values()) == {"its paths could not be inspected: they have not answered for 0.1 s"}
        seen.forget("c")
        begin(seen, "d", dead, app=AppId("hung", "0"))
        begin(seen, "d", data)
        assert said(seen, "d") == {
            AppId("hung", "0"): "its paths could not be inspected: they have not answered since an earlier cycle"
        }


@needs_fuse
def test_threads_that_come_back_late_end(tmp_path: Path) -> None:
    before = threading.active_count()
    seen = Witness(CLOCK, look_limit=SHORT)
    with dead_folder(tmp_path / "dead") as dead:
        begin(seen, "c", dead)
        assert said(seen, "c", BOUND).keys() == {APP}
        stuck = [thread for thread in threading.enumerate() if thread.name.startswith("appvss-witness")]
        assert len(stuck) == 4  # two that look, one that keeps the time, one that was given up
    seen.close(BOUND)
    for thread in stuck:
        thread.join(BOUND.total_seconds())
    assert threading.active_count() == before


# -- the end


def test_close_answers_whoever_waits_and_ends_the_threads(data: Path) -> None:
    before = threading.active_count()
    seen = Witness(CLOCK)
    begin(seen, "c", data)
    seen.close(BOUND)
    assert threading.active_count() == before
    assert said(seen, "c") == {}
    begin(seen, "d", data)
    assert said(seen, "d") == {}
    seen.close(BOUND)


@needs_fuse
def test_close_waits_for_no_file_system(tmp_path: Path) -> None:
    with dead_folder(tmp_path / "dead") as dead:
        seen = Witness(CLOCK)
        begin(seen, "c", dead)
        answer = seen.inspect("c", BOUND)
        began = CLOCK.now()
        seen.close(SHORT)
        assert CLOCK.now() - began < BOUND
        assert answer.result(0) == {APP: "its paths could not be inspected: the broker stops"}


@needs_fuse
def test_forget_answers_whoever_waits(tmp_path: Path) -> None:
    with witness() as seen, dead_folder(tmp_path / "dead") as dead:
        begin(seen, "c", dead)
        answer = seen.inspect("c", BOUND)
        seen.forget("c")
        assert answer.result(0) == {APP: "its paths could not be inspected: the cycle has ended"}


def test_an_answer_cannot_be_cancelled(data: Path) -> None:
    with witness() as seen:
        begin(seen, "c", data)
        answer = seen.inspect("c", BOUND)
        assert not answer.cancel()
        assert answer.result(BOUND.total_seconds()) == {}
