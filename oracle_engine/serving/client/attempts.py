"""Attempts to ask a server: where it is, what is asked again, and what is raised where no answer comes."""

from __future__ import annotations

from typing import Any

import httpx

from ...base.errors import InputError, OracleError, invalid

# what a client raises where no response came; in time, or at all
NO_RESPONSE = (
    *(httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError),
    httpx.TimeoutException,
)
# seconds before another attempt where no response came, and at most where a server names them
PAUSE, LONGEST_PAUSE = 1.0, 10.0


class RemoteError(OracleError):
    """A server that did not answer. status: of HTTP, or None where there was no response."""

    status: int | None = None


def pause(response: httpx.Response) -> float | None:
    """Return after how many seconds a refused request may be repeated, or None where it may not."""
    if response.status_code not in (429, 503):
        return None
    told = response.headers.get("retry-after", "")
    return min(float(told), LONGEST_PAUSE) if told.isdigit() else PAUSE


def pause_after(error: Exception, address: str, left: int) -> float:
    """Return after how many seconds a request is repeated that got no response: nothing is changed by asking.

    error: among NO_RESPONSE. address: of the model. left: how many attempts are left.
    Raises RemoteError where none is, and where the time was up.
    """
    if isinstance(error, httpx.TimeoutException):
        raise remote_error(f"no response from {address} in time. Remedy: raise timeout.") from error
    if left == 0:
        raise remote_error(f"no response from {address}: {error}.") from error
    return PAUSE


def checked_response(response: httpx.Response) -> httpx.Response:
    """Return a response that has an answer.

    Raises InputError with the words of the server where the request cannot be answered, RemoteError where the server
    does not answer.
    """
    if response.status_code == 200:
        return response
    try:
        words = str(response.json()["error"])
    except (KeyError, TypeError, ValueError):
        words = response.text[:200]
    if response.status_code in (400, 413):
        raise InputError(words)
    raise remote_error(f"the server refused with status {response.status_code}: {words}", response.status_code)


def remote_error(words: str, status: int | None = None) -> RemoteError:
    """Return the error of a server that did not answer, which the caller raises."""
    error = RemoteError(words)
    error.status = status
    return error


def client_settings(token: str | None, timeout: float) -> dict[str, Any]:
    """Return the settings of an httpx client. token: of the server. timeout: seconds until an answer."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return {"headers": headers, "timeout": timeout}


def model_address(url: str, model: str) -> str:
    """Return the address of a model. Raises InputError for a URL of a server that is none."""
    if not url.startswith(("http://", "https://")):
        raise invalid("url", "must begin with http:// or https://", repr(url), "pass http://127.0.0.1:8000")
    return f"{url.rstrip('/')}/v2/models/{model}"
