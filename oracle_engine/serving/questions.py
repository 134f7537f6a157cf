"""What one request asks of a model: its inputs, checked, and questions that become one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from ..base.arrays import Float, Float64, Int64, Tensor
from ..base.errors import invalid
from ..engine.several import PREDICTIONS
from .datatypes import DATATYPE_NAMES, FLOAT_DATATYPES

# the heaviest samples that are named where a request does not say how many
TOP_K = 8
FLOAT_DTYPES = tuple(FLOAT_DATATYPES.values())
# optional inputs: one number a query
NUMBERS = {"labels": "INT64", "source": "INT64", "exclude": "INT64", "guidance": "FP64"}


@dataclass(frozen=True, eq=False)
class Question:
    """B queries of one request, and what is wanted of them.

    x: [B, *sample_shape]. t, labels, source, exclude, guidance: [B], or None where the request has none; labels also
    [B, U]. names: of the answers, without what every answer has. top_k: samples to name.
    """

    x: Float[Tensor, "B ..."]
    t: Float64[Tensor, "B"]
    names: frozenset[str]
    top_k: int = TOP_K
    labels: Int64[Tensor, "B ..."] | None = None
    source: Int64[Tensor, "B"] | None = None
    exclude: Int64[Tensor, "B"] | None = None
    guidance: Float64[Tensor, "B"] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def numbers(self, name: str) -> int:
        """Return how many numbers the answer called `name` has."""
        each = self.x[0].numel() if name in PREDICTIONS else self.top_k if name.startswith("top_") else 1
        return len(self) * each

    @property
    def kind(self) -> tuple[object, ...]:
        """What questions have in common that can be answered together."""
        # rows of several labels are read together, as unions or as one-hot rows
        alone = id(self) if self.labels is not None and self.labels.ndim > 1 else None
        return (self.x.dtype, self.names, self.guidance is None, self.top_k, alone)

    @classmethod
    def together(cls, parts: Sequence[Question]) -> Question:
        """Return the questions `parts`, of one kind, as one; -1 stands for labels and indices that some do not have."""
        first = parts[0]
        if len(parts) == 1:
            return first
        indices = {
            name: _joined([getattr(part, name) for part in parts], parts) for name in ("labels", "source", "exclude")
        }
        guidance = None if first.guidance is None else torch.cat([_given(part.guidance) for part in parts])
        x, t = torch.cat([part.x for part in parts]), torch.cat([part.t for part in parts])
        return cls(x, t, first.names, first.top_k, guidance=guidance, **indices)


def _given(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _joined(values: Sequence[Tensor | None], parts: Sequence[Question]) -> Tensor | None:
    if all(value is None for value in values):
        return None
    none = [torch.full((len(part),), -1) for part in parts]
    return torch.cat([missing if value is None else value for value, missing in zip(values, none, strict=True)])


def check_names(inputs: Collection[str]) -> None:
    """Raise InputError where the names of `inputs` lack x or t, or are unknown."""
    for name in ("x", "t"):
        if name not in inputs:
            raise invalid(name, "must be among the inputs", ", ".join(inputs)[:80] or "nothing", f"send {name}")
    for name in inputs:
        if name not in ("x", "t", *NUMBERS):
            raise invalid("inputs", f"must be among x, t, {', '.join(NUMBERS)}", name[:80], "check its name")


def check_input(name: str, value: Tensor) -> None:
    """Raise InputError for an input that is not floating or not finite."""
    if value.dtype not in FLOAT_DTYPES:
        raise invalid(
            name, f"must have a datatype among {', '.join(FLOAT_DATATYPES)}", DATATYPE_NAMES[value.dtype], "convert it"
        )
    finite = value.reshape(len(value), -1).isfinite().all(1) if value.ndim else value.isfinite()
    if not bool(finite.all()):
        row = int((~finite.reshape(-1)).nonzero()[0])
        raise invalid(name, "must be finite", f"a NaN or an infinity in row {row}", "leave that query out")


def per_query(name: str, value: Tensor, batch: int) -> Tensor:
    """Return an input of one number a query as [B]: of [B] or [B, 1], or of one for all; labels also of [B, U].

    name: of the input, a key of NUMBERS or "t". value: what was sent. batch: number of queries.
    Raises InputError for another shape or datatype, and for numbers that are not finite.
    """
    if name in ("t", "guidance"):
        check_input(name, value)
        value = value.double()
    elif value.dtype in FLOAT_DTYPES:
        raise invalid(name, "must have an integer datatype, such as INT64", DATATYPE_NAMES[value.dtype], "convert it")
    else:
        value = _whole(name, value)
    if name == "labels" and value.ndim == 2 and len(value) == batch and value.shape[1] > 1:
        return value
    if value.numel() == 1:
        return value.reshape(1).expand(batch)
    if value.shape not in ((batch,), (batch, 1)):
        raise invalid(name, f"must have shape [{batch}] or [{batch}, 1]", list(value.shape), "send one a query")
    return value.reshape(batch)


def _whole(name: str, value: Tensor) -> Int64[Tensor, "..."]:
    whole = value.long()
    if value.dtype == torch.uint64 and bool((whole < 0).any()):
        raise invalid(name, "must be integers below 2^63", "a larger one", "send INT64")
    return whole
