"""Generate `appvss/v1` from `proto/appvss/v1`, or check that what is committed is what would be generated.

usage: python proto/generate.py [--check]

Run it with the interpreter that has the pinned tools of the dependency group `proto` (`make proto` and `make lint` do):
their versions set the oldest grpcio and protobuf that can load the generated code.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
HOME = PROTO.parent / "appvss" / "v1"


def generate(target: Path) -> Path:
    """Write the generated modules below `target` and return the folder that holds them."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob("appvss/v1/*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{target}" for kind in ("mypy", "mypy_grpc")]
    # protoc finds its plugins through PATH: those beside this interpreter are the pinned ones.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *sources]
    subprocess.run(command, check=True, cwd=PROTO, env=dict(os.environ, PATH=path))
    folder = target / "appvss" / "v1"
    (folder / "__init__.py").write_text('"""Generated from proto/appvss/v1 by `make proto`. Never edited."""\n')
    for empty in folder.glob("types_pb2_grpc.py*"):  # types.proto has no service
        empty.unlink()
    return folder


def main() -> int:
    """Generate, or with `--check` compare and say what differs."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = generate(Path(scratch))
        names = {path.name for folder in (fresh, HOME) for path in folder.glob("*.py*") if path.is_file()}
        differing = sorted(
            name
            for name in names
            if not ((fresh / name).exists() and (HOME / name).exists())
            or not filecmp.cmp(fresh / name, HOME / name, shallow=False)
        )
        if "--check" in sys.argv[1:]:
            for name in differing:
                print(f"appvss/v1/{name} is not what proto/ generates; run `make proto` and commit the result")
            return 1 if differing else 0
        for name in differing:
            (HOME / name).unlink(missing_ok=True)
            if (fresh / name).exists():
                shutil.copyfile(fresh / name, HOME / name)
        print(f"{len(differing)} of {len(names)} generated files changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
