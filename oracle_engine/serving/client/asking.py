"""What a client sends and reads, as functions of bytes, and what it knows of a model."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...base.arrays import (
    Float,
    Float64,
    Int64,
    Numbers,
    Tensor,
    check_floating,
    check_shape,
    integers,
    reals,
)
from ...base.errors import invalid
from ...engine.several import PREDICTIONS
from ...paths.described import path_of_facts
from ...paths.paths import Path, resolve_times
from ...queries.conditions import Conditions, Guidance
from ...queries.labels import resolve_labels
from ..datatypes import DATATYPES, named, to_bytes
from ..protocol import HEADER_LENGTH
from .attempts import RemoteError

CPU = torch.device("cpu")
# bytes of a request beside its tensors
HEAD_ROOM = 4096


@dataclass(frozen=True)
class RemoteData:
    """What a client knows of the samples behind a server.

    sample_shape: of a sample. count: of samples. segments: the classes, as keys. value_dtype: of values. device: where
    states of runs are made.
    """

    sample_shape: tuple[int, ...]
    count: int
    segments: Mapping[int, Any]
    value_dtype: torch.dtype
    device: torch.device = CPU

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class Facts:
    """What the configuration of a model says. rows, body: queries, and bytes, that a request may have."""

    data: RemoteData
    path: Path
    point_std: float
    t_max: float | None
    rows: int
    body: int

    @classmethod
    def of(cls, config: Any, device: torch.device) -> Facts:
        """Return the facts in what a server told. Raises RemoteError for what another kind of server told."""
        try:
            held = config["parameters"]["oracle"]
            dtype = DATATYPES[held["value_dtype"]]
            classes = dict.fromkeys(held["classes"])
            data = RemoteData(tuple(held["sample_shape"]), held["samples"], classes, dtype, device)
            limits = (held["limits"]["rows"], held["limits"]["body"])
            described = held["path_facts"] or {"kind": held["path"]}
            return cls(data, path_of_facts(described), held["point_std"], held["t_max"], *limits)
        except (KeyError, TypeError) as error:
            raise RemoteError(f"the server is no oracle-engine server: its configuration has no {error}.") from None


@dataclass(frozen=True)
class Ask:
    """One request: the names of the answers, in B queries and their conditions."""

    names: Sequence[str]
    tensors: Mapping[str, Tensor]
    top_k: int | None = None

    def __len__(self) -> int:
        return len(self.tensors["x"])

    def parts(self, facts: Facts) -> Iterator[Ask]:
        """Yield the queries in as many requests as the limits of the server need."""
        row = sum(value[:1].nbytes for value in self.tensors.values())
        size = max(1, min(facts.rows, (facts.body - HEAD_ROOM) // row))
        for start in range(0, len(self), size):
            part = {name: value[start : start + size] for name, value in self.tensors.items()}
            yield Ask(self.names, part, self.top_k)

    def encoded(self) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers."""
        tail = {name: to_bytes(value) for name, value in self.tensors.items()}
        inputs = [
            {
                "name": name,
                "shape": list(value.shape),
                "datatype": named(value),
                "parameters": {"binary_data_size": len(tail[name])},
            }
            for name, value in self.tensors.items()
        ]
        parameters: dict[str, Any] = {"binary_data_output": True}
        if self.top_k is not None:
            parameters["top_k"] = self.top_k
        outputs = [{"name": name} for name in self.names]
        head = json.dumps({"inputs": inputs, "outputs": outputs, "parameters": parameters}).encode()
        return b"".join([head, *tail.values()]), {
            HEADER_LENGTH: str(len(head)),
            "Content-Type": "application/octet-stream",
        }


def ask_of(
    facts: Facts,
    names: Collection[str],
    x: Float[Tensor, "B ..."] | np.ndarray,
    t: Numbers,
    conditions: Conditions,
    *,
    top_k: int | None = None,
) -> Ask:
    """Return what is asked, with everything checked that a client can check.

    facts: of the model. names, x, t, conditions, top_k: as :func:`oracle_engine.engine.several.several` takes them.
    Raises InputError as an engine does.
    """
    if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
        raise invalid("x", "must not want a gradient: a server has none", "x.requires_grad", "pass x.detach()")
    points = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
    check_floating("x", points)
    check_shape("x", points, facts.data.sample_shape)
    if len(points) == 0:
        raise invalid("x", "must have at least one query", "none", "leave the call out")
    batch = len(points)
    times = resolve_times(_plain(t), batch, facts.t_max, CPU)
    tensors = {"x": points.detach().cpu(), "t": times}
    labels = resolve_labels(_plain(conditions.labels), batch, facts.data.segments, CPU)
    if labels is not None:
        tensors["labels"] = labels
    for name in ("exclude", "source"):
        value = getattr(conditions, name)
        if value is not None:
            tensors[name] = _whole(name, value, batch)
    if conditions.guidance is not None and not set(names).isdisjoint(PREDICTIONS):
        tensors["guidance"] = _scale(conditions.guidance, times)
    return Ask(list(names), tensors, top_k)


def _plain(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _whole(name: str, value: Any, batch: int) -> Int64[Tensor, "B"]:
    """Return a condition of whole numbers, one a query."""
    whole = integers(name, _plain(value), CPU, "pass the indices of samples")
    return whole.expand(batch) if whole.ndim == 0 else whole


def _scale(guidance: Numbers | Guidance, times: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return the guidance scale of each query, one outside of the interval."""
    chosen = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    scale = reals("guidance", _plain(chosen.scale)).detach()
    if scale.shape not in ((), times.shape):
        raise invalid("guidance", f"must be a finite number or [{len(times)}]", list(scale.shape), "pass one a query")
    # outside of the interval the conditional answer counts, which has the scale one
    return torch.where((times >= chosen.t_min) & (times <= chosen.t_max), scale, 1.0)


def read_answer(body: bytes, header_length: str | None) -> dict[str, Tensor | list[str]]:
    """Return the outputs of an answer by name; raises RemoteError for what is none."""
    try:
        length = len(body) if header_length is None else int(header_length)
        outputs = json.loads(body[:length])["outputs"]
        found: dict[str, Tensor | list[str]] = {}
        for item in outputs:
            size = item["parameters"]["binary_data_size"]
            part, length = body[length : length + size], length + size
            found[item["name"]] = _texts(part) if item["datatype"] == "BYTES" else _numbers(item, part)
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(f"the answer of the server cannot be read: {error}.") from None


def _numbers(item: Mapping[str, Any], part: bytes) -> Tensor:
    return torch.frombuffer(bytearray(part), dtype=DATATYPES[item["datatype"]]).reshape(item["shape"])


def _texts(part: bytes) -> list[str]:
    """Return the texts of a tensor of BYTES."""
    found, place = [], 0
    while place < len(part):
        size = int.from_bytes(part[place : place + 4], "little")
        found.append(part[place + 4 : place + 4 + size].decode())
        place += 4 + size
    return found


def joined_answers(parts: Sequence[Mapping[str, Tensor | list[str]]]) -> dict[str, Any]:
    """Return the answers to several requests as one; texts as a tuple."""
    found: dict[str, Any] = {}
    for name, first in parts[0].items():
        values: list[Any] = [part[name] for part in parts]
        found[name] = (
            torch.cat(values) if isinstance(first, Tensor) else tuple(text for held in values for text in held)
        )
    return found
