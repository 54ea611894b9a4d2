"""Every example of docs/check-app.md runs as it stands there, against a sample."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.memory_directory import memory
from tests.testing.subjects import ROOT

__all__ = ["memory"]

PAGE = (ROOT / "docs" / "check-app.md").read_text(encoding="utf-8")
EXAMPLES: dict[str, str] = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
QUICK = ("attaches", "freeze_and_thaw", "prepare", "stream_cut_in_hold", "killed_in_hold")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the examples are run: their app is a sample, under the name that they use."""
    shutil.copy(ROOT / "samples" / "smallest_threads.py", tmp_path / "sample.py")
    (tmp_path / "my_app.py").write_text(
        "import sys, sample\nsys.argv = ['my_app.py', 'lines.txt']\nsample.main()\n", encoding="utf-8"
    )
    return tmp_path


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == {"pytest", "program"}
    assert PAGE.count("```python") == len(EXAMPLES)


def test_with_pytest_each_case_is_a_test_and_what_was_not_played_is_skipped(home: Path) -> None:
    (home / "test_my_app.py").write_text(EXAMPLES["pytest"], encoding="utf-8")
    chosen = " or ".join(f"[{name}]" for name in QUICK)
    done = run(home, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", "--rootdir", str(home), "-k", chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed, 1 skipped" in done.stdout
    assert "does not ask for prepare messages" in done.stdout


@pytest.mark.parametrize("line", re.findall(r"^    appvss (check-app .*)$", PAGE, re.MULTILINE))
def test_the_lines_of_the_page_are_typed_as_they_stand(line: str, home: Path, memory: Path) -> None:
    (home / "insert.py").write_text(
        "import sqlite3, sys\nsqlite3.connect(sys.argv[1], 0.3).execute('BEGIN IMMEDIATE').connection.rollback()\n",
        encoding="utf-8",
    )
    (home / "agent.toml").write_text(
        f'[agent]\nundo_directory = "{memory}/undo"\n[apps.shop]\nadapter = "sqlite"\nfiles = ["{home}/file"]\n',
        encoding="utf-8",
    )
    with closing(sqlite3.connect(home / "file")) as database:
        database.execute("PRAGMA journal_mode = WAL")
    before, _, rest = line.partition(" ")
    typed = rest.replace("samples/", f"{ROOT}/samples/").replace("FILE", str(home / "file"))
    typed = typed.replace("python ", f"{sys.executable} ")
    only = [part for name in ("attaches", "freeze_and_thaw", "writes_held") for part in ("--only", name)]
    done = run(home, "-c", "from appvss.cli.main import main; main()", before, *only, *shlex.split(typed))
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("skipped  writes_held" in done.stdout) is ("--writable" not in line)


def test_as_a_program_it_plays_all(home: Path) -> None:
    (home / "example.py").write_text(EXAMPLES["program"], encoding="utf-8")
    done = run(home, "example.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stdout + done.stderr
