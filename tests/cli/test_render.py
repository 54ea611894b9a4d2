from __future__ import annotations

import json

import pytest

from appvss.cli import render
from appvss.model.errors import ConfigurationInvalid, DeviceBusy


def test_a_plain_table_is_aligned_and_has_no_blanks_at_the_end() -> None:
    assert render.plain_table(("A", "LONG"), [("wide", "x"), ("b", "")]) == ["A     LONG", "wide  x", "b"]


def test_an_error_is_a_sentence_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    render.failure(DeviceBusy("the device /dev/x is busy\x07", "Stop process 7."), as_json=False)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "appvss: the device /dev/x is busy?\nHINT: Stop process 7.\n")


def test_many_problems_are_many_lines(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigurationInvalid("/etc/a: b.toml", ["apps.limit: no", "x: there is; no such key"])
    render.failure(error, as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        "appvss: /etc/a: b.toml has 2 problems:",
        "  apps.limit: no",
        "  x: there is; no such key",
        f"HINT: {error.hint}",
    ]


def test_problems_are_a_list_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    render.failure(ConfigurationInvalid("/etc/b.toml", ["a: no", "b: no"]), as_json=True)
    error = json.loads(capsys.readouterr().err)
    assert (error["name"], error["problems"], error["exit_code"]) == ("ConfigurationInvalid", ["a: no", "b: no"], 3)


def test_a_document_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    render.document("thaw", {"thawed_cycle": "c\n\u2713\udc80"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert len(out.splitlines()) == 1
    assert json.loads(out)["message_type"] == "thaw"
