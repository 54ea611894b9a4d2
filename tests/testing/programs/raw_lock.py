"""An app made of `appvss.v1` and gRPC alone, which keeps app.proto but for the one thing that it is told to do wrong.

Some of what it is told is not wrong: it does right what it does, on a machine that is slow.

python raw_lock.py FILE [MISBEHAVIOUR]

While it is held it has `FILE` locked with flock(2), so that a writer who locks it, too, waits. Getting quiet and
preparing take a moment, so that a budget can end in it. One thread does everything; another one reads the stream.
"""

from __future__ import annotations

import fcntl
import os
import queue
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

from appvss import contract
from appvss.v1 import app_pb2, app_pb2_grpc

GETTING_QUIET = 0.03
PREPARING = 0.08
LATE = 0.4
SLOW = 0.2
DIRECTORY = Path(os.environ["APPVSS_RUNTIME_DIRECTORY"])
FILE = Path(sys.argv[1])
WRONG = sys.argv[2] if len(sys.argv) > 2 else ""


def seconds(message: object) -> float:
    return message.seconds + message.nanos / 1e9  # type: ignore[attr-defined]  # a Duration


@dataclass
class Question:
    cycle: str
    requester: str
    done_at: float
    budget_at: float
    limit: float = 0.0


class Lock:
    """Either a lock of the process, or, as a bad app has it, a file that outlives it."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._left_behind = FILE.with_suffix(".held")

    def take(self) -> None:
        if WRONG in ("leaks_lock_when_killed", "lets_go_at_its_next_start"):
            self._left_behind.touch()
        elif WRONG != "never_holds" and self._descriptor < 0:
            self._descriptor = os.open(FILE, os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            if WRONG == "leaks_descriptors":
                os.dup(self._descriptor)

    def release(self) -> None:
        self._left_behind.unlink(missing_ok=True)
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1


class App:
    def __init__(self) -> None:
        self.lock = Lock()
        self.news: queue.SimpleQueue[tuple[int, app_pb2.AttachResponse | None]] = queue.SimpleQueue()
        self.generation = 0
        self.said: queue.SimpleQueue[app_pb2.AttachRequest | None] = queue.SimpleQueue()
        self.channel: grpc.Channel | None = None
        self.side: socket.socket | None = None
        self.attached = False
        self.incarnation = "0123456789abcdef" if WRONG == "same_incarnation" else secrets.token_hex(16)
        self.preparing: Question | None = None
        self.freezing: Question | None = None
        self.held: Question | None = None
        self.acked_at = 0.0
        self.limit_at = 0.0
        self.ended: tuple[str, bool, str] = ("", False, "")
        self.unsaid: app_pb2.HoldLost | None = None
        self.take_later = 0.0
        self.remembered = FILE.with_suffix(".cycle")
        self.freezes = 0

    # The stream.

    def connect(self) -> None:
        while not (DIRECTORY / contract.APPS_SOCKET).exists():
            self.pass_time(0.02)
        if self.channel is not None:
            self.channel.close()
        if self.side is not None:
            self.side.close()
        if WRONG == "new_incarnation":
            self.incarnation = secrets.token_hex(16)
        metadata = self.fetch_token()
        self.generation += 1
        self.said.put(None)
        self.said = queue.SimpleQueue()
        self.channel = grpc.insecure_channel(
            f"unix:{DIRECTORY / contract.APPS_SOCKET}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        call = app_pb2_grpc.AppServiceStub(self.channel).Attach(iter(self.said.get, None), metadata=metadata)
        self.said.put(app_pb2.AttachRequest(hello=self.hello()))
        threading.Thread(target=self.read, args=(call, self.generation), daemon=True).start()

    def fetch_token(self) -> tuple[tuple[str, str], ...]:
        if WRONG == "brings_no_token":
            return ()
        try:
            self.side = socket.socket(socket.AF_UNIX)
            self.side.connect(str(DIRECTORY / contract.PEER_SOCKET))
            with self.side.makefile("r") as lines:
                token = lines.readline().strip()
        except OSError:
            return ()
        return ((contract.TOKEN_METADATA, token),) if token else ()

    def hello(self) -> app_pb2.Hello:
        hello = app_pb2.Hello(
            protocol_versions=[1],
            name="no name" if WRONG == "bad_name" else "raw-lock",
            incarnation=self.incarnation,
            library="raw/1",
            prepares=True,
        )
        if WRONG == "bears_short_holds":
            hello.hold_limit.FromMilliseconds(200)
        claimed = self.held.cycle if self.held is not None else ""
        if WRONG == "claims_hold_of_its_past" and self.remembered.exists() and not self.generation - 1:
            claimed = self.remembered.read_text()
        if claimed and WRONG != "never_claims":
            hello.holding.cycle = claimed
            since = time.monotonic() if WRONG == "claims_too_short" else self.acked_at or time.monotonic()
            hello.holding.held_for.FromMilliseconds(int((time.monotonic() - since) * 1e3))
        return hello

    def read(self, call: object, generation: int) -> None:
        try:
            for message in call:  # type: ignore[attr-defined]  # a call is an iterator
                if WRONG == "hears_every_word_late" or (WRONG == "hears_late_at_times" and self.is_unlucky(message)):
                    time.sleep(SLOW)
                self.news.put((generation, message))
        except grpc.RpcError:
            pass
        self.news.put((generation, None))

    def is_unlucky(self, message: app_pb2.AttachResponse) -> bool:
        """Every second time."""
        self.freezes += message.WhichOneof("message") == "freeze"
        return self.freezes % 2 == 1

    def say(self, **message: object) -> None:
        if self.attached:
            self.said.put(app_pb2.AttachRequest(**message))  # type: ignore[arg-type]  # one field by name

    # The one loop.

    def run(self) -> None:
        self.connect()
        while True:
            due = [each for each in self.due_times() if each]
            left = max(0.0, min(due) - time.monotonic()) if due else None
            try:
                generation, message = self.news.get(timeout=left)
            except queue.Empty:
                self.pass_deadlines()
                continue
            self.pass_deadlines()
            if generation != self.generation:
                continue
            if message is None:
                self.lose_stream()
            else:
                self.hear(message)

    def due_times(self) -> list[float]:
        due = [self.take_later]
        for question in (self.preparing, self.freezing):
            if question is not None:
                due += [question.done_at, question.budget_at]
        if self.held is not None:
            due.append(self.limit_at)
        return due

    def pass_deadlines(self) -> None:
        at = time.monotonic()
        if self.take_later and at >= self.take_later:
            self.take_later = 0.0
            if self.held is not None or self.freezing is not None:
                self.lock.take()
        if self.preparing is not None:
            self.go_on_preparing(self.preparing, at)
        if self.freezing is not None:
            self.go_on_freezing(self.freezing, at)
        if self.held is not None and at >= self.limit_at:
            self.pass_limit(self.held)

    def go_on_preparing(self, asked: Question, at: float) -> None:
        if at >= asked.budget_at and WRONG not in ("ready_too_late", "never_ready"):
            self.preparing = None
            self.veto(asked.cycle, "the time to prepare ran out")
        elif at >= asked.done_at:
            self.preparing = None
            if WRONG != "never_ready":
                self.say(ready=app_pb2.Ready(cycle=asked.cycle))
        elif at >= asked.budget_at:
            asked.budget_at = asked.done_at

    def go_on_freezing(self, asked: Question, at: float) -> None:
        if at >= asked.budget_at and WRONG not in ("acks_too_late", "silent_at_budget"):
            self.freezing = None
            if "keeps_lock_at_veto" not in WRONG:
                self.lock.release()
            self.veto(asked.cycle, "the time to get quiet ran out")
        elif at >= asked.budget_at and WRONG == "silent_at_budget":
            self.freezing = None
            self.lock.release()
        elif at >= asked.done_at:
            self.freezing = None
            self.hold(asked)
        else:
            asked.budget_at = max(asked.budget_at, asked.done_at) if at >= asked.budget_at else asked.budget_at

    def hold(self, asked: Question) -> None:
        if WRONG == "acks_before_quiet":
            self.take_later = time.monotonic() + 2
        else:
            self.lock.take()
        if WRONG == "leaks_threads":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        self.held = asked
        self.acked_at = time.monotonic()
        limit = asked.limit * 0.3 if WRONG == "goes_on_early" else asked.limit
        self.limit_at = self.acked_at + limit + (3600 if WRONG == "ignores_limit" else 0)
        self.remembered.write_text(asked.cycle)
        self.send_frozen(asked.cycle)
        if WRONG == "answers_twice":
            self.send_frozen(asked.cycle)

    def send_frozen(self, cycle: str) -> None:
        evidence = {"position": "x" * (1000 if WRONG == "long_evidence" else 8)}
        if WRONG == "other_evidence":
            evidence["position"] = str(random.random())
        named = "another" if WRONG == "names_other_cycle" else cycle
        if WRONG == "is_heard_late_at_times":
            self.freezes += 1
            time.sleep(SLOW * (self.freezes % 2))
        if WRONG != "never_acks":
            self.say(frozen=app_pb2.Frozen(cycle=named, evidence=evidence))

    def veto(self, cycle: str, reason: str) -> None:
        self.say(veto=app_pb2.Veto(cycle=cycle, reason="" if WRONG == "empty_veto" else reason, retryable=True))

    def pass_limit(self, held: Question) -> None:
        self.held = None
        if WRONG != "keeps_lock_at_limit":
            self.lock.release()
        self.ended = (held.cycle, WRONG == "unbroken_after_limit", "the hold limit passed")
        lost = app_pb2.HoldLost(cycle=held.cycle, reason="the hold limit passed")
        if WRONG == "says_nothing_at_limit":
            return
        if self.attached:
            self.say(hold_lost=lost)
        else:
            self.unsaid = lost

    def lose_stream(self) -> None:
        self.attached = False
        if WRONG in ("ends_with_its_stream", "bad_name"):
            sys.exit(3)
        self.preparing = self.freezing = None
        if WRONG == "lets_go_with_its_stream" and self.held is not None:
            self.held = None
        if self.held is None and WRONG != "keeps_lock_at_cut":
            self.lock.release()
        if WRONG == "never_comes_back":
            signal.pause()
        self.pass_time(0.3 if WRONG == "bears_short_holds" else random.uniform(0.01, 0.05))
        self.connect()

    def pass_time(self, length: float) -> None:
        until = time.monotonic() + length
        while time.monotonic() < until:
            time.sleep(0.005)
            self.pass_deadlines()

    def delay(self, usual: float) -> float:
        if WRONG == "keeps_lock_at_veto_when_warm":
            self.freezes += 1
            return LATE if self.freezes == 1 else usual
        if "hears" in WRONG:
            return 0.0
        return LATE if WRONG in ("ready_too_late", "acks_too_late", "keeps_lock_taken_half_way") else usual

    # What the broker says.

    def hear(self, message: app_pb2.AttachResponse) -> None:  # noqa: PLR0912 - one branch for each word
        kind = message.WhichOneof("message")
        if kind == "welcome":
            self.attached = True
            if self.unsaid is not None:
                self.say(hold_lost=self.unsaid)
                self.unsaid = None
        elif kind == "prepare":
            at = time.monotonic()
            asked = message.prepare
            self.preparing = Question(
                asked.cycle, asked.requester, at + self.delay(PREPARING), at + seconds(asked.budget)
            )
        elif kind == "freeze":
            self.hear_freeze(message.freeze)
        elif kind == "thaw":
            self.hear_thaw(message.thaw.cycle, "thaw")
        elif kind == "abort":
            if WRONG != "ignores_abort":
                self.hear_thaw(message.abort.cycle, "abort")
        elif kind == "filesystem_freeze":
            if WRONG == "talks_in_the_hold":
                self.say(thawed=app_pb2.Thawed(cycle=message.filesystem_freeze.cycle))
        elif kind == "goodbye":
            if WRONG == "ends_at_goodbye":
                sys.exit(3)
        elif kind == "refusal":
            if WRONG == "ends_at_refusal":
                sys.exit(3)
        elif WRONG == "ends_at_unknown":
            raise ValueError("what is that")

    def hear_freeze(self, asked: app_pb2.Freeze) -> None:
        at = time.monotonic()
        question = Question(
            asked.cycle,
            asked.requester,
            at + self.delay(GETTING_QUIET),
            at + seconds(asked.budget),
            seconds(asked.hold_limit),
        )
        if WRONG == "acks_after_abort" and self.held is not None and self.held.cycle != asked.cycle:
            self.held = None
        if WRONG == "ends_at_strange_text":
            asked.requester.encode("ascii")
        if self.held is not None and self.held.cycle == asked.cycle:
            if WRONG == "vetoes_what_it_holds":
                self.veto(asked.cycle, "it is held already")
            else:
                self.send_frozen(asked.cycle)
        elif self.held is not None and WRONG == "holds_two":
            self.held = None
            self.hold(question)
        elif self.held is not None or self.freezing is not None or WRONG == "always_vetoes":
            said = app_pb2.Veto(cycle=asked.cycle, reason="it is busy", retryable=WRONG != "always_vetoes")
            if WRONG == "empty_veto":
                said.reason = ""
            self.say(veto=said)
        else:
            self.freezing = question
            if "keeps_lock_at_veto" in WRONG:
                self.lock.take()
            elif WRONG == "keeps_lock_taken_half_way":
                self.take_later = at + LATE / 10

    def hear_thaw(self, cycle: str, kind: str) -> None:
        aborted: Question | None = None
        if self.preparing is not None and self.preparing.cycle == cycle:
            self.preparing = None
            self.veto(cycle, "the cycle ended")
        if self.freezing is not None and self.freezing.cycle == cycle:
            aborted, self.freezing = self.freezing, None
            if WRONG != "keeps_lock_taken_half_way":
                self.lock.release()
            if WRONG not in ("never_answers_what_is_aborted", "acks_after_abort"):
                self.veto(cycle, "the cycle ended")
            self.ended = (cycle, False, "it was never frozen")
        elif self.held is not None and (self.held.cycle == cycle or "lets_go_of_anything" in WRONG):
            broken = WRONG in ("lets_go_of_anything", "never_unbroken")
            self.ended = (self.held.cycle, not broken, "")
            self.held = None
            if not (WRONG == "keeps_lock_at_abort" and kind == "abort"):
                self.lock.release()
        elif WRONG == "ignores_thaw_again" or (WRONG == "ignores_unknown_thaw" and cycle != self.ended[0]):
            return
        unbroken, reason = (self.ended[1], self.ended[2]) if self.ended[0] == cycle else (False, "it is not held")
        if WRONG == "always_unbroken":
            unbroken, reason = True, ""
        self.say(thawed=app_pb2.Thawed(cycle=cycle, unbroken=unbroken, reason=reason))
        if WRONG == "says_lost_after_thaw" and unbroken:
            self.say(hold_lost=app_pb2.HoldLost(cycle=cycle, reason="on second thoughts"))
        if WRONG == "acks_after_abort" and aborted is not None:
            self.hold(aborted)


def main() -> None:
    if WRONG == "runs_on":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if WRONG == "leaves_somebody":
        subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 30 & wait; sleep 30"])
    if WRONG == "prints_a_lot":
        print("x" * 1_000_000, "last words", sep="\n", flush=True)  # noqa: T201 - it is what it is for
    if WRONG == "lets_go_at_its_next_start":
        FILE.with_suffix(".held").unlink(missing_ok=True)
    App().run()


if __name__ == "__main__":
    main()
