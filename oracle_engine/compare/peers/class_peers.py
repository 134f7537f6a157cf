"""The class-conditional velocity, over the samples of the class of each query."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .centred import Attend, Centred, SideVelocity, UnavailableError, times_of, velocity_around


def gathered(data: Centred) -> Callable[[Tensor], Attend]:
    """Gather the samples of each query's class, then two batched products; smaller classes are padded.

    What is gathered stays in memory from call to call: new pages would cost more than the products.
    """
    segments = _segments(data)
    longest = max(rows.stop - rows.start for rows in segments.values())
    samples = data.samples.new_zeros(len(segments), longest, data.samples.shape[1])
    # times a slope, which is negative: a padded sample has no weight
    half_norms = data.half_norms.new_full((len(segments), longest), torch.inf)
    for place, rows in enumerate(segments.values()):
        size = rows.stop - rows.start
        samples[place, :size], half_norms[place, :size] = data.samples[rows], data.half_norms[rows]
    names = torch.tensor(list(segments), device=samples.device)
    own = samples.new_empty(0)

    def labelled(labels: Tensor) -> Attend:
        """Return the attention of queries of these classes."""
        place = torch.searchsorted(names, labels)

        def attend(query: Tensor, slope: Tensor) -> Tensor:
            """Return the mean of the samples of each query's class, gathered for it."""
            torch.index_select(samples, 0, place, out=own.resize_(len(place), *samples.shape[1:]))
            weights = torch.baddbmm((slope * half_norms[place])[:, None], query[:, None], own.mT).softmax(2)
            return torch.bmm(weights, own)[:, 0]

        return attend

    return labelled


def looped(data: Centred) -> Callable[[Tensor], Attend]:
    """Two products for each class in the batch, over its rows as they lie."""
    segments = _segments(data)

    def labelled(labels: Tensor) -> Attend:
        """Return the attention of queries of these classes."""
        order = labels.argsort()
        names, counts = labels[order].unique_consecutive(return_counts=True)
        groups = list(zip(names.tolist(), order.split(counts.tolist()), strict=True))

        def attend(query: Tensor, slope: Tensor) -> Tensor:
            """Return the mean of the samples of each query's class, one class after the other."""
            slope, mean = slope.expand(len(query), 1), torch.empty_like(query)
            for label, group in groups:
                rows = segments[label]
                own, bias = data.samples[rows], slope[group] * data.half_norms[rows]
                mean[group] = torch.addmm(bias, query[group], own.T).softmax(1) @ own
            return mean

        return attend

    return labelled


def _segments(data: Centred) -> Mapping[int, slice]:
    if not data.segments:
        raise UnavailableError("the samples have no labels")
    return data.segments


def _peer(way: Callable[[Centred], Callable[[Tensor], Attend]]) -> Callable[[Centred], SideVelocity]:
    """Return a builder of the velocity that attends in this way."""

    def build(data: Centred) -> SideVelocity:
        """Return the velocity over these samples."""
        labelled = way(data)

        def velocity(x: Tensor, t: Tensor | float, labels: Tensor) -> Tensor:
            """Return the velocity of queries x [B, *shape] at t of the classes `labels`."""
            flat = x.reshape(len(x), -1).to(data.mean.dtype)
            found: Tensor = velocity_around(labelled(labels), data.mean, flat, *times_of(t, data.mean))
            return found.reshape(x.shape)

        return velocity

    return build


CLASSES: Mapping[str, Callable[[Centred], SideVelocity]] = {
    "class-gather": _peer(gathered),
    "class-loop": _peer(looped),
}
