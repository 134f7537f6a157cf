"""The oracle for other tools: a server of the Open Inference Protocol v2, and its client.

The web libraries are imported with the name that needs them: create_app needs Starlette, RemoteOracle needs httpx.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..base.errors import missing

if TYPE_CHECKING:
    from .app import create_app
    from .client.attempts import RemoteError
    from .client.remote import RemoteOracle
    from .client.remote_async import AsyncRemoteOracle
    from .limits import Limits

__all__ = ["AsyncRemoteOracle", "Limits", "RemoteError", "RemoteOracle", "create_app"]

_MODULES = {
    "AsyncRemoteOracle": "client.remote_async",
    "Limits": "limits",
    "RemoteError": "client.attempts",
    "RemoteOracle": "client.remote",
    "create_app": "app",
}
_PACKAGES = {"starlette": "starlette", "prometheus_client": "prometheus-client", "uvicorn": "uvicorn", "httpx": "httpx"}


def _load(name: str) -> Any:
    """Import a name on its first use. Raises MissingDependencyError without what it needs."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _PACKAGES:
            raise
        raise missing(_PACKAGES[error.name.split(".")[0]], f"oracle_engine.serving.{name}", "serve") from None


if not TYPE_CHECKING:
    __getattr__ = _load
