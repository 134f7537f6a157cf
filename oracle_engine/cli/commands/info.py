"""`oracle-engine info`: what is installed and what this machine can do."""

from __future__ import annotations

from argparse import Namespace

from ..options import Commands, add_command


def add_info(commands: Commands) -> None:
    """Add the command to `commands`."""
    add_command(commands, "info", "what is installed and what this machine can do, for bug reports", run_info)


def run_info(arguments: Namespace) -> None:
    """Print the environment report."""
    from ...base.errors import InputError
    from ...base.machine.environment import environment_report, format_report
    from ...engine.residency import streaming_in_words
    from ...kernels import native_library
    from ..shared import say

    report = environment_report()
    try:
        report["native"] = native_library().reason
    except InputError as error:
        report["native"] = str(error)
    report["streaming"] = streaming_in_words()
    say(arguments, format_report(report), report)
