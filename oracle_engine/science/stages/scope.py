"""Which samples the queries of an analysis are made of, and which samples their posteriors are over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from ...base.errors import invalid
from ...data.dataset import OracleDataset
from ...paths.paths import Path
from ..transition import Predictor, draw_rows, predict_part, predict_transition, prior_entropy

# classes of which the transition is predicted, where every query is compared with its own
PREDICTED_CLASSES = 8


@dataclass(frozen=True)
class Scope:
    """The samples that count: all, those of some classes, or for each query those of its own class.

    data: the data set. labels: classes whose samples count, or None for all. per_class: whether a query is compared
    with the samples of its own class alone.

    Raises InputError where the data have no labels that are asked for.
    """

    data: OracleDataset
    labels: tuple[int, ...] | None = None
    per_class: bool = False

    def __post_init__(self) -> None:
        if not (self.per_class or self.labels):
            return
        name = "per_class" if self.per_class else "labels"
        if not self.data.segments:
            raise invalid(name, "needs data with labels", f"{self.data.name!r} without them", "name data with labels")
        unknown = [label for label in self.labels or () if label not in self.data.segments]
        if unknown:
            known = f"classes {min(self.data.segments)} .. {max(self.data.segments)}"
            raise invalid("labels", f"must be classes of the data, {known}", unknown, "name classes of the data")

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that take part, in rising order; none where all samples count whatever their class."""
        return tuple(sorted(set(self.labels))) if self.labels else tuple(self.data.segments) if self.per_class else ()

    def rows(self) -> Int64[Tensor, "n"] | None:
        """Return the rows of which queries are made, ascending, or None for all."""
        if not self.classes:
            return None
        spans = [self.data.segments[label] for label in self.classes]
        parts = [torch.arange(span.start, span.stop, device=self.data.device) for span in spans]
        return torch.cat(parts).sort().values

    def draw(self, count: int, seed: int) -> Int64[Tensor, "Q"]:
        """Return the rows of `count` queries, drawn from strata of equal weight with this seed."""
        return draw_rows(self.data, count, seed, self.rows())

    def conditions(self, classes: Int64[Tensor, "B"] | None, count: int) -> Int64[Tensor, "B U"] | None:
        """Return the labels that condition `count` queries, given the class of each, or None for no condition."""
        if self.per_class:
            assert classes is not None
            return classes[:, None]
        if self.labels:
            return torch.tensor(self.classes, device=self.data.device).expand(count, -1)
        return None

    def sizes(self) -> list[int]:
        """Return how many samples the posteriors are over: of each class, or one number."""
        segments = [self.data.segments[label] for label in self.classes]
        counts = [span.stop - span.start for span in segments]
        return counts if self.per_class else [sum(counts) if self.labels else len(self.data)]

    def entropy(self) -> float:
        """Return the entropy of the weights of the samples that count, in nats; the mean over classes, if per class."""
        return sum(prior_entropy(self.data, part) for part in self._parts()) / len(self._parts())

    def log_shares(self, rows: Int64[Tensor, "B"]) -> Float64[Tensor, "B"]:
        """Return log of the prior weight of these rows among the samples that a query made of each is compared with."""
        weights = self._log_weights()
        if not self.per_class:
            among = self.rows()
            return weights[rows] - (weights if among is None else weights[among]).logsumexp(0)
        labels = self.data.sorted_labels
        assert labels is not None
        return weights[rows] - self._log_totals(labels[rows])

    def log_class_shares(self, classes: Int64[Tensor, "B"]) -> Float64[Tensor, "B"]:
        """Return log of the prior weight of these classes among all samples; NaN for -1, no class."""
        return self._log_totals(classes) - self._log_weights().logsumexp(0)

    def _log_weights(self) -> Float64[Tensor, "N"]:
        weights = self.data.rows.log_weights
        return torch.zeros(len(self.data), dtype=torch.float64, device=self.data.device) if weights is None else weights

    def _log_totals(self, classes: Int64[Tensor, "B"]) -> Float64[Tensor, "B"]:
        """Return the log of the total weight of each class, NaN for one without samples."""
        weights = self._log_weights()
        found = weights.new_full((len(classes),), math.nan)
        for label in classes.unique().tolist():
            if label in self.data.segments:
                span = self.data.segments[label]
                found[classes == label] = weights[span.start : span.stop].logsumexp(0)
        return found

    def predict(self, path: Path, point_std: float, seed: int) -> Predictor:
        """Return the predicted transition; per class it is the mean over at most 8 classes, spread over all."""
        if not self.classes:
            return predict_transition(self.data, path, point_std, seed)
        parts = self._parts()
        chosen = [parts[i * len(parts) // min(len(parts), PREDICTED_CLASSES)] for i in range(min(len(parts), 8))]
        found = [predict_part(self.data, path, point_std, seed, rows=part) for part in chosen]
        return Predictor(
            isotropic=_mean([part.isotropic for part in found]),
            anisotropic=_mean([part.anisotropic for part in found]),
            entropy=sum(part.entropy for part in found) / len(found),
            variance_per_dim=sum(part.variance_per_dim for part in found) / len(found),
            spectrum_samples=sum(part.spectrum_samples for part in found),
        )

    def describe(self) -> str:
        """Return in words what a posterior is over."""
        sizes = self.sizes()
        if self.per_class:
            most, least = max(sizes), min(sizes)
            span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            classes = "1 class" if len(sizes) == 1 else f"{len(sizes):,} classes"
            return f"posteriors over the class of each query: {classes} of {span} samples"
        if self.labels:
            return f"posteriors over the {sizes[0]:,} samples of the classes {', '.join(map(str, self.classes))}"
        return f"posteriors over all {sizes[0]:,} samples"

    def _parts(self) -> Sequence[Int64[Tensor, "n"] | None]:
        if not self.per_class:
            return [self.rows()]
        spans = [self.data.segments[label] for label in self.classes]
        return [torch.arange(span.start, span.stop, device=self.data.device) for span in spans]


@dataclass(frozen=True)
class StageQueries:
    """The samples that Q queries are made of.

    scope: what they are compared with. rows: of the samples, [Q] int64, or None for samples that are held out.
    held_out: these samples, [Q, *shape], or None. classes: the class of each query, [Q] int64, or None.
    """

    scope: Scope
    rows: Int64[Tensor, "Q"] | None
    held_out: Float[Tensor, "Q ..."] | None
    classes: Int64[Tensor, "Q"] | None

    @classmethod
    def drawn(cls, scope: Scope, count: int, seed: int) -> StageQueries:
        """Return `count` training queries of this scope."""
        rows = scope.draw(count, seed)
        labels = scope.data.sorted_labels
        return cls(scope, rows, None, None if labels is None else labels[rows])

    def __len__(self) -> int:
        held = self.rows if self.rows is not None else self.held_out
        assert held is not None
        return len(held)

    def join(self, other: StageQueries) -> StageQueries:
        """Return these queries and those of `other`, of the same scope and kind."""
        pairs = ((self.rows, other.rows), (self.held_out, other.held_out), (self.classes, other.classes))
        joined = (None if one is None or two is None else torch.cat([one, two]) for one, two in pairs)
        return StageQueries(self.scope, *joined)

    def values(self, part: slice | Int64[Tensor, "b"]) -> Float64[Tensor, "b ..."]:
        """Return the samples with the numbers in `part`, as float64."""
        if self.rows is not None:
            return self.scope.data.sample_values(self.rows[part]).double()
        assert self.held_out is not None
        return self.held_out[part].to(self.scope.data.device, torch.float64)

    def labels(self, part: slice | Int64[Tensor, "b"]) -> Int64[Tensor, "b U"] | None:
        """Return what conditions the queries in `part`."""
        held = None if self.classes is None else self.classes[part]
        return self.scope.conditions(held, len(range(len(self))[part]) if isinstance(part, slice) else len(part))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None
