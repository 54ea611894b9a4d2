"""`appvss filesystems`: what a freeze would do to the file systems of this machine."""

from __future__ import annotations

import click

from appvss.cli import documents, render
from appvss.cli.filesystem_options import choice_of, mount_option
from appvss.cli.filesystem_table import show_survey
from appvss.cli.invocation import Invocation, json_option, runtime_directory_option
from appvss.model.filesystem import Scope


@click.command("filesystems", short_help="Show which file systems a freeze would take, in which order, and what not.")
@mount_option("For this mounted file system. Several times: for these.")
@click.option("--declared", is_flag=True, help="For those on which the registered apps have their declared paths.")
@runtime_directory_option
@json_option
@click.pass_obj
def filesystems(invocation: Invocation, mounts: tuple[str, ...], declared: bool) -> None:
    """Show which file systems a freeze would take, in which order, what not and why, and what would hang.

    Without an option: all that this machine's own disks carry, as hypervisors take them. With --declared: as
    `appvss freeze` takes them by itself, and / with them. Nothing is frozen, opened or written.

    Code 9: what --mount names is no mount point, or cannot be frozen.
    """
    choice = choice_of({"--declared": declared}, mounts, Scope.ALL)
    with invocation.client() as client:
        survey = client.filesystems(choice)
    if invocation.as_json:
        render.document("filesystems", documents.filesystems(survey))
    else:
        show_survey(survey)
