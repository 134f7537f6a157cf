"""`oracle-engine serve`: answers for other tools over HTTP."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..options import Commands, add_command, add_data, add_search, refuse_key, whole


def add_serve(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "answer for other tools over HTTP, by the Open Inference Protocol v2"
    parser = add_command(commands, "serve", summary, run_serve)
    add_data(parser, default="digits")
    add_search(parser)
    parser.add_argument("--name", default="oracle", help="of the model in addresses (oracle)")
    parser.add_argument("--config", metavar="FILE", help="several models, from a TOML file, in place of --data")
    parser.add_argument("--guidance", type=float, metavar="W", help="of labelled queries that name no scale")
    _add_place(parser)
    _add_limits(parser)
    refuse_key(parser)


def _add_place(parser: ArgumentParser) -> None:
    """Add the options that say where the server listens and how it ends."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; others than this machine's need a token in ORACLE_TOKEN (127.0.0.1)",
    )
    parser.add_argument("--port", type=whole, default=8000, help="port to listen at (8000)")
    parser.add_argument("--open", action="store_true", help="listen at a public address without a token")
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="debug has a line for each request (info)",
    )
    parser.add_argument(
        "--lame-duck",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds after SIGTERM in which it is not ready but still accepts (5)",
    )
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="S", help="seconds after that to answer what was accepted (30)"
    )


def _add_limits(parser: ArgumentParser) -> None:
    """Add the options that limit what is taken."""
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds until an answer (60)")
    parser.add_argument("--max-body", type=whole, default=64, metavar="MIB", help="size of a request (64)")
    parser.add_argument("--max-rows", type=whole, default=4096, help="queries of a request (4096)")
    parser.add_argument("--max-queue", type=whole, default=16384, help="queries that wait (16384)")
    parser.add_argument("--max-connections", type=whole, default=1024, help="connections at once (1024)")


def run_serve(arguments: Namespace) -> None:
    """Serve the models that the arguments describe until a signal."""
    from ..serving import serve

    serve(arguments)
