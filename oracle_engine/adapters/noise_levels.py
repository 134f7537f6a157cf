"""An engine asked at a noise level, whatever its own path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..base.arrays import Float, Float64, Numbers, Tensor, reals
from ..base.calls.checked import required
from ..base.errors import invalid
from ..base.outputs import rounded_answer
from ..engine import compiled
from ..engine.arguments import check_oracle
from ..engine.engine import OracleEngine
from ..engine.oracle import Oracle
from ..paths.paths import Coefficients, Path, same_path
from ..queries.conditions import Guidance

# noise levels that are answered, and the log of the largest: paths take a variance below 1e-290 for none
SMALLEST_SIGMA, LARGEST_SIGMA = 1e-140, 1e140
LOG_LARGEST = math.log(LARGEST_SIGMA)


@dataclass(frozen=True)
class LogNoise:
    """The path alpha = 1, sigma = e^((1 - 2 t) log 1e140), whose times keep the digits of every noise level."""

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`, [B] float64 in [0, 1]."""
        sigma = ((1 - 2 * t) * LOG_LARGEST).exp()
        return Coefficients(torch.ones_like(t), sigma, torch.zeros_like(t), -2 * LOG_LARGEST * sigma)


class EngineOnPath(OracleEngine):
    """An engine on another path: what it has beside that is what `engine` has by then, such as its index.

    engine: the engine that it follows. path: of its own queries, whose times are not clamped.
    """

    def __init__(self, engine: OracleEngine, path: Path) -> None:
        torch.nn.Module.__init__(self)
        # in a tuple: it is no part of this module
        self.followed = (engine,)
        self.path, self.t_max = path, None
        self._handle = compiled.register(self)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that is not set here, of the engine. Raises AttributeError where it has none either."""
        if name == "followed":
            raise AttributeError(name)
        return getattr(self.followed[0], name)


class NoiseLevelModel(torch.nn.Module):
    """An engine queried at x = alpha X + sigma eps for any alpha >= 0 and sigma > 0, whatever its own path.

    engine: its data and point_std count, its path only where it is a RemoteOracle, whose server has no other. Raises
    InputError for what is no engine, and for a RemoteOracle on another path than `path`.
    """

    # the path that its queries are answered on
    path: Path = LogNoise()

    def __init__(self, engine: Oracle) -> None:
        super().__init__()
        check_oracle(engine)
        self.engine = engine
        # in a tuple: it is no part of the module beside the engine
        self._asked = (self._on_path(engine),)

    def _on_path(self, engine: Oracle) -> Oracle:
        """Return what answers on the path of this model. Raises InputError for a server on another one."""
        if isinstance(engine, OracleEngine):
            return EngineOnPath(engine, self.path)
        if not same_path(engine.path, self.path):
            remedy = "serve the data on that path, or ask an OracleEngine"
            raise invalid("engine", f"must be served on {self.path!r}", repr(engine.path), remedy)
        return engine

    @property
    def data(self) -> Any:
        """The data set of the engine, or what is known of it."""
        return self.engine.data

    def _at_noise(
        self,
        prediction: str,
        x: Float[Tensor, "B ..."],
        sigma: Any,
        *,
        labels: Numbers | None,
        guidance: Numbers | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return a prediction at x = X + sigma eps, like x; sigma as :func:`per_query` takes it."""
        levels = per_query("sigma", sigma, x)
        remedy = "stop a sampler before its last, noise-free step: the denoiser of x without noise is x"
        wanted = f"must be positive and finite, in [{SMALLEST_SIGMA:g}, {LARGEST_SIGMA:g}]"
        levels = required(levels, (levels >= SMALLEST_SIGMA) & (levels <= LARGEST_SIGMA), "sigma", wanted, remedy)
        times = (0.5 - levels.log() / (2 * LOG_LARGEST)).clamp(0.0, 1.0)
        answer: Tensor = getattr(self._asked[0], prediction)(x, times, labels=labels, guidance=guidance)
        return answer

    def _at_signal(
        self,
        prediction: str,
        x: Float[Tensor, "B ..."],
        signal: tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]],
        *,
        labels: Numbers | None,
        guidance: Numbers | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return a prediction at x = alpha X + sigma eps, like x, for `signal` = alpha and sigma, on rectified flow.

        The posterior depends on alpha / sigma and x / sigma alone, so x / (alpha + sigma) at alpha / (alpha + sigma) of
        rectified flow is the same query.
        """
        alpha, sigma = signal
        total = alpha + sigma
        scaled = x.double() / total.reshape(-1, *[1] * (x.ndim - 1))
        predict = getattr(self._asked[0], prediction)
        answer: Tensor = predict(scaled, alpha / total, labels=labels, guidance=guidance)
        return rounded_answer(answer, prediction, x.dtype, x.shape)


def per_query(name: str, value: Any, x: Tensor) -> Float64[Tensor, "B"]:
    """Return a number for each query, [B] float64 on the device of x, with the graph of a tensor.

    name: the parameter that errors name. value: a number, [], [1], [B] or [B, 1, ...]. x: the queries, [B, ...].
    Raises InputError for other shapes.
    """
    values = reals(name, value, x.device)
    if values.numel() == 1:
        return values.reshape(1).expand(len(x))
    if values.numel() != len(x) or values.ndim == 0 or values.shape[0] != len(x):
        wanted = f"must be a number, [{len(x)}] or [{len(x)}, 1, ...]"
        raise invalid(name, wanted, list(values.shape), "pass one a query")
    return values.reshape(len(x))
