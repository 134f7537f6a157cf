"""The server that the arguments of `oracle-engine serve` describe."""

from __future__ import annotations

import ipaddress
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from socket import socket

from ..base.errors import invalid, missing
from ..serving.limits import MIB, Limits
from ..serving.models import Model
from .serve_models import named_engines

TOKEN = "ORACLE_TOKEN"


def serve(arguments: Namespace) -> None:
    """Listen until a signal.

    arguments: of `oracle-engine serve`. Raises InputError for an address that needs a token, for limits that cannot be,
    for an address that cannot be listened at and for models that cannot be made, MissingDependencyError without the
    libraries of the server.
    """
    from ..serving import create_app

    try:
        from ..serving.process import Ending, listener, run
    except ModuleNotFoundError:
        raise missing("uvicorn", "`oracle-engine serve`", "serve") from None

    token = os.environ.get(TOKEN) or None
    check_address(arguments.host, arguments.open, token)
    limits = limits_of(arguments)
    ending = Ending(arguments.lame_duck, arguments.grace)
    with _listening(listener, arguments.host, arguments.port) as place:
        engines = named_engines(arguments)
        models = {name: Model(name, engine, limits, guidance) for name, (engine, guidance) in engines.items()}
        app = create_app(models, limits, token)
        words = first_words(f"http://{_shown(arguments.host)}:{place.getsockname()[1]}", models, token)
        options = {"log_level": arguments.log_level, "connections": arguments.max_connections}
        run(app, place, ending=ending, started=lambda: print(words, flush=True), **options)


def _listening(listener: Callable[[str, int], socket], host: str, port: int) -> socket:
    """Return what `listener` returns. Raises InputError where the address cannot be listened at."""
    try:
        return listener(host, port)
    except OSError as error:
        found, remedy = f"{host}:{port} ({error.strerror or error})", "pass another one, or 0 for any that is free"
        raise invalid("--port", "must be free, and --host an address of this machine", found, remedy) from error


def check_address(host: str, everybody: bool, token: str | None) -> None:
    """Check that strangers cannot ask without a token.

    host: to listen at. everybody: whether they may. token: that is needed, or None.
    Raises InputError for an address of others than this machine's.
    """
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if not (own or everybody or token):
        requirement = f"must be this machine's own without a token in {TOKEN}"
        raise invalid("--host", requirement, host, f"set {TOKEN}, or pass --open where everybody may ask")


def limits_of(arguments: Namespace) -> Limits:
    """Return the limits that the options name; raises InputError, in their words, for those that cannot be."""
    _check_limits(arguments)
    return Limits(
        body=arguments.max_body * MIB,
        rows=arguments.max_rows,
        queue_rows=arguments.max_queue,
        answer_seconds=arguments.timeout,
    )


def _check_limits(arguments: Namespace) -> None:
    """Raise InputError, which names the option, for limits that cannot be."""
    options = {
        "--max-body": arguments.max_body,
        "--max-rows": arguments.max_rows,
        "--max-queue": arguments.max_queue,
        "--max-connections": arguments.max_connections,
        "--timeout": arguments.timeout,
    }
    for option, value in options.items():
        if not value > 0:
            raise invalid(option, "must be above 0", value, "leave it out")
    for option, value in {"--lame-duck": arguments.lame_duck, "--grace": arguments.grace}.items():
        if not 0 <= value < 1e6:
            raise invalid(option, "must be seconds, at least 0", value, "leave it out")
    if not 0 <= arguments.port < 2**16:
        raise invalid(
            "--port", "must be a port, 0 to 65535", arguments.port, "leave it out for 8000, or pass 0 for any"
        )
    if arguments.max_queue < arguments.max_rows:
        raise invalid(
            "--max-queue", f"must be at least --max-rows, {arguments.max_rows}", arguments.max_queue, "raise it"
        )


def first_words(url: str, models: Mapping[str, Model], token: str | None) -> str:
    """Return what is served, and how to ask for it from a shell and from Python."""
    name, model = next(iter(models.items()))
    sample = model.engine.data.sample_shape
    x = f'{{"name":"x","shape":{[1, *sample]},"datatype":"FP32","data":[{",".join(["0"] * model.engine.data.dim)}]}}'
    t = '{"name":"t","shape":[1],"datatype":"FP64","data":[0.3]}'
    body = f'{{"inputs":[{x},{t}],"outputs":[{{"name":"velocity"}}]}}'.replace(" ", "")
    header = f' -H "Authorization: Bearer ${TOKEN}"' if token else ""
    held = f', token=os.environ["{TOKEN}"]' if token else ""
    lines = [f"{name}: {model.engine.data!r} on {model.engine.data.device}" for name, model in models.items()]
    if len(body) < 2000:
        lines.append(f"  curl{header} {url}/v2/models/{name}/infer -d '{body}'")
    else:
        lines.append(f"  curl{header} {url}/v2/models/{name}")
    asked = f'RemoteOracle("{url}", "{name}"{held})'
    lines.append(f"  python: from oracle_engine.serving import RemoteOracle; oracle = {asked}")
    return "\n".join([f"serving {url}", *lines])


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
