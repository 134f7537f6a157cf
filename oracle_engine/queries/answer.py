"""What a route returns for a batch: posterior states, and what they may have missed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

import torch

from ..base.arrays import Bool, Float64, Int64, Tensor
from ..kernels import PosteriorState
from ..kernels.screens import Shortlist


class Route(IntEnum):
    """The ways to an answer, by the names that `Posterior.route` uses.

    exact: every sample was scanned. screen, faiss: the samples that a search named were scored. source: the noise
    is so small that the sample a query was made from is the answer. sampled: an estimate from some of the samples.
    """

    EXACT = 0
    SCREEN = 1
    FAISS = 2
    SOURCE = 3
    SAMPLED = 4

    @property
    def label(self) -> str:
        """The name users see."""
        return self.name.lower()


@dataclass(frozen=True)
class Answer:
    """Posterior states of a batch with what they may have missed.

    log_omitted: log of a bound on the weight of the samples that were not scored, on the scale of `state.lse`; -inf for
        exact states, NaN where nothing is known.
    survivors: samples that were scored. route: values of Route.
    likely: the bound holds with high probability over the noise of the query, not for every noise.
    standard_error: of the mean of a sampled answer, its norm in row units; zero elsewhere.
    scanned: whether it is known without a look at these values that all are exact, scored over every sample.
    """

    state: PosteriorState
    log_omitted: Float64[Tensor, "B"]
    survivors: Int64[Tensor, "B"]
    route: Int64[Tensor, "B"]
    likely: Bool[Tensor, "B"]
    standard_error: Float64[Tensor, "B"]
    scanned: bool = False

    @classmethod
    def exact(cls, state: PosteriorState, survivors: Int64[Tensor, "B"]) -> Answer:
        """Return the answer of a full scan over `survivors` samples."""
        return ScannedAnswer(state, survivors)

    @classmethod
    def unknown(cls, batch: int, dim: int, top_k: int, device: torch.device) -> Answer:
        """Return `batch` answers that are still to be filled in, of `dim` values and `top_k` samples, on `device`."""
        state = PosteriorState.empty(batch, dim, top_k, device)
        nothing = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls.bounded(state, torch.full_like(state.lse, -torch.inf), nothing, Route.EXACT)

    @classmethod
    def listed(cls, shortlist: Shortlist, route: Route, likely: Bool[Tensor, "B"] | None = None) -> Answer:
        """Return the answer of a search by `route` that left `shortlist`.

        likely: queries, [B], whose bounds hold with high probability only, or None for none.
        """
        return ListedAnswer(shortlist, route, likely)

    @classmethod
    def bounded(
        cls,
        state: PosteriorState,
        log_omitted: Float64[Tensor, "B"],
        survivors: Int64[Tensor, "B"],
        route: Route,
    ) -> Answer:
        """Return the answer by `route` that left out at most `log_omitted`, [B].

        state: of the samples that were scored. survivors: how many these are, [B].
        """
        codes = torch.full_like(survivors, route)
        never = torch.zeros_like(codes, dtype=torch.bool)
        return cls(state, log_omitted, survivors, codes, never, torch.zeros_like(state.lse))

    @property
    def routes(self) -> tuple[str, ...]:
        """The way each query took, by the names that users see."""
        if self.scanned:
            return (Route.EXACT.label,) * len(self.survivors)
        return tuple(Route(code).label for code in self.route.tolist())

    def put(self, index: Int64[Tensor, "b"], part: Answer) -> Answer:
        """Return these answers with those of the queries in `index` replaced by `part`."""
        facts: dict[str, Any] = {name: getattr(self, name).index_copy(0, index, getattr(part, name)) for name in FACTS}
        return Answer(self.state.put(index, part.state), scanned=self.scanned and part.scanned, **facts)

    def take(self, index: Int64[Tensor, "b"]) -> Answer:
        """Return the answers of the queries in `index`."""
        facts: dict[str, Any] = {name: getattr(self, name)[index] for name in FACTS}
        return Answer(self.state.take(index), scanned=self.scanned, **facts)


class _AlikeAnswer(Answer):
    """Answers that took one route; what says so for each query is made where it is asked for."""

    taken: Route

    @cached_property
    def route(self) -> Int64[Tensor, "B"]:
        """The same for each query, [B]."""
        return torch.full_like(self.survivors, self.taken)

    @cached_property
    def likely(self) -> Bool[Tensor, "B"]:
        """False for each query, [B]."""
        return torch.zeros_like(self.survivors, dtype=torch.bool)

    @cached_property
    def standard_error(self) -> Float64[Tensor, "B"]:
        """Zero for each query, [B]."""
        return torch.zeros_like(self.state.lse)


class ScannedAnswer(_AlikeAnswer):
    """Answers over every sample."""

    def __init__(self, state: PosteriorState, survivors: Int64[Tensor, "B"]) -> None:
        """Hold the states; the arguments are those of Answer."""
        vars(self).update(state=state, survivors=survivors, scanned=True, taken=Route.EXACT)

    @cached_property
    def log_omitted(self) -> Float64[Tensor, "B"]:
        """-inf for each query, [B]."""
        return torch.full_like(self.state.lse, -torch.inf)


class ListedAnswer(_AlikeAnswer):
    """Answers over the samples that a search named."""

    def __init__(self, shortlist: Shortlist, route: Route, likely: Bool[Tensor, "B"] | None = None) -> None:
        """Hold what `shortlist` has by `route`; likely: as in Answer, or None for no query."""
        vars(self).update(state=shortlist.state, log_omitted=shortlist.log_omitted, survivors=shortlist.survivors)
        vars(self).update(scanned=False, taken=route)
        if likely is not None:
            vars(self)["likely"] = likely


# what is known of each query beside its state
FACTS = ("log_omitted", "survivors", "route", "likely", "standard_error")
