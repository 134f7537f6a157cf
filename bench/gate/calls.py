"""What calls of the engine ask of a card, counted on one that is not there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.kernels import Query, Rows, Span, Wanted
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core.limits import ScanLimits
from oracle_engine.kernels.gpu.scans.scan import triton_state
from oracle_engine.kernels.gpu.scans.segments import segments_state
from oracle_engine.kernels.gpu.tools.figures import Number
from oracle_engine.kernels.gpu.tools.pretended_card import PretendedCard, pretended_card
from oracle_engine.kernels.screens import (
    FixedAllowance,
    Knowledge,
    Screen,
    SearchCosts,
    SideInformation,
    UpperLogits,
    screened,
)
from oracle_engine.kernels.screens.kinds.exact8 import stored_screen
from oracle_engine.kernels.screens.kinds.int8 import code_screen
from oracle_engine.kernels.screens.kinds.pca8 import leading_code_screen
from oracle_engine.scans.backends import BACKENDS, Backend
from oracle_engine.search.index import Origin, SearchIndex

COUNT, DIM, BATCH, CLASSES = 2000, 784, 64, 24

STORED = {"fp16": torch.float16, "u8": torch.uint8, "fp32": torch.float32}

# coordinates of the levels of a screen
WIDTHS = (64, 128)

# queries of a mixed batch that have no class
WITHOUT_CLASS = 6

# random sizes that scans are made with
SIZES = 40

# the most that a call may ask of a card
MOST = {"device_calls": 60.0, "waits": 1.0, "compilations": 2.0}

# calls that ask for more
MORE = {
    # the host asks nothing
    "search": {"device_calls": 22.0, "waits": 0.0},
    # asks in addition whether samples are told apart
    "posterior of unions": {"device_calls": 61.0},
    # two blocks of rows more each
    "long unions": {"device_calls": 72.0},
    "long posterior of classes": {"device_calls": 72.0},
}


def calls(names: Iterable[str] = STORED) -> dict[str, dict[str, Number]]:
    """Return device calls, launches among them, waits and early reads of every call, and compilations of random sizes.

    names: of the storage dtypes, keys of STORED.
    """
    found = {}
    with pretended_card() as card:
        for name, stored in ((name, STORED[name]) for name in names):
            engine = OracleEngine(samples(stored), backend="triton")
            for question, answer in questions(engine).items():
                found[f"{question} {name}"] = counted(card, answer)
            card.early = WITHOUT_CLASS
            found[f"some without a class {name}"] = counted(card, questions(engine)["classes"])
            card.early = 0
            with patch.dict(BACKENDS, triton=in_blocks()):
                long = questions(OracleEngine(engine.data, backend="triton"))
                for question in ("classes", "unions", "posterior of classes"):
                    found[f"long {question} {name}"] = counted(card, long[question])
            for question, answer in late_questions(engine.data).items():
                found[f"{question} {name}"] = counted(card, answer)
            found[f"sizes {name}"] = {"compilations": float(compilations(card, engine))}
            for question, answer in screen_questions(engine.data.rows).items():
                found[f"{question} {name}"] = counted(card, answer)
    return found


def in_blocks() -> Backend:
    """Return the backend with so little room that every class takes three blocks of rows."""
    limits = ScanLimits(score_bytes=1, block_unit=-(-COUNT // (3 * CLASSES)))
    return replace(BACKENDS["triton"], segments=partial(segments_state, limits=limits))


def samples(stored: torch.dtype) -> OracleDataset:
    """Return labelled samples in a storage dtype."""
    values = torch.randn(COUNT, DIM, generator=torch.Generator().manual_seed(0))
    kept = values.to(stored) if stored.is_floating_point else (40 * values + 128).clamp(0, 255).to(stored)
    return OracleDataset(kept, labels=torch.arange(COUNT) % CLASSES)


def questions(engine: OracleEngine) -> dict[str, Callable[[], Any]]:
    """Return what an engine is asked, by a name for each."""
    x, t, own = torch.randn(BATCH, DIM), torch.full((BATCH,), 0.3), torch.arange(BATCH)
    labels = own % CLASSES
    unions = torch.stack([labels, (labels + 1) % CLASSES], dim=1)
    return {
        "velocity": lambda: engine.velocity(x, t),
        "log density": lambda: engine.log_density(x, t),
        "excluded": lambda: engine.velocity(x, t, exclude=own),
        "posterior": lambda: engine.posterior(x, t, top_k=8),
        "classes": lambda: engine.velocity(x, t, labels=labels),
        "unions": lambda: engine.velocity(x, t, labels=unions),
        "guidance": lambda: engine.velocity(x, t, labels=labels, guidance=2.0),
        "posterior of classes": lambda: engine.posterior(x, t, labels=labels, top_k=8),
        "posterior of unions": lambda: engine.posterior(x, t, labels=unions, top_k=8),
    }


def screen_questions(rows: Rows) -> dict[str, Callable[[], Any]]:
    """Return what is asked of a screen of codes of `rows`, by a name for each."""
    screen = leading_code_screen(rows, WIDTHS, product_cost=0.5)
    ones = torch.ones(BATCH, dtype=torch.float64)
    query = Query(torch.randn(BATCH, DIM).double(), ones, ones, torch.zeros(BATCH, 0, 2, dtype=torch.int64))
    work = Work(rows, query, Span(0, len(rows)), Wanted())
    return {
        "search": lambda: screened(UpperLogits.of(work, screen, SideInformation()), FixedAllowance(1e-6), limit=100),
    }


def late_questions(data: OracleDataset) -> dict[str, Callable[[], Any]]:
    """Return what is asked of engines with screens of `data`, by a name for each: late batches, and an early one."""
    x, t = torch.randn(BATCH, DIM), torch.full((BATCH,), 0.9)
    found: dict[str, Callable[[], Any]] = {}
    for kind, screen in screens(data.rows).items():
        # tried for every query with more signal than noise
        least, costs = data.value_map.scale**2, SearchCosts.by_operations(DIM, (1,) * len(screen.widths))
        thresholds = ((least,) * len(screen.widths),) * len(Knowledge)
        tried = replace(screen, thresholds=thresholds, measured_costs=costs)
        engine = OracleEngine(data, backend="triton")
        engine.index = SearchIndex(kind, "asked for", Origin.of(data), data.rows.centre, tried, distances=None)
        found[f"late velocity {kind}"] = partial(engine.velocity, x, t)
        found[f"late velocity of classes {kind}"] = partial(engine.velocity, x, t, labels=torch.arange(BATCH) % CLASSES)
        # a number that the host knows
        found[f"early velocity {kind}"] = partial(engine.velocity, x, 0.05)
    return found


def screens(rows: Rows) -> dict[str, Screen]:
    """Return screens of `rows` by their kinds, one of three levels."""
    found: dict[str, Screen] = {
        "pca8": leading_code_screen(rows, (*WIDTHS, 256), product_cost=0.5),
        "int8": code_screen(rows, product_cost=0.5),
    }
    return found | ({"exact8": stored_screen(rows, 0.5)} if rows.stored.dtype == torch.uint8 else {})


def counted(card: PretendedCard, answer: Callable[[], Any]) -> dict[str, Number]:
    """Return the counts of an answer that was asked for before."""
    card.count(answer)
    seen = card.count(answer)
    return {
        "device_calls": float(seen.total),
        "launches": float(seen.launches.total()),
        "waits": float(seen.waits),
        "early": float(seen.early),
    }


def compilations(card: PretendedCard, engine: OracleEngine) -> int:
    """Return how often the kernel that is compiled most often is, for scans of random sizes."""
    draw, rows, found = random.Random(0), engine.data.rows, Counter[str]()
    for _ in range(SIZES):
        batch, count, excluded = draw.randint(1, 400), draw.randint(1, COUNT), draw.choice((0, 0, 1, 3))
        start, ones = draw.randint(0, COUNT - count), torch.ones(batch).double()
        query = Query(torch.zeros(batch, DIM).double(), ones, ones, torch.zeros(batch, excluded, 2, dtype=torch.int64))
        found += card.count(partial(triton_state, Work(rows, query, Span(start, start + count)))).compilations
    return max(found.values(), default=0)


def costly(found: Mapping[str, Mapping[str, Number]]) -> list[str]:
    """Return which of the calls in `found` ask more of a card than they may, in words."""
    return [
        f"{name}: {figure} {value:g}, at most {most:g}"
        for name, figures in found.items()
        for figure, value in figures.items()
        if value > (most := _most(name.rsplit(" ", 1)[0]).get(figure, value))
    ]


def _most(question: str) -> dict[str, Number]:
    return {**MOST, **MORE.get(question, {})}
