"""The oracle at the steps of DDPM."""

from __future__ import annotations

from typing import Any

from ..base.arrays import Float, Float64, Int64, Numbers, Tensor, check_floating, exact
from ..base.calls.checked import required
from ..base.calls.transforms import unreadable
from ..base.errors import invalid
from ..engine.oracle import Oracle
from ..paths.paths import RectifiedFlow
from ..queries.conditions import Guidance
from .evidence import refuse_reversed
from .noise_levels import NoiseLevelModel, per_query


class DDPMDenoiser(NoiseLevelModel):
    """The oracle for tools that count DDPM steps: x_t = sqrt(a_t) X + sqrt(1 - a_t) eps, t = 0 least noise.

    engine: its data and point_std count, not its path.
    alphas_cumprod: a_t for t = 0 .. T - 1, [T], falling, in [0, 1) (Ho et al. 2020).
    check_time: whether to refuse x that is unmistakably as noisy as at T - 1 - t.
    Raises InputError for other `alphas_cumprod` and for what is no engine.
    """

    path = RectifiedFlow()

    def __init__(self, engine: Oracle, alphas_cumprod: Numbers, *, check_time: bool = True) -> None:
        super().__init__(engine)
        self.alphas_cumprod = _checked_schedule(alphas_cumprod)
        self.check_time = check_time

    def denoise(
        self,
        x_t: Float[Tensor, "B ..."],
        t: Numbers,
        labels: Numbers | None = None,
        *,
        guidance: Numbers | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return E[X | x_t].

        x_t: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        t: steps, whole numbers in [0, T): one or [B].
        labels: classes, integers [B] or [B, U] for unions, -1 for none, or None.
        guidance: as in OracleEngine.denoiser, a number, [B], or a Guidance; needs labels.
        Returns [B, *sample_shape] in the dtype of x_t.
        Raises InputError as OracleEngine.denoiser does, for other steps, and where time seems to run the other way.
        Costs one denoiser.
        """
        steps = self._steps(x_t, t)
        answer = self._at_steps("denoiser", x_t, steps, labels=labels, guidance=guidance)
        alpha, sigma = self._signal(steps)
        if self.check_time and guidance is None and not unreadable(x_t, sigma):
            _, mirrored = self._signal(len(self.alphas_cumprod) - 1 - steps)
            rest = x_t.detach().double().flatten(1) - alpha[:, None] * answer.detach().double().flatten(1)
            refuse_reversed(rest, sigma, mirrored)
        return answer

    def noise(
        self,
        x_t: Float[Tensor, "B ..."],
        t: Numbers,
        labels: Numbers | None = None,
        *,
        guidance: Numbers | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return E[eps | x_t], what an eps network is trained to.

        x_t, t, labels, guidance: as in :meth:`denoise`. Returns [B, *sample_shape] in the dtype of x_t.
        Raises InputError as OracleEngine.noise does, and for steps outside [0, T); the direction of time is not
        checked. Costs one noise prediction.
        """
        return self._at_steps("noise", x_t, self._steps(x_t, t), labels=labels, guidance=guidance)

    def _at_steps(self, prediction: str, x_t: Tensor, steps: Int64[Tensor, "B"], **conditions: Any) -> Tensor:
        """Return a prediction at the steps of the queries x_t, like x_t."""
        return self._at_signal(prediction, x_t, self._signal(steps), **conditions)

    def _signal(self, steps: Int64[Tensor, "B"]) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]]:
        """Return alpha and sigma at steps."""
        kept = self.alphas_cumprod.to(steps.device)[steps]
        return kept.sqrt(), (1 - kept).sqrt()

    def _steps(self, x_t: Tensor, t: Numbers) -> Int64[Tensor, "B"]:
        """Return the step of each query. Raises InputError where one is none."""
        count = len(self.alphas_cumprod)
        check_floating("x_t", x_t)
        steps = per_query("t", t, x_t).detach()
        remedy = f"pass steps, 0 least noise and {count - 1} most; VelocityModel takes times in [0, 1]"
        whole = (steps >= 0) & (steps < count) & (steps == steps.round())
        return required(steps, whole, "t", f"must be whole steps in [0, {count})", remedy).long()


def _checked_schedule(alphas_cumprod: Numbers) -> Float64[Tensor, "T"]:
    """Return alphas_cumprod in float64. Raises InputError where they are no schedule."""
    schedule = exact(alphas_cumprod)
    if schedule.ndim != 1 or not bool(((schedule >= 0) & (schedule < 1)).all()):
        wanted = "must be one-dimensional, in [0, 1)"
        raise invalid("alphas_cumprod", wanted, list(schedule.shape), "pass scheduler.alphas_cumprod")
    if not bool((schedule[1:] <= schedule[:-1]).all()):
        remedy = "pass alphas_cumprod.flip(0) if it runs from noise to data"
        raise invalid("alphas_cumprod", "must fall: t = 0 has the least noise", "a rise", remedy)
    return schedule
