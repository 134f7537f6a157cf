"""The report of the training demonstration, as JSON and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class PerTarget(NamedTuple):
    """One number for each of the three targets: the conditional one, over references, and the oracle."""

    cfm: float
    efm: float
    oracle: float


# the names of the targets in reports, and their titles in tables and figures
TARGET_NAMES = PerTarget._fields
TITLES = ("CFM", "EFM", "oracle")


@dataclass(frozen=True)
class TimeBin:
    """The variances of targets and gradients at fixed parameters, for t in [first, last).

    first, last: ends of the bin. target_variance: E|target - v|^2 / D over source, noise and t, v the oracle.
    gradient_variance: trace of the covariance of the gradient of one query's loss, over the same draws.
    gradient_norm: squared norm of the mean gradient, which is the same for all three, from the oracle's.
    """

    first: float
    last: float
    target_variance: PerTarget
    gradient_variance: PerTarget
    gradient_norm: float


@dataclass(frozen=True)
class StepLosses:
    """The losses of the three networks after `step` steps, on queries that are the same for all and at every step.

    step: number of steps of training.
    navigation, refinement: E|model - v|^2 / D on samples of the data, before and after the stage boundary.
    held_out: E|model - u|^2 / D, the CFM loss, on samples that no target has seen.
    """

    step: int
    navigation: PerTarget
    refinement: PerTarget
    held_out: PerTarget


@dataclass(frozen=True)
class Difference:
    """How much lower the loss of a network is, after training, than that of the network trained with CFM.

    efm, oracle: of the networks trained over references and on the oracle. efm_error, oracle_error: standard errors
    over the queries, which leave out the spread between seeds.
    """

    efm: float
    efm_error: float
    oracle: float
    oracle_error: float


@dataclass(frozen=True)
class TrainReport:
    """The result of :func:`.train_demo.train`.

    data: name, samples (N), dim (D), held_out, values (their map, range and variance in words), value_map, value_range,
    variance_per_dim, note and fingerprint of the data set. settings: those of TrainSettings.
    device: of the data, with the number of threads on a CPU. versions: of this package, torch and Python.
    parameters: number in one network. boundary: the predicted transition, in (0, 1).
    bins: variances by t, at the parameters of the network trained on the oracle.
    checkpoints: losses along the training. gains: for each loss of the last checkpoint.
    target_seconds: of the target of one batch, median.
    step_seconds: of the rest of a step (network, gradient, optimiser), median. elapsed: seconds of everything.
    notes: lines that the table begins with.
    """

    data: dict[str, Any]
    settings: dict[str, Any]
    device: str
    versions: dict[str, str]
    parameters: int
    boundary: float
    bins: tuple[TimeBin, ...]
    checkpoints: tuple[StepLosses, ...]
    gains: dict[str, Difference]
    target_seconds: PerTarget
    step_seconds: float
    elapsed: float
    notes: tuple[str, ...] = ()

    @property
    def target_shares(self) -> PerTarget:
        """The share of a training step that the target takes, in [0, 1]."""
        return PerTarget(*(seconds / (seconds + self.step_seconds) for seconds in self.target_seconds))

    def to_json(self) -> dict[str, Any]:
        """Return plain values that json can write."""
        facts = asdict(self)
        facts["target_seconds"] = self.target_seconds._asdict()
        facts["target_shares"] = self.target_shares._asdict()
        facts["bins"] = [_plain(part) for part in self.bins]
        facts["checkpoints"] = [_plain(part) for part in self.checkpoints]
        return facts

    def format_table(self) -> str:
        """Return the report as aligned text."""
        data, settings = self.data, self.settings
        head = [
            *self.notes,
            f"{data['name']}: N = {data['samples']:,} samples, D = {data['dim']:,}; {data['held_out']:,} held out",
            data["values"],
            *([f"note: {data['note']}"] if data["note"] else []),
            f"a network of {self.parameters / 1e6:.2f} M parameters, {settings['steps']} steps of {settings['batch']}, "
            f"EFM over {settings['references']} references, seed {settings['seed']}; the same batches for all",
        ]
        parts = (head, self._bin_rows(), self._loss_rows(), self._cost_rows())
        return "\n\n".join("\n".join(part) for part in parts)

    def _bin_rows(self) -> list[str]:
        """Return the lines about variances."""
        rows = [
            "             variance of the target, per coordinate   variance of the gradient of one query   |mean|^2",
            "t" + " " * 12 + "".join(f"{title:>12}" for title in TITLES * 2) + f"{'':>12}",
        ]
        for part in self.bins:
            values = (*part.target_variance, *part.gradient_variance, part.gradient_norm)
            rows.append(f"{part.first:.2f}-{part.last:.2f}    " + "".join(f"{value:>12.3g}" for value in values))
        return rows

    def _loss_rows(self) -> list[str]:
        """Return the lines about losses."""
        last = self.checkpoints[-1]
        rows = [
            f"loss after training       {'CFM':>9}{'EFM':>9}{'oracle':>9}    lower than CFM by: EFM, oracle",
        ]
        words = {
            "navigation": f"oracle loss, t < {self.boundary:.2f}",
            "refinement": f"oracle loss, t > {self.boundary:.2f}",
            "held_out": "CFM loss, held out",
        }
        for name, word in words.items():
            gain = self.gains[name]
            values = "".join(f"{value:>9.4f}" for value in getattr(last, name))
            rows.append(
                f"{word:<26}{values}    {gain.efm:+.4f} +- {gain.efm_error:.4f}, "
                f"{gain.oracle:+.4f} +- {gain.oracle_error:.4f}"
            )
        return [*rows, "one seed; errors are over the queries only"]

    def _cost_rows(self) -> list[str]:
        """Return the lines about seconds."""
        costs = zip(TITLES, self.target_seconds, self.target_shares, strict=True)
        words = [f"{title} {1e3 * seconds:,.1f} ms, {100 * share:.0f} %" for title, seconds, share in costs]
        return [
            f"target of a step and its share of the step: {'; '.join(words)}",
            f"the rest of a step, network and optimiser: {1e3 * self.step_seconds:,.1f} ms on {self.device}",
        ]


def _plain(part: TimeBin | StepLosses) -> dict[str, Any]:
    held = {name: getattr(part, name) for name in part.__dataclass_fields__}
    return {name: value._asdict() if isinstance(value, PerTarget) else value for name, value in held.items()}
