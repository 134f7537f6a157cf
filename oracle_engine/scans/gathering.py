"""The queries of all ranks as one batch, where each rank brings its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from ..base.arrays import Int64, Tensor
from ..base.group.ranks import Asked, Ranks
from ..kernels import Directions, GivenPoints, Query
from ..paths.paths import Coefficients
from ..queries.request import Request

# parts of a query that are sent: each [B] or [B, C], float64 or int64
Parts = dict[str, Tensor]


def gathered_parts(ranks: Ranks, operation: str, asked: Sequence[Asked], parts: Parts) -> tuple[Parts, list[int]]:
    """Return the parts of the queries of all ranks, one after the other, and how many each rank has; a collective.

    asked: what has to be the same on all ranks. parts: of the queries here. Columns that other ranks have more of are
    filled with -1, which stands for no class and no sample.
    """
    widths = [part.shape[1] if part.ndim == 2 else -1 for part in parts.values()]
    batch = len(next(iter(parts.values())))
    found = ranks.compare(operation, asked, [batch, *widths])
    counts, most = [sizes[0] for sizes in found], [max(column) for column in zip(*found, strict=True)][1:]
    columns = [_column(part, width) for part, width in zip(parts.values(), most, strict=True)]
    rows = torch.cat(ranks.share(operation, torch.cat(columns, dim=1).cpu(), counts))
    split = rows.split([column.shape[1] for column in columns], dim=1)
    together = {}
    for (name, part), width, held in zip(parts.items(), most, split, strict=True):
        values = held.contiguous().view(part.dtype).to(part.device)
        together[name] = values[:, 0] if width < 0 else values
    return together, counts


def gathered_request(
    ranks: Ranks, operation: str, asked: Sequence[Asked], request: Request
) -> tuple[Request, list[int]]:
    """Return the queries of all ranks as one request, and how many of them each rank has; a collective.

    asked: what has to be the same on all ranks. request: of this rank.
    """
    coefficients = {f"at.{field.name}": getattr(request.at, field.name) for field in fields(request.at)}
    plain = {name: getattr(request, name) for name in ("x", "times", "variance", "exclude", "source", "scale")}
    labels = request.exclude.new_empty(len(request), 0) if request.labels is None else request.labels
    found, counts = gathered_parts(ranks, operation, asked, {**plain, "labels": labels, **coefficients})
    at = Coefficients(*(found.pop(name).contiguous() for name in coefficients))
    classes = found.pop("labels")
    held: dict[str, Any] = {name: part.contiguous() for name, part in found.items()}
    whole = request.changed(**held, at=at, excluded=_ranges(held["exclude"]))
    return whole.changed(labels=classes if classes.shape[1] else None), counts


def gathered_directions(
    ranks: Ranks, operation: str, directions: Directions, labels: Int64[Tensor, "B U"] | None
) -> tuple[Directions, Int64[Tensor, "B U"] | None, list[int]]:
    """Return the directions of all ranks as one batch, their classes, and how many each rank has; a collective.

    directions: of this rank. labels: the classes of its queries, or None.
    """
    query = directions.query
    excluded = torch.full_like(query.alpha, -1, dtype=torch.int64)
    if query.excluded.shape[1]:
        excluded = query.excluded[:, 0, 0]
    rest = torch.zeros_like(directions.lse) if directions.lse_rest is None else directions.lse_rest
    parts = {
        **{name: getattr(query, name) for name in ("point", "alpha", "inverse_variance")},
        **{name: getattr(directions, name) for name in ("lse", "mean", "vector")},
        "rest": rest,
        "excluded": excluded,
        "labels": excluded.new_empty(len(query), 0) if labels is None else labels,
    }
    if directions.curvature is not None:
        parts["curvature"] = directions.curvature
    if query.given is not None:
        parts["given"] = query.given.x
    asked = [Asked("t", len(parts), lambda: f"{sorted(parts)}")]
    found, counts = gathered_parts(ranks, operation, asked, parts)
    found = {name: part.contiguous() for name, part in found.items()}
    given = None if query.given is None else GivenPoints(found["given"], query.given.scale, query.given.offset)
    ranges = _ranges(found["excluded"])
    whole = Query(found["point"], found["alpha"], found["inverse_variance"], ranges, given)
    held = (found["lse"], found["mean"], found["vector"], found.get("curvature"), found["rest"])
    classes = found["labels"] if found["labels"].shape[1] else None
    return Directions(whole, *held), classes, counts


def _ranges(row: Int64[Tensor, "B"]) -> Int64[Tensor, "B H 2"]:
    """Return excluded rows, -1 for none, as ranges of rows; H = 0 where no query has one."""
    ranges = torch.stack([row, row + (row >= 0)], dim=1)[:, None]
    return ranges[:, : int((row >= 0).any())]


def _column(part: Tensor, width: int) -> Tensor:
    """Return a part as columns of float64, filled up to `width`; -1 is one column."""
    columns = part[:, None] if part.ndim == 1 else part
    if columns.shape[1] < width:
        columns = torch.nn.functional.pad(columns, (0, width - columns.shape[1]), value=-1)
    return columns.contiguous().view(torch.float64)
