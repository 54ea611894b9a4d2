"""What an author gets from `import appvss`: these names, these types, nothing on the screen, nothing else loaded."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import appvss
from appvss.model.version import VERSION
from appvss.sdk import testing
from appvss.sdk.declaration import LIBRARY

ROOT = Path(__file__).parents[2]


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout


def test_the_public_names_are_these() -> None:
    assert set(appvss.__all__) == {
        "AppvssError",
        "Freeze",
        "FreezeEnded",
        "HoldLost",
        "NameInvalid",
        "Prepare",
        "Veto",
        "serve",
        "serve_in_thread",
    }
    assert set(testing.__all__) == {
        "BlockingFakeApp",
        "BlockingFakeBroker",
        "FakeApp",
        "FakeBroker",
        "FreezeResult",
        "HoldClaim",
        "PrepareResult",
        "Refusal",
        "ThawResult",
        "TurnedAway",
    }
    assert set(appvss.__all__) <= set(dir(appvss))


def test_every_name_leads_somewhere_and_no_other_does() -> None:
    for name in appvss.__all__:
        assert getattr(appvss, name).__name__ == name
    for name in testing.__all__:
        assert getattr(testing, name).__name__ == name
    assert not hasattr(appvss, "client")


def test_both_ways_of_serving_take_the_same_arguments() -> None:
    ways = [inspect.signature(way).parameters for way in (appvss.serve, appvss.serve_in_thread)]
    first, second = ({name: (each.kind, each.default) for name, each in way.items()} for way in ways)
    assert first == second
    assert list(first) == [
        "name",
        "quiesce",
        "prepare",
        "order",
        "after",
        "requirement",
        "freeze_timeout",
        "hold_limit",
        "paths",
        "watch_paths",
        "grade",
        "instance",
        "runtime_directory",
    ]


def test_the_broker_is_told_the_version_of_the_package() -> None:
    assert f"appvss-python/{VERSION}" == LIBRARY


def test_the_package_is_typed() -> None:
    assert (ROOT / "appvss" / "py.typed").read_bytes() == b""


PROBE = """
import sys
before = set(sys.modules)
import appvss
light = set(sys.modules) - before
for name in appvss.__all__:
    getattr(appvss, name)
loaded = {module.partition(".")[0] for module in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(sorted({each.partition(".")[0] for each in light} - {"appvss", *sys.stdlib_module_names}))
print(sorted(each for each in loaded if not each.startswith("_")))
print(sorted({each.split(".")[1] for each in sys.modules if each.startswith("appvss.")}))
"""


def test_nothing_else_is_loaded() -> None:
    light, loaded, rooms = run(PROBE).splitlines()
    assert light == "[]"
    # gRPC brings its compiler's runtime, and looks for its own tools where they are installed.
    brought_by_grpc = {"cython_runtime", "grpc_tools"}
    declared = {"appvss", "grpc", "google", "tenacity", "typing_extensions"}
    assert set(eval(loaded)) <= declared | brought_by_grpc
    assert rooms == "['contract', 'model', 'sdk', 'v1']"


def test_the_kit_needs_no_test_framework() -> None:
    frameworks = "{'pytest', 'unittest', 'hypothesis'}"
    out = run(f"import sys, appvss.sdk.testing\nprint(sorted({frameworks} & set(sys.modules)))")
    assert out == "[]\n"


def test_importing_is_quick() -> None:
    """Measured as processor time of the interpreter, which a busy machine does not change much; bare Python: 15 ms."""
    program = "import time, appvss\nfor each in appvss.__all__: getattr(appvss, each)\nprint(time.process_time())"
    assert min(float(run(program)) for _ in range(3)) < 1.0


def test_grpc_is_kept_quiet_and_the_environment_as_it_was() -> None:
    report = "print(os.environ.get('GRPC_VERBOSITY'), os.environ.get('GRPC_ENABLE_FORK_SUPPORT'))"
    assert run(f"import os, appvss\nappvss.serve\n{report}") == "None None\n"
    chosen = "import os\nos.environ['GRPC_VERBOSITY'] = 'ERROR'\nimport appvss\nappvss.serve"
    assert run(f"{chosen}\n{report}") == "ERROR None\n"


def test_the_log_has_a_place_and_no_voice() -> None:
    report = "print([type(each).__name__ for each in logging.getLogger('appvss.sdk').handlers])"
    assert run(f"import logging, appvss\nappvss.serve\n{report}") == "['NullHandler']\n"


HOLD = """
import sys, threading, appvss
from appvss.sdk.testing import BlockingFakeBroker
with BlockingFakeBroker() as broker:
    with appvss.serve_in_thread("app", lambda freeze: threading.Lock(), runtime_directory=broker.runtime_directory):
        app = broker.app("app")
        app.prepare()
        before = set(sys.modules)
        assert app.freeze().frozen
        app.disconnect()
        app.returned()
        assert app.thaw().unbroken
        print(sorted(set(sys.modules) - before))
"""


def test_nothing_is_loaded_while_something_is_held() -> None:
    assert run(HOLD) == "[]\n"
