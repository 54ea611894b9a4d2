"""`appvss broker`: the daemon, in the foreground, for a service manager or a terminal."""

from __future__ import annotations

import os
from pathlib import Path

import click

from appvss.cli.invocation import Invocation, runtime_directory_option


@click.command("broker", short_help="Run the broker in the foreground.")
@click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help="The configuration file.")
@click.option(
    "--device",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The hypervisor's device, before what is configured. By its name: hv_vss is Linux's, any other FreeBSD's.",
)
@click.option(
    "--state-directory",
    "state_directory",
    metavar="DIRECTORY",
    help="Where journal, history and certificate are kept. Else APPVSS_STATE_DIRECTORY, else `broker.state_directory`.",
)
@runtime_directory_option
@click.pass_obj
def broker(invocation: Invocation, file: Path | None, device: Path | None, state_directory: str | None) -> int:
    """Run the broker in the foreground until SIGTERM or SIGINT. When it ends, everything is thawed first.

    Without --config it reads /etc/appvss/broker.toml (/usr/local/etc/appvss/broker.toml on FreeBSD) if that is there.
    """
    # gRPC's core writes to standard error by itself, from any of its threads: on a frozen file system that would hang.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from appvss import contract  # the broker and all that it needs are imported here alone
    from appvss.broker.configuration import Configuration, load, with_overrides
    from appvss.broker.main import run

    directory = invocation.runtime_directory or os.environ.get(contract.RUNTIME_DIRECTORY_VARIABLE)
    state = state_directory or os.environ.get(contract.STATE_DIRECTORY_VARIABLE)

    def read() -> Configuration:
        return with_overrides(
            load(file),
            runtime_directory=Path(directory) if directory else None,
            state_directory=Path(state) if state else None,
            device=device,
        )

    return run(read)
