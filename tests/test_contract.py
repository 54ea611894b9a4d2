"""Values to messages and back, the limits of types.proto, and what a newer peer may send."""

from __future__ import annotations

import string
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss import contract
from appvss.model.app import DEFAULT_HOLD_LIMIT, AppId, HoldClaim, Registration, Requirement
from appvss.model.errors import MessageInvalid, NameInvalid, SocketPathTooLong
from appvss.model.event import Event, EventKind
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice, FilesystemOutcome, FilesystemPart, Scope
from appvss.model.grade import Grade
from appvss.model.instant import Instant
from appvss.model.names import printable
from appvss.model.phase import Phase
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict
from appvss.v1 import app_pb2, types_pb2

FIRST = string.ascii_letters + string.digits
names = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from(FIRST),
    st.text(st.sampled_from(FIRST + "._:@/+-"), max_size=63),
)
apps = st.builds(AppId, names, st.just("") | names)
lines = st.text(max_size=60).map(printable)
lengths = st.timedeltas(timedelta(0), timedelta(days=365))
some_lengths = st.timedeltas(timedelta(microseconds=1), timedelta(days=365))
orders = st.integers(-(2**31), 2**31 - 1)
requirements = st.sampled_from(Requirement)
registrations = st.builds(
    Registration,
    app=apps,
    order=orders,
    after=st.lists(names, max_size=contract.AFTER_LIMIT).map(tuple),
    requirement=requirements,
    prepares=st.booleans(),
    freeze_timeout=st.none() | some_lengths,
    hold_limit=some_lengths,
    claim=st.none() | st.builds(HoldClaim, lines, lengths),
    incarnation=st.text(st.sampled_from(FIRST), min_size=16, max_size=64),
    grade=st.sampled_from((Grade.APP, Grade.FS)),
)
outcomes = st.builds(
    AppOutcome,
    app=apps,
    outcome=st.sampled_from(Outcome),
    requirement=requirements,
    order=orders,
    reason=lines,
    retryable=st.booleans(),
    time_to_freeze=st.none() | lengths,
    hold=st.none() | lengths,
    evidence=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4),
    grade=st.sampled_from((None, Grade.RAW, Grade.FS, Grade.APP)),
)
verdicts = st.builds(
    Verdict,
    cycle=lines,
    level=st.sampled_from(Level),
    outcomes=st.lists(outcomes, max_size=4).map(tuple),
    reasons=st.lists(lines, max_size=4).map(tuple),
    hold=st.none() | lengths,
)


# -- round trips, over the wire's bytes


@given(registrations, st.lists(lines, max_size=4))
def test_hello(registration: Registration, paths: list[str]) -> None:
    word = registration.incarnation
    message = contract.hello_message(registration, incarnation=word, library="x/1", paths=paths)
    hello = app_pb2.Hello.FromString(message.SerializeToString())
    assert contract.registration_of(hello) == registration
    assert contract.paths_of(hello) == tuple(paths)
    assert contract.incarnation_of(hello) == word
    assert list(hello.protocol_versions) == [1]


def test_watch_of_paths() -> None:
    registration = Registration(AppId("a"), watch_paths=True)
    hello = contract.hello_message(registration, incarnation="", library="x/1", paths=["/var/lib/a"])
    assert contract.registration_of(app_pb2.Hello.FromString(hello.SerializeToString())) == registration


@pytest.mark.parametrize("grade", [None, Grade.RAW, Grade.FS, Grade.APP])
def test_grade_of_an_outcome(grade: Grade | None) -> None:
    outcome = AppOutcome(AppId("a"), Outcome.HELD, Requirement.REQUIRED, 50, grade=grade)
    data = contract.outcome_message(outcome).SerializeToString()
    assert contract.outcome_of(types_pb2.AppOutcome.FromString(data)) == outcome


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (types_pb2.GRADE_UNSPECIFIED, Grade.APP),
        (types_pb2.GRADE_RAW, Grade.RAW),
        (types_pb2.GRADE_FS, Grade.FS),
        (types_pb2.GRADE_APP, Grade.APP),
        (99, Grade.APP),
    ],
)
def test_grade_that_an_app_declares(said: Any, meant: Grade) -> None:
    hello = app_pb2.Hello.FromString(hello_with(grade=said).SerializeToString())
    assert contract.registration_of(hello).grade is meant


@given(verdicts)
def test_verdict(verdict: Verdict) -> None:
    data = contract.verdict_message(verdict).SerializeToString()
    assert contract.verdict_of(types_pb2.Verdict.FromString(data)) == verdict


@given(outcomes)
def test_outcome(outcome: AppOutcome) -> None:
    data = contract.outcome_message(outcome).SerializeToString()
    assert contract.outcome_of(types_pb2.AppOutcome.FromString(data)) == outcome


@given(st.timedeltas(-timedelta(days=3_000_000), timedelta(days=3_000_000)))
def test_length(length: timedelta) -> None:
    assert contract.length_of(contract.duration_message(length)) == length


@given(st.timedeltas(timedelta(0), timedelta(days=365 * 500)))
def test_wall_clock_time(wall: timedelta) -> None:
    message = contract.timestamp_message(wall)
    assert timedelta(seconds=message.seconds, microseconds=message.nanos // 1000) == wall
    assert 0 <= message.nanos < 1_000_000_000


@pytest.mark.parametrize("requirement", Requirement)
def test_requirement(requirement: Requirement) -> None:
    assert contract.requirement_of(contract.requirement_message(requirement)) is requirement


@pytest.mark.parametrize("phase", Phase)
def test_phase_has_a_number_of_its_own_name(phase: Phase) -> None:
    assert types_pb2.Phase.Name(contract.phase_message(phase)) == f"PHASE_{phase.name}"


def test_every_number_of_the_wire_but_zero_means_something() -> None:
    assert len(types_pb2.Phase.values()) == len(Phase) + 1
    assert len(types_pb2.Outcome.values()) == len(Outcome) + 1
    assert len(types_pb2.Level.values()) == len(Level) + 1
    assert len(types_pb2.Requirement.values()) == len(Requirement) + 1
    # `app-verified` is earned by a copy that is tried, which no broker sees.
    assert set(types_pb2.Grade.keys()) == {f"GRADE_{grade.name}" for grade in Grade if grade != "app-verified"} | {
        "GRADE_UNSPECIFIED"
    }


# -- what is not known


@pytest.mark.parametrize("number", [0, 99, -1])
def test_unknown_numbers_count_as_the_worse(number: int) -> None:
    assert contract.requirement_of(number) is Requirement.REQUIRED
    outcome = types_pb2.AppOutcome(name="a")
    outcome.outcome = number  # type: ignore[assignment] # a newer peer's number
    assert contract.outcome_of(outcome).outcome is Outcome.HOLD_LOST
    verdict = types_pb2.Verdict(cycle="c")
    verdict.level = number  # type: ignore[assignment] # a newer peer's number
    assert contract.verdict_of(verdict).level is Level.FAILED


def test_hello_that_says_nothing_but_a_name() -> None:
    assert contract.registration_of(app_pb2.Hello(name="a")) == Registration(AppId("a"))


def test_order_zero_is_not_an_absent_order() -> None:
    assert contract.registration_of(app_pb2.Hello(name="a", order=0)).order == 0


@pytest.mark.parametrize("field", ["freeze_timeout", "hold_limit"])
def test_length_below_our_clock_is_not_none(field: str) -> None:
    hello = app_pb2.Hello(name="a")
    getattr(hello, field).nanos = 1
    assert getattr(contract.registration_of(hello), field) == timedelta(microseconds=1)
    getattr(hello, field).nanos = 0
    assert getattr(contract.registration_of(hello), field) in (None, DEFAULT_HOLD_LIMIT)


# -- limits


def hello_with(**fields: object) -> app_pb2.Hello:
    return app_pb2.Hello(**{"name": "a", "incarnation": "x" * 16, **fields})  # type: ignore[arg-type] # any field


def test_limits_themselves_are_allowed() -> None:
    registration = contract.registration_of(
        hello_with(name="x" * 64, instance="y" * 64, after=["z" * 64] * contract.AFTER_LIMIT)
    )
    assert len(registration.after) == 32
    assert len(contract.paths_of(hello_with(paths=["/" * 1024] * 64))) == 64
    assert contract.paths_of(hello_with(paths=["/" * 1024])) == ("/" * 1024,)
    assert contract.incarnation_of(hello_with(incarnation="x" * 64)) == "x" * 64
    whole = {f"{number:064}": "v" * 256 for number in range(16)}
    assert contract.evidence_of(whole) == whole


@pytest.mark.parametrize(
    "fields",
    [{"name": ""}, {"name": "x" * 65}, {"name": "a\n"}, {"name": ".a"}, {"instance": "a b"}, {"after": [""]}],
)
def test_names_that_are_not_allowed(fields: dict[str, object]) -> None:
    with pytest.raises(NameInvalid):
        contract.registration_of(hello_with(**fields))


def test_too_many() -> None:
    with pytest.raises(MessageInvalid, match="after has 33 entries, over 32"):
        contract.registration_of(hello_with(after=["a"] * 33))
    with pytest.raises(MessageInvalid, match="paths has 65 entries, over 64"):
        contract.paths_of(hello_with(paths=["/"] * 65))
    with pytest.raises(MessageInvalid, match="the evidence has 17 entries, over 16"):
        contract.evidence_of({str(number): "" for number in range(17)})


def test_too_long_is_cut_and_unprintable_is_replaced() -> None:
    assert contract.paths_of(hello_with(paths=["/" * 2000]))[0] == "/" * 1021 + "..."
    assert contract.paths_of(hello_with(paths=["/a\x1b[2J"])) == ("/a?[2J",)
    assert contract.evidence_of({"k" * 100: "v" * 300, "e\x07": "\x1b"}) == {
        "k" * 61 + "...": "v" * 253 + "...",
        "e?": "?",
    }
    assert contract.cycle_of("x" * 100) == "x" * 61 + "..."
    assert contract.cycle_of("a\tb\x1b") == "a b?"


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        ([], "paths is empty"),
        (["data"], "the path 'data' cannot be watched"),
        (["/var", "/x" * 600], "cannot be watched"),
        (["/var/\x1b[2J"], r"the path '/var/\?\[2J' cannot be watched"),
        (["/trailing "], "cannot be watched"),
    ],
)
def test_paths_that_are_to_be_watched_must_be_kept_as_they_are(paths: list[str], sentence: str) -> None:
    with pytest.raises(MessageInvalid, match=sentence):
        contract.registration_of(hello_with(watch_paths=True, paths=paths))
    assert not contract.registration_of(hello_with(paths=paths)).watch_paths


@pytest.mark.parametrize("word", ["", "x" * 15, "x" * 65, "x" * 15 + "\x7f", "x" * 15 + "\u00e9"])
def test_incarnations_that_are_not_allowed(word: str) -> None:
    with pytest.raises(MessageInvalid, match="incarnation"):
        contract.incarnation_of(hello_with(incarnation=word))


@pytest.mark.parametrize("field", ["freeze_timeout", "hold_limit"])
@pytest.mark.parametrize(
    ("seconds", "nanos", "sentence"),
    [
        (-1, 0, "negative"),
        (0, -1, "negative"),
        (315_576_000_001, 0, "out of range"),
        (-(2**63), 0, "out of range"),
        (2**63 - 1, 0, "out of range"),
        (1, -1, "out of range"),
        (0, 1_000_000_000, "out of range"),
    ],
)
def test_lengths_that_are_not_allowed(field: str, seconds: int, nanos: int, sentence: str) -> None:
    hello = hello_with()
    getattr(hello, field).seconds, getattr(hello, field).nanos = seconds, nanos
    with pytest.raises(MessageInvalid, match=sentence):
        contract.registration_of(hello)


def test_longest_length_of_the_wire() -> None:
    hello = hello_with()
    hello.hold_limit.seconds = 315_576_000_000
    assert contract.registration_of(hello).hold_limit == timedelta(seconds=315_576_000_000)


def test_claim_is_checked() -> None:
    hello = hello_with()
    hello.holding.cycle = "c\x1b" + "x" * 100
    claim = contract.registration_of(hello).claim
    assert claim is not None
    assert claim.cycle.startswith("c?xxx")
    hello.holding.held_for.seconds = -1
    with pytest.raises(MessageInvalid, match="held_for is negative"):
        contract.registration_of(hello)


def test_verdict_of_thousands_of_apps_arrives_without_their_evidence() -> None:
    evidence = {f"key-{number}": "x" * 250 for number in range(16)}

    def verdict(count: int) -> types_pb2.Verdict:
        parts = tuple(
            AppOutcome(AppId(f"a-{number}"), Outcome.HELD, Requirement.REQUIRED, 50, evidence=evidence)
            for number in range(count)
        )
        return contract.verdict_message(Verdict("c", Level.APPLICATION, parts, ()))

    assert verdict(100).outcomes[99].evidence == evidence
    large = verdict(2000)
    assert large.ByteSize() < contract.VERDICT_LIMIT
    assert (len(large.outcomes), large.level, dict(large.outcomes[0].evidence)) == (
        2000,
        types_pb2.LEVEL_APPLICATION,
        {},
    )


# -- file systems

PART = FilesystemPart("/srv", "8:1", "ext4", FilesystemOutcome.HELD, time_to_freeze=timedelta(milliseconds=7))
LEFT = FilesystemPart("/boot", "8:2", "vfat", FilesystemOutcome.UNFREEZABLE, "vfat has no freeze")


def test_verdict_brings_its_file_systems() -> None:
    verdict = Verdict("c", Level.FILESYSTEM, (), (), None, (PART, LEFT))
    assert contract.verdict_of(contract.verdict_message(verdict)) == verdict


@pytest.mark.parametrize("outcome", FilesystemOutcome)
def test_every_outcome_of_a_file_system_goes_over_the_wire(outcome: FilesystemOutcome) -> None:
    assert contract.filesystem_outcome_of(contract.filesystem_outcome_message(outcome)) is outcome


def test_outcome_of_a_file_system_that_is_not_known_is_a_lost_hold() -> None:
    message = types_pb2.FilesystemPart(path="/\x1b[2J", device="8:1", type="ext9", outcome=99)  # type: ignore[arg-type]
    part = contract.filesystem_part_of(message)
    assert (part.path, part.outcome, part.time_to_freeze) == ("/?[2J", FilesystemOutcome.HOLD_LOST, None)


@pytest.mark.parametrize(
    "choice",
    [
        *(FilesystemChoice(scope) for scope in Scope if scope is not Scope.NAMED),
        FilesystemChoice(Scope.NAMED, ("/srv", "/var/db")),
        FilesystemChoice(Scope.ALL, spares_root=True),
    ],
)
def test_choice_goes_over_the_wire(choice: FilesystemChoice) -> None:
    assert contract.choice_of(contract.choice_message(choice)) == choice
    assert contract.scope_of(contract.scope_message(choice.scope)) is choice.scope


def test_choice_that_is_absent_or_not_known_wants_none() -> None:
    assert contract.choice_of(types_pb2.FilesystemChoice()) == NO_FILESYSTEMS
    assert contract.scope_of(99) is Scope.NONE  # type: ignore[arg-type]  # of a newer version


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (FilesystemChoice(Scope.NAMED), "the scope of the file systems is named, and 0 paths are named"),
        (FilesystemChoice(Scope.ALL, ("/srv",)), "the scope of the file systems is all, and 1 paths are named"),
        (FilesystemChoice(Scope.NAMED, ("srv",)), "'srv' is not absolute"),
        (FilesystemChoice(Scope.NAMED, ("/srv\n",)), "is not absolute, too long, or not printable"),
        (FilesystemChoice(Scope.NAMED, ("/" + "x" * 1024,)), "is not absolute, too long, or not printable"),
        (FilesystemChoice(Scope.NAMED, ("/srv",) * 65), "paths has 65 entries, over 64"),
    ],
)
def test_choice_that_breaks_a_limit(choice: FilesystemChoice, sentence: str) -> None:
    with pytest.raises(MessageInvalid, match=sentence):
        contract.choice_of(contract.choice_message(choice))


# -- events


def test_event_in_a_cycle_and_outside() -> None:
    began = Instant(timedelta(seconds=5))
    event = Event(EventKind.APP_FROZE, Instant(timedelta(seconds=8)), "c", "a", Phase.HOLDING, "x\n\x1b", timedelta(1))
    message = contract.event_message(event, timedelta(seconds=100), began)
    assert (message.kind, message.app, message.phase, message.detail) == (
        "app_froze",
        "a",
        types_pb2.PHASE_HOLDING,
        "x ?",
    )
    assert message.since_request.ToTimedelta() == timedelta(seconds=3)
    assert message.took.ToTimedelta() == timedelta(1)
    assert message.time.seconds == 100
    outside = contract.event_message(Event(EventKind.APP_LEFT, began, phase=Phase.IDLE), timedelta(0), None)
    assert outside.phase == types_pb2.PHASE_UNSPECIFIED
    assert not outside.HasField("since_request")
    assert not outside.HasField("took")


# -- where the sockets are


def test_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(contract.RUNTIME_DIRECTORY_VARIABLE, raising=False)
    assert contract.runtime_directory() == Path(contract.DEFAULT_RUNTIME_DIRECTORY)
    monkeypatch.setenv(contract.RUNTIME_DIRECTORY_VARIABLE, "/tmp/x")
    assert contract.runtime_directory() == Path("/tmp/x")
    assert contract.runtime_directory("/tmp/y") == Path("/tmp/y")


def test_socket_path_is_counted_in_bytes() -> None:
    room = contract.SOCKET_PATH_LIMIT - len("//s")
    assert len(contract.socket_path(Path("/" + "x" * room), "s")) == contract.SOCKET_PATH_LIMIT
    with pytest.raises(SocketPathTooLong, match=f"has {contract.SOCKET_PATH_LIMIT + 1} bytes"):
        contract.socket_path(Path("/" + "x" * (room + 1)), "s")
    with pytest.raises(SocketPathTooLong):
        contract.socket_path(Path("/" + "\u00e9" * (room // 2 + 1)), "s")


# -- channel options


def test_clients_ping_no_more_often_than_the_server_allows() -> None:
    server = dict(contract.SERVER_OPTIONS)
    for options in (contract.APP_CHANNEL_OPTIONS, contract.ADMIN_CHANNEL_OPTIONS):
        client = dict(options)
        assert client["grpc.keepalive_time_ms"] > server["grpc.http2.min_ping_interval_without_data_ms"]
        assert client["grpc.max_send_message_length"] == server["grpc.max_receive_message_length"] == 64 * 1024
    assert dict(contract.ADMIN_CHANNEL_OPTIONS)["grpc.max_receive_message_length"] == 4 * 1024 * 1024
