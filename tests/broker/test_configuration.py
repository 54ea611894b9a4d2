from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss import contract
from appvss.broker.configuration import (
    Configuration,
    LogLevel,
    UnidentifiedApps,
    load,
    with_overrides,
)
from appvss.broker.configuration_checks import group_exists
from appvss.broker.configuration_reader import read_document, sections
from appvss.broker.configuration_text import reference, sample
from appvss.broker.policy_options import RULE_KEYS, AppPolicyOptions
from appvss.model.app import Requirement
from appvss.model.errors import (
    ConfigurationInvalid,
    ConfigurationUnreadable,
    ExitCode,
    SocketPathTooLong,
    UsageError,
)
from appvss.model.policy import Overlap
from appvss.model.source import SourceMode
from appvss.service.toml_file import parse_file

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "broker.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigurationInvalid) as caught:
        load(path)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    return caught.value.problems


def test_without_a_file_the_built_in_values_make_a_working_broker(tmp_path: Path) -> None:
    configuration = load(default_file=tmp_path / "absent.toml")
    assert configuration == Configuration()
    assert configuration.origin == ""
    assert configuration.broker.runtime_directory == Path(contract.DEFAULT_RUNTIME_DIRECTORY)
    assert configuration.sources.freebsd.mode is SourceMode.AUTOMATIC
    assert configuration.sources.freebsd.budget == timedelta(seconds=15)


def test_the_default_file_is_read_when_it_is_there(write: Write) -> None:
    path = write("[apps]\nlimit = 7\n")
    configuration = load(default_file=path)
    assert (configuration.apps.limit, configuration.origin) == (7, str(path))


def test_a_default_file_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    dangling = tmp_path / "broker.toml"
    dangling.symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigurationUnreadable):
        load(default_file=dangling)


def test_every_key_of_a_file_takes_effect(write: Write) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    configuration = load(
        write(f"""
        [broker]
        runtime_directory = "/var/run/other"
        socket_group = "{group}"
        log_level = "debug"
        stop_timeout = "20s"
        state_directory = "/var/other"
        [sources.freebsd]
        mode = "required"
        device = "/dev/other"
        budget = "12s"
        filesystem_reserve = "4s"
        hold_limit = "90s"
        overlap = "join"
        [sources.local]
        mode = "off"
        freeze_budget = "10s"
        hold_limit = "1h"
        overlap = "queue"
        [cycle]
        prepared_limit = "1m"
        thaw_limit = "500ms"
        return_grace = "0s"
        [apps]
        required = ["orders-db"]
        unidentified = "refuse"
        limit = 20000
        limit_per_uid = 3
        [[apps.policy]]
        name = "web-?"
        order = -5
        [history]
        keep = 10
        requirement = "required"
        """)
    )
    broker, freebsd, local = configuration.broker, configuration.sources.freebsd, configuration.sources.local
    assert (broker.runtime_directory, broker.socket_group) == (Path("/var/run/other"), group)
    assert (broker.log_level, broker.stop_timeout) == (LogLevel.DEBUG, timedelta(seconds=20))
    assert (freebsd.mode, freebsd.device) == (SourceMode.REQUIRED, Path("/dev/other"))
    assert (freebsd.budget, freebsd.filesystem_reserve) == (timedelta(seconds=12), timedelta(seconds=4))
    assert (freebsd.hold_limit, local.mode) == (timedelta(seconds=90), SourceMode.OFF)
    assert (local.freeze_budget, local.hold_limit) == (timedelta(seconds=10), timedelta(hours=1))
    cycle, apps = configuration.cycle, configuration.apps
    assert (cycle.prepared_limit, cycle.thaw_limit) == (timedelta(minutes=1), timedelta(milliseconds=500))
    assert cycle.return_grace == timedelta(0)
    assert (apps.required, apps.unidentified) == (("orders-db",), UnidentifiedApps.REFUSE)
    assert (apps.limit, apps.limit_per_uid) == (20000, 3)
    assert apps.policy == (AppPolicyOptions("web-?", order=-5),)
    assert (broker.state_directory, freebsd.overlap, local.overlap) == (Path("/var/other"), Overlap.JOIN, Overlap.QUEUE)
    assert (configuration.history.keep, configuration.history.requirement) == (10, Requirement.REQUIRED)
    assert configuration.given >= {"sources.local.overlap", "history.keep", "apps.policy", "apps.policy rule 1, order"}
    assert not configuration.given & {"broker", "apps.policy rule 1, uid"}
    assert configuration.overridden == frozenset()


def test_all_problems_come_at_once_each_with_its_key(write: Write) -> None:
    path = write("""
        bogus = 1
        broker = 3
        [sources.freebsd]
        budget = 15
        hold_limt = "1s"
        [source.local]
        mode = "off"
        [apps]
        limit = true
        device = "/dev/x"
        "bad\\nkey" = 1
        """)
    assert problems(path) == (
        "bogus: there is no such key",
        "broker: this is a section, [broker], and not an integer",
        'sources.freebsd.budget: 15 is a limit without a unit; write "15s" or another unit: ms, s, m, h',
        "sources.freebsd.hold_limt: there is no such key; did you mean sources.freebsd.hold_limit?",
        "source: there is no such section; did you mean sources?",
        "apps.limit: True is a boolean, not a whole number",
        "apps.device: there is no such key; did you mean sources.freebsd.device?",
        "apps.bad key: there is no such key",
    )


def test_a_budget_over_the_kernels_limit_names_the_limit(write: Write) -> None:
    assert problems(write('[sources.freebsd]\nbudget = "15.001s"\n')) == (
        "sources.freebsd.budget: '15.001s' is over 15s: the kernel gives apps and file systems 15s together",
    )


@pytest.mark.parametrize("lines", ['budget = "5s"', 'budget = "5.5s"', 'filesystem_reserve = "14s"\nbudget = "14s"'])
def test_a_reserve_that_leaves_the_apps_nothing(write: Write, lines: str) -> None:
    (problem,) = problems(write(f"[sources.freebsd]\n{lines}\n"))
    assert problem.startswith("sources.freebsd.filesystem_reserve: ")
    assert "is not below sources.freebsd.budget" in problem


def test_a_reserve_just_below_the_budget_without_its_last_moment_is_allowed(write: Write) -> None:
    freebsd = load(write('[sources.freebsd]\nbudget = "5.501s"\n')).sources.freebsd
    assert freebsd.filesystem_reserve < freebsd.budget


def test_a_wrong_budget_is_one_problem_and_not_two(write: Write) -> None:
    assert len(problems(write('[sources.freebsd]\nbudget = "soon"\nfilesystem_reserve = "14s"\n'))) == 1


def test_a_group_that_is_named_must_exist(write: Write) -> None:
    (problem,) = problems(write('[broker]\nsocket_group = "no-such-group-here"\n'))
    assert problem.startswith("broker.socket_group: there is no group 'no-such-group-here' on this machine")


def test_no_group_is_a_group_that_need_not_exist(write: Write) -> None:
    assert load(write('[broker]\nsocket_group = ""\n')).broker.socket_group == ""


def test_the_built_in_group_need_not_exist(write: Write) -> None:
    assert load(write("[broker]\n")).broker.socket_group == "appvss"
    assert not group_exists("no-such-group-here")
    assert group_exists(grp.getgrgid(os.getgid()).gr_name)


def test_a_runtime_directory_whose_sockets_do_not_fit(write: Write) -> None:
    (problem,) = problems(write(f'[broker]\nruntime_directory = "/{"x" * 120}"\n'))
    assert problem.startswith("broker.runtime_directory: the socket path")


def test_sockets_and_state_do_not_share_a_directory(write: Write) -> None:
    assert problems(
        write('[broker]\nruntime_directory = "/var/lib/appvss"\nstate_directory = "/var/lib/appvss"\n')
    ) == (
        "broker.state_directory: /var/lib/appvss is broker.runtime_directory, too; the broker alone may enter the one, "
        "and apps must enter the other",
    )


def test_what_a_journal_that_cannot_be_written_does_is_never_ignored(write: Write) -> None:
    assert problems(write('[history]\nrequirement = "ignored"\nkeep = 9\n')) == (
        'history.requirement: \'ignored\' is none of "required", "tolerated"',
        "history.keep: 9 is not in 10 to 100000",
    )


def test_more_required_apps_than_apps_are_allowed(write: Write) -> None:
    assert problems(write('[apps]\nlimit = 1\nrequired = ["a", "b"]\n')) == (
        "apps.limit: 1 is below the 2 apps that apps.required names",
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationUnreadable, match="no such file or directory") as caught:
        load(tmp_path / "absent.toml")
    assert caught.value.exit_code is ExitCode.CONFIGURATION


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="av", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_a_file_that_this_user_may_not_read(open_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    path = open_directory / "broker.toml"
    path.write_text("[apps]\n")
    path.chmod(0o600)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from appvss.broker.configuration import load\n"
        "os.setuid(65534)\n"
        "for call in (lambda path: load(path), lambda path: load(default_file=path)):\n"
        "    try:\n        call(Path(sys.argv[1]))\n"
        "    except Exception as error:\n        print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=30, check=True
    )
    expected = f"ConfigurationUnreadable the configuration {path} cannot be read: permission denied"
    assert done.stdout.splitlines() == [expected, expected], done


def test_the_command_line_goes_before_the_file() -> None:
    changed = with_overrides(
        Configuration(), runtime_directory=Path("/run/x"), state_directory=Path("/var/z"), device=Path("/dev/y")
    )
    assert (changed.broker.runtime_directory, changed.sources.freebsd.device) == (Path("/run/x"), Path("/dev/y"))
    assert changed.broker.state_directory == Path("/var/z")
    assert changed.overridden == {"broker.runtime_directory", "broker.state_directory", "sources.freebsd.device"}
    assert with_overrides(changed) == changed
    assert with_overrides(Configuration()) == Configuration()


def test_a_relative_path_of_the_command_line_counts_from_here() -> None:
    changed = with_overrides(Configuration(), runtime_directory=Path("run"), state_directory=Path("state"))
    assert changed.broker.runtime_directory == Path.cwd() / "run"
    assert changed.broker.state_directory == Path.cwd() / "state"


def test_a_command_line_that_puts_sockets_and_state_together_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^/x/y is the runtime directory, and the state directory too$"):
        with_overrides(Configuration(), runtime_directory=Path("/x/y"), state_directory=Path("/x/y"))


def test_a_runtime_directory_of_the_command_line_whose_sockets_do_not_fit() -> None:
    with pytest.raises(SocketPathTooLong):
        with_overrides(Configuration(), runtime_directory=Path("/" + "x" * 120))


def test_a_device_for_a_source_that_is_off_is_refused(write: Write) -> None:
    configuration = load(write('[sources.freebsd]\nmode = "off"\n'))
    with pytest.raises(UsageError, match=r"sources\.freebsd\.mode is off"):
        with_overrides(configuration, device=Path("/dev/y"))


@given(
    st.recursive(
        st.one_of(st.integers(), st.booleans(), st.floats(), st.text(max_size=20)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(
                st.sampled_from(
                    [option.key.rpartition(".")[2] for part in sections(Configuration) for option in part.options]
                    + ["broker", "sources", "freebsd", "local", "cycle", "apps", "policy", "history", "x\x1b"]
                ),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=12,
    )
)
def test_no_document_breaks_the_reader_and_every_problem_is_one_printable_line(document: object) -> None:
    reading = read_document(Configuration, document if isinstance(document, dict) else {"broker": document})
    assert isinstance(reading.value, Configuration)
    assert all(problem.isprintable() and ": " in problem for problem in reading.problems)


def test_the_sample_is_a_file_that_changes_nothing(write: Write) -> None:
    path = write(sample())
    assert load(path) == replace(Configuration(), origin=str(path))


def test_the_sample_without_its_comment_marks_holds_every_built_in_value_and_a_rule(write: Write) -> None:
    uncommented = "\n".join(
        line[1:] if line[:1] == "#" and line[1:2].strip() else line for line in sample().split("\n")
    )
    reading = read_document(Configuration, parse_file(write(uncommented)))
    assert reading.problems == []
    (rule,) = reading.value.apps.policy
    assert reading.value == replace(Configuration(), apps=replace(Configuration().apps, policy=(rule,)))
    assert None not in {getattr(rule, name) for name in RULE_KEYS}
    keys = {option.key for section in sections(Configuration) if not section.most for option in section.options}
    assert reading.given == keys | {"apps.policy"} | {f"apps.policy rule 1, {key}" for key in ("name", *RULE_KEYS)}


def test_the_reference_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"
    assert page.read_text(encoding="utf-8") == reference(), "run `python docs/generate.py`"


def test_every_option_has_a_meaning_and_every_section_too() -> None:
    for section in sections(Configuration):
        assert section.meaning.endswith("."), section.name
        for option in section.options:
            assert option.meaning.endswith("."), option.key
            assert "|" not in option.meaning + option.default_text + option.kind.allowed, "it breaks the table"
