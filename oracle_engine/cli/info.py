"""`oracle-engine info`: what is installed and what this machine can do."""

from __future__ import annotations

from argparse import Namespace

from ..base.environment import environment_report, format_report
from .shared import say


def run_info(arguments: Namespace) -> None:
    """Print the environment report."""
    report = environment_report()
    say(arguments, format_report(report), report)
