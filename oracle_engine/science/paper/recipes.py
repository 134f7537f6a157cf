"""Every figure and table by its name, from data, models and how much work may be done."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch

from ...base.arrays import Float, Tensor
from ...base.errors import invalid
from ...base.progress import PartProgress
from ...base.seeds import seeded
from ...data.dataset import OracleDataset
from ...engine.engine import OracleEngine
from ...samplers.fields import Velocity
from ..stages.analysis import analyse
from .fig2 import fig2
from .fig3 import COUNTS, CURVE_TIMES, DIMS, fig3
from .fig4 import fig4
from .fig5 import fig5
from .fig6 import fig6
from .fig7 import fig7
from .fig8 import Checkpoint, fig8
from .quality import Metric, energy_distance
from .result import PaperResult
from .small import trained
from .tables import table1, table2, table3

# samples that small models do not see, at most
KEPT_BACK = 256


@dataclass(frozen=True)
class Effort:
    """How much work a figure may be: queries of an analysis, runs of a sampler and their steps, training of models."""

    queries: int = 256
    runs: int = 256
    steps: int = 50
    training: int = 6000
    widths: tuple[int, ...] = (64, 256, 512)
    dims: tuple[int, ...] = DIMS
    counts: tuple[int, ...] = COUNTS
    times: tuple[float, ...] = CURVE_TIMES


QUICK = Effort(128, 64, 25, 1500, (48, 256), (512, 2048), (350, 1400), (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1))


@dataclass(frozen=True)
class Inputs:
    """What figures are made from.

    data: the data set. path: the path, by its name. also: further data sets for fig2, by name. models: velocities
    v(x, t) by name, in the order in which they are compared; small ones are trained where there are none.
    held_out: samples that the models did not see, [K, *shape] in value space; a part of the data is kept back from the
    small models where there are none. metric: quality of samples in the tables, smaller is better.
    effort, seed, as_published, per_class: of the work. progress: told of what takes long.
    """

    data: OracleDataset
    path: str = "rectified_flow"
    also: Mapping[str, OracleDataset] = field(default_factory=dict)
    models: Mapping[str, Velocity] = field(default_factory=dict)
    held_out: Float[Tensor, "K ..."] | None = None
    metric: Metric = energy_distance
    effort: Effort = QUICK
    seed: int = 0
    as_published: bool = False
    per_class: bool = False
    progress: PartProgress | None = None

    @cached_property
    def split(self) -> tuple[OracleDataset, Tensor]:
        """The data that small models are trained on, and samples that are kept back from them."""
        if self.models or self.held_out is not None:
            if self.held_out is None:
                remedy = "pass --held-out FILE"
                raise invalid("held_out", "must be given with models of one's own", None, remedy)
            return self.data, self.held_out
        data, count = self.data, min(KEPT_BACK, len(self.data) // 5)
        if count < 2:
            requirement = "must have at least 10 samples, of which some are held out from small models"
            raise invalid("data", requirement, len(data), "name more samples")
        order = torch.randperm(len(data), generator=seeded(self.seed)).to(data.device)
        stored = data.rows.stored[data.row_of(order[count:])].reshape(-1, *data.sample_shape)
        labels = None if data.labels is None else data.labels[order[count:]]
        kept = OracleDataset(stored, labels, value_map=data.value_map, name=data.name)
        return kept, data.sample_values(data.row_of(order[:count]))

    @cached_property
    def engine(self) -> OracleEngine:
        """The oracle of all data."""
        return OracleEngine(self.data, self.path)

    @cached_property
    def trained_on(self) -> OracleEngine:
        """The oracle of the data that the models were trained on."""
        return self.engine if self.models else OracleEngine(self.split[0], self.path)

    @cached_property
    def runs(self) -> Mapping[str, list[Checkpoint]]:
        """Checkpoints of the models by their names: of those that were passed, or of small ones."""
        if self.models:
            return {name: [Checkpoint(0, model)] for name, model in self.models.items()}
        found = {}
        for width in self.effort.widths:
            name = f"width {width}"
            progress = None if self.progress is None else self._named(f"training a network of {name}")
            options = {"width": width, "steps": self.effort.training, "seed": self.seed}
            found[name] = trained(self.trained_on, **options, progress=progress)  # type: ignore[arg-type]
        return found

    @property
    def last(self) -> dict[str, Velocity]:
        """The last checkpoint of each run, by name."""
        return {name: checkpoints[-1].model for name, checkpoints in self.runs.items()}

    def _named(self, what: str) -> Callable[[int, int], None]:
        assert self.progress is not None
        report = self.progress
        return lambda done, total: report(what, done, total)


def _fig2(inputs: Inputs) -> PaperResult:
    """Make figure 2."""
    sets = {inputs.data.name: inputs.engine}
    sets |= {name: OracleEngine(data, inputs.path) for name, data in inputs.also.items()}
    return fig2(sets, queries=inputs.effort.queries, seed=inputs.seed, per_class=inputs.per_class)


def _fig3(inputs: Inputs) -> PaperResult:
    """Make figure 3."""
    effort = inputs.effort
    options = {"queries": effort.queries, "seed": inputs.seed, "as_published": inputs.as_published}
    return fig3(dims=effort.dims, counts=effort.counts, times=effort.times, **options)  # type: ignore[arg-type]


def _fig4(inputs: Inputs) -> PaperResult:
    """Make figure 4."""
    return fig4(inputs.engine, queries=inputs.effort.queries, seed=inputs.seed)


def _fig5(inputs: Inputs) -> PaperResult:
    """Make figure 5 with the last model."""
    model, effort = list(inputs.last.values())[-1], inputs.effort
    return fig5(inputs.trained_on, model, count=effort.runs, steps=effort.steps, seed=inputs.seed)


def _fig6(inputs: Inputs) -> PaperResult:
    """Make figure 6 with the last model."""
    model, effort = list(inputs.last.values())[-1], inputs.effort
    unseen = inputs.split[1][: effort.runs]
    return fig6(inputs.trained_on, model, unseen, steps=effort.steps, seed=inputs.seed)


def _fig7(inputs: Inputs) -> PaperResult:
    """Make figure 7 with the last checkpoint of each run."""
    return fig7(inputs.trained_on, inputs.last, queries=inputs.effort.queries, seed=inputs.seed)


def _fig8(inputs: Inputs) -> PaperResult:
    """Make figure 8; models that were passed are checkpoints of one run."""
    runs: Mapping[str, list[Checkpoint]] = inputs.runs
    if inputs.models:
        # checkpoints of one training, in the order of the numbers in their names
        named = [Checkpoint(_step_of(name, place), model) for place, (name, model) in enumerate(inputs.models.items())]
        runs = {"models": sorted(named, key=lambda part: part.step)}
    return fig8(inputs.trained_on, runs, queries=inputs.effort.queries, seed=inputs.seed)


def _table1(inputs: Inputs) -> PaperResult:
    """Make table 1 with the last checkpoint of each run."""
    effort = inputs.effort
    options = {"count": effort.runs, "steps": effort.steps, "metric": inputs.metric, "seed": inputs.seed}
    return table1(inputs.trained_on, inputs.last, **options)  # type: ignore[arg-type]


def _table2(inputs: Inputs) -> PaperResult:
    """Make table 2 at the measured and the predicted transition."""
    report = analyse(inputs.engine, queries=inputs.effort.queries, seed=inputs.seed, strip=1, strip_times=1)
    names = {"ESS = 2": report.measured.ess_2, "top-1 = .5": report.measured.top_weight_50}
    return table2(inputs.engine, names | {"predicted": report.predicted.anisotropic})


def _table3(inputs: Inputs) -> PaperResult:
    """Make table 3."""
    effort = inputs.effort
    return table3(inputs.engine, count=effort.runs, steps=effort.steps, metric=inputs.metric, seed=inputs.seed)


def _step_of(name: str, place: int) -> int:
    """Return the last number in the name of a checkpoint, or its place among the others."""
    numbers = re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else place


# what makes each figure and table, by name, in the order of the paper
RECIPES: Mapping[str, Callable[[Inputs], PaperResult]] = MappingProxyType(
    {
        "fig2": _fig2,
        "fig3": _fig3,
        "fig4": _fig4,
        "fig5": _fig5,
        "fig6": _fig6,
        "fig7": _fig7,
        "fig8": _fig8,
        "table1": _table1,
        "table2": _table2,
        "table3": _table3,
    }
)
