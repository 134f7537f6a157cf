"""`oracle-engine export-triton`: a model repository for NVIDIA Triton's Python backend."""

from __future__ import annotations

from argparse import Namespace

from ..options import Commands, add_command, add_data, add_search, refuse_key, whole


def add_export_triton(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "write a model repository for NVIDIA Triton's Python backend"
    parser = add_command(commands, "export-triton", summary, run_export_triton)
    parser.add_argument("repository", metavar="DIR", help="the model repository")
    add_data(parser, default="digits")
    add_search(parser)
    parser.add_argument("--name", default="oracle", help="of the model (oracle)")
    parser.add_argument("--max-rows", type=whole, default=4096, help="queries of a batch (4096)")
    refuse_key(parser)


def run_export_triton(arguments: Namespace) -> None:
    """Write the model that the arguments describe."""
    from pathlib import Path

    from ...base.errors import invalid
    from ...serving.limits import Limits
    from ...serving.models import check_name
    from ...serving.triton import export
    from ..shared import engine_of, say

    check_name(arguments.name)
    if arguments.max_rows < 1:
        raise invalid("--max-rows", "must be at least 1", arguments.max_rows, "leave it out for 4096")
    limits = Limits(rows=arguments.max_rows, queue_rows=arguments.max_rows)
    files = export(engine_of(arguments), Path(arguments.repository), arguments.name, limits)
    start = f"tritonserver --model-repository={arguments.repository}"
    text = f"{arguments.repository}: the model {arguments.name}; start it with {start}"
    say(
        arguments,
        text,
        {"repository": arguments.repository, "name": arguments.name, "files": [str(file) for file in files]},
    )
