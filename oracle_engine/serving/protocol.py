"""The Open Inference Protocol v2 with Triton's binary extension, as functions of bytes.

https://github.com/kserve/open-inference-protocol; the extension puts raw tensors behind the JSON, whose length the
header Inference-Header-Content-Length gives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..base.arrays import Tensor
from ..base.errors import InputError, invalid
from .datatypes import DATATYPES, from_bytes, from_json, named, to_bytes, to_json
from .limits import RefusedError

HEADER_LENGTH = "Inference-Header-Content-Length"
# what a request may set; a priority changes no answer
PARAMETERS = ("binary_data_output", "priority", "timeout", "top_k")
# sizes of a tensor; torch takes no more dimensions than this
DIMENSIONS = 64
# numbers that are written to JSON at once, a few milliseconds
WRITTEN = 2**13


@dataclass(frozen=True)
class Inference:
    """A request to infer.

    id: what the answer repeats. inputs: tensors by name. outputs: whether each of those asked for is binary, by name in
    their order; empty where none was named. binary: whether others are. parameters: of the request.
    """

    id: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, bool]
    binary: bool
    parameters: Mapping[str, Any]


def json_length(header: str | None, size: int, most: int) -> int:
    """Return how many bytes of a body are JSON; tensors follow.

    header: the header Inference-Header-Content-Length, None where all is JSON. size: bytes of the body. most: how many
    may be JSON. Raises InputError for a header that is no such number, RefusedError for more JSON.
    """
    # int() also reads signs, spaces, underscores and digits of other scripts
    if header is not None and not (header.isascii() and header.isdigit() and len(header) < 19 and int(header) <= size):
        requirement = f"must be the length of the JSON, a whole number up to the {size} bytes of the body"
        raise invalid(HEADER_LENGTH, requirement, ascii(header)[:40], "leave the header out where all is JSON")
    length = size if header is None else int(header)
    if length > most:
        raise RefusedError(413, f"JSON may have {most} bytes; received {length}. Remedy: send tensors as binary data.")
    return length


def parse(body: bytes | bytearray, length: int) -> Inference:
    """Return the request that a body holds.

    body: its bytes. length: how many of them are JSON.
    Raises InputError for everything that is no such request.
    """
    view = memoryview(body)
    header = _read_json(bytes(view[:length]))
    inputs = _tensors(_listed(header, "inputs"), view[length:])
    parameters = _parameters(header)
    unknown = sorted(set(parameters) - set(PARAMETERS))
    if unknown:
        raise invalid("parameters", f"must be among {', '.join(PARAMETERS)}", unknown[0][:80], "leave it out")
    binary = _flag(parameters, "binary_data_output", False)
    outputs = _outputs(header, binary)
    name = header.get("id", "")
    if not isinstance(name, str):
        raise invalid("id", "must be a text", type(name).__name__, "send a string")
    return Inference(name, inputs, outputs, binary, parameters)


def answer_body(
    model: str, inference: Inference, values: Mapping[str, Tensor | Sequence[str]]
) -> tuple[list[bytes], int | None]:
    """Return the parts of the body of an answer, and the length of its JSON where tensors follow it, else None.

    model: its name. inference: what was asked, whose outputs decide the form of each value. values: by name, in the
    order in which they are sent.
    """
    described: list[bytes] = []
    tail: list[bytes] = []
    for name, value in values.items():
        shape = list(value.shape) if isinstance(value, Tensor) else [len(value)]
        entry: dict[str, Any] = {"name": name, "datatype": named(value), "shape": shape}
        if inference.outputs.get(name, inference.binary):
            tail.append(to_bytes(value))
            described.append(text_of(entry | {"parameters": {"binary_data_size": len(tail[-1])}}))
        else:
            described.append(b'%s,"data":[%s]}' % (text_of(entry)[:-1], _numbers(to_json(value))))
    held = {"model_name": model, "model_version": "1"} | ({"id": inference.id} if inference.id else {})
    head = b'%s,"outputs":[%s]}' % (text_of(held)[:-1], b",".join(described))
    return [head, *tail], len(head) if tail else None


def _numbers(values: Sequence[Any]) -> bytes:
    """Return the values of a list in JSON, in parts: while one is written no other thread of Python runs."""
    parts = (values[start : start + WRITTEN] for start in range(0, len(values), WRITTEN))
    return b",".join(text_of(part)[1:-1] for part in parts)


def text_of(held: Any) -> bytes:
    """Return plain values as JSON, in ASCII, so that no text of a client can fail to be written."""
    return json.dumps(held, allow_nan=False, separators=(",", ":")).encode()


def _read_json(text: bytes) -> dict[str, Any]:
    """Return the object that JSON text holds. Raises InputError for anything else."""
    try:
        found = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except InputError:
        raise
    except RecursionError:
        raise invalid("body", "must be JSON of a few levels", "a deeper one", "send flat lists") from None
    except ValueError as error:
        remedy = f"send JSON, and the header {HEADER_LENGTH} where tensors follow it"
        raise invalid("body", "must be JSON", str(error)[:120], remedy) from None
    if not isinstance(found, dict):
        raise invalid("body", "must be a JSON object", type(found).__name__, 'send {"inputs": [...]}')
    return found


def _no_constant(text: str) -> NoReturn:
    raise invalid("body", "must hold finite numbers", text, "leave that query out")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Raises InputError where it has a key twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise invalid("body", "must hold each key of an object once", f"{key[:80]!r} twice", "leave one out")
        found[key] = value
    return found


def _listed(held: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the named tensors under a key. Raises InputError where names are missing or the same."""
    found = held.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise invalid(key, "must be a list of objects", type(found).__name__, f'send "{key}": [{{"name": ...}}]')
    names = [item.get("name") for item in found]
    for name in names:
        if not isinstance(name, str):
            raise invalid(key, "must each have a name", type(name).__name__, 'send "name": "..."')
    if len(set(names)) < len(names):
        raise invalid(key, "must have different names", "one of them twice", "send each tensor once")
    return found


def _parameters(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request or a tensor. Raises InputError for those that are not known here."""
    found = held.get("parameters", {})
    if not isinstance(found, dict):
        raise invalid("parameters", "must be an object", type(found).__name__, "leave it out")
    if "shared_memory_region" in found:
        raise invalid("parameters", "must not name shared memory", "shared_memory_region", "send the data themselves")
    return found


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    found = parameters.get(name, default)
    if not isinstance(found, bool):
        raise invalid(name, "must be true or false", str(found)[:40], "leave it out")
    return found


def _outputs(header: Mapping[str, Any], binary: bool) -> dict[str, bool]:
    """Return whether each output that is asked for comes as bytes."""
    found: dict[str, bool] = {}
    for item in _listed(header, "outputs") if header.get("outputs") is not None else []:
        parameters = _parameters(item)
        if parameters.get("classification"):
            raise invalid(str(item["name"])[:80], "is no classification", "classification", "ask for top_indices")
        found[item["name"]] = _flag(parameters, "binary_data", binary)
    return found


def _tensors(items: Iterable[Mapping[str, Any]], tail: memoryview) -> dict[str, Tensor]:
    """Return the inputs by name, from JSON or from the bytes after it."""
    found: dict[str, Tensor] = {}
    for item in items:
        name, shape, datatype = item["name"][:80], _shape(item), item.get("datatype")
        if not isinstance(datatype, str) or datatype not in DATATYPES:
            raise invalid(name, f"must have a datatype among {', '.join(DATATYPES)}", str(datatype)[:40], "convert it")
        size = _parameters(item).get("binary_data_size")
        if size is None:
            found[name] = from_json(name, datatype, shape, item.get("data"))
            continue
        if "data" in item:
            raise invalid(name, "must have data in one form", "data and binary_data_size", "leave one out")
        if type(size) is not int or not 0 <= size <= len(tail):
            requirement = f"must have a binary_data_size up to the {len(tail)} bytes that are left of the body"
            raise invalid(name, requirement, str(size)[:40], f"check it, and the header {HEADER_LENGTH}")
        found[name], tail = from_bytes(name, datatype, shape, tail[:size]), tail[size:]
    if len(tail):
        raise invalid("body", "must end with the last tensor", f"{len(tail)} bytes more", "check binary_data_size")
    return found


def _shape(item: Mapping[str, Any]) -> list[int]:
    """Return the shape of a tensor. Raises InputError for one that cannot be."""
    shape, name = item.get("shape"), str(item["name"])[:80]
    if not isinstance(shape, list) or len(shape) > DIMENSIONS or not all(type(size) is int for size in shape):
        raise invalid(name, "must have a shape, a list of whole numbers", str(shape)[:80], "check the shape")
    if min(shape, default=1) < 1:
        raise invalid(name, "must hold at least one number", str(shape)[:80], "send sizes above 0")
    return shape
