"""`oracle-engine plan`: what a batch of queries will do and cost."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from .shared import engine_of, say


def run_plan(arguments: Namespace) -> None:
    """Print what a batch of queries would do and cost."""
    engine = engine_of(arguments)
    plan = engine.plan(arguments.batch)
    say(arguments, str(plan), asdict(plan))
