"""Everything a caller may pass for one argument of the engine, and what it means; and the oracle of these meanings."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor


class Form(NamedTuple):
    """One way of passing an argument.

    value: what is passed. meaning: the numbers it stands for, float64 or int64, or None where it stands for none, so
    that it has to be refused. usual: whether it has to be understood; what is not usual may be refused.
    """

    value: Any
    meaning: Any
    usual: bool = True


class Problem(NamedTuple):
    """Samples as they are stored, float64 [N, D] in value space, with class and weight of each, and the path."""

    points: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    path: str


# times at which the bar is promised, and where only noise is left
TIMES = (0.0, 1e-7, 0.01, 0.1, 0.3, 0.5, 0.75, 0.9, 0.99, 0.9999)


def batches_of(values: list[Any]) -> list[Form]:
    """Return the containers that hold one number for each query exactly."""
    array = np.array(values)
    tensor = torch.as_tensor(array)
    held: list[Any] = [
        values,
        tuple(values),
        list(array),
        array,
        array.astype(array.dtype.newbyteorder(">")),
        np.stack([array, array], 1)[:, 1],
        np.flip(np.flip(array).copy()),
        np.array(values, dtype=np.longdouble if array.dtype.kind == "f" else np.int32),
        [torch.as_tensor(value, dtype=tensor.dtype) for value in values],
        tensor,
        torch.stack([tensor, tensor], 1)[:, 0],
    ]
    return [Form(value, array) for value in held]


def one_for_all(value: Any, count: int) -> list[Form]:
    """Return the scalars that stand for `value` in each of `count` queries."""
    meaning = np.array([value] * count)
    scalar = torch.as_tensor(meaning)[0].clone()
    held = [value, np.array(value), meaning.dtype.type(value), scalar]
    return [Form(item, meaning) for item in held]


def nonsense() -> SearchStrategy[Form]:
    """Return what is no number at all, or not one for each query."""
    return st.sampled_from(
        [
            "0.5",
            b"1",
            object(),
            {},
            {0.5},
            [],
            [[]],
            [0.5, "a"],
            [[1], [2, 3]],
            [None],
            0.5j,
            np.array(["0.5"]),
            np.array([None]),
            np.datetime64("2026-01-01"),
            10**400,
            range(0),
            torch.rand(17),
            torch.zeros(2, 2, 2),
            torch.empty(1, device="meta"),
            torch.tensor([0.5]).to_sparse(),
            torch.tensor([0.5 + 0.5j]),
            float("nan"),
            torch.tensor(float("inf")),
            lambda: 0.5,
        ]
    ).map(lambda value: Form(value, None))


def times_of(count: int) -> SearchStrategy[Form]:
    """Return times for `count` queries."""

    def forms(values: list[float]) -> list[Form]:
        tensor = torch.tensor(values, dtype=torch.float64)
        narrow = [tensor.to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
        # 0.9999 rounds to one in 16 bits
        rounded = [Form(part, part.double().numpy() if bool((part < 1).all()) else None) for part in narrow]
        column = Form(tensor[:, None], np.array(values))
        return [*batches_of(values), *one_for_all(values[0], count), *rounded, column]

    def wrong(value: float) -> Form:
        return Form([value] + [0.5] * (count - 1), None)

    inside = st.lists(st.sampled_from(TIMES) | st.floats(1e-6, 0.9999), min_size=count, max_size=count)
    outside = st.sampled_from([1.0, -1e-9, 1.0000001, float("nan"), float("inf"), -3.0, 1000.0])
    odd = st.just(Form(Fraction(1, 2), np.full(count, 0.5), usual=False))
    known = inside.flatmap(lambda values: st.sampled_from(forms(values)))
    return mostly([known], [outside.map(wrong), odd, nonsense()])


def points_of(shape: tuple[int, ...]) -> SearchStrategy[Callable[[Tensor], Form]]:
    """Return ways of passing queries of the sample shape `shape`, made from their float64 values [B, *shape]."""
    usual = [_as_dtype(dtype) for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)]
    layouts = st.sampled_from([_kept(change) for change in LAYOUTS])
    return mostly([st.sampled_from(usual), layouts], [st.sampled_from([*ODD, *map(_refused, WRONG)])])


def _as_dtype(dtype: torch.dtype) -> Callable[[Tensor], Form]:
    """Return what passes queries in `dtype`, whose values are rounded to it."""
    return lambda x: Form(x.to(dtype), x.to(dtype).double())


def _kept(change: Callable[[Tensor], Any], usual: bool = True) -> Callable[[Tensor], Form]:
    """Return what passes the same values in another form."""
    return lambda x: Form(change(x), x, usual)


def _refused(change: Callable[[Tensor], Any]) -> Callable[[Tensor], Form]:
    """Return what passes something that no query is."""
    return lambda x: Form(change(x), None)


# other ways in which the same queries lie in memory
LAYOUTS: list[Callable[[Tensor], Any]] = [
    lambda x: torch.stack([x, -x], -1)[..., 0],
    lambda x: torch.stack([x, -x], 1)[:, 0],
    lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    lambda x: x.clone().requires_grad_(),
    lambda x: torch.nn.Parameter(x.clone()),
    lambda x: x.numpy(),
    lambda x: x.numpy().astype(">f8"),
    lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
]
# what some callers pass, which may be answered or refused
ODD: list[Callable[[Tensor], Form]] = [
    _kept(lambda x: x.tolist(), usual=False),
    lambda x: Form(x.round().long(), x.round(), usual=False),
    lambda x: Form(x.to(torch.float8_e4m3fn), x.to(torch.float8_e4m3fn).double(), usual=False),
]
# what is refused
WRONG: list[Callable[[Tensor], Any]] = [
    lambda x: torch.where(torch.arange(x.numel()).reshape(x.shape) == 1, torch.nan, x),
    lambda x: torch.where(torch.arange(x.numel()).reshape(x.shape) == 0, torch.inf, x),
    lambda x: x[..., :-1],
    lambda x: x[None],
    lambda x: x[0],
    lambda x: x.to(torch.complex64),
    lambda x: x.to_sparse(),
    lambda x: x.to("meta"),
    lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
    lambda x: None,
]


def indices_of(count: int, samples: int) -> SearchStrategy[Form]:
    """Return samples to exclude for `count` queries, of a data set of so many samples; None for no argument."""
    inside = st.lists(st.integers(-1, samples - 1), min_size=count, max_size=count)
    known = inside.flatmap(lambda values: st.sampled_from([*batches_of(values), *one_for_all(values[0], count)]))
    outside = st.sampled_from([-2, samples, 2**40, 2**70, 0.5, True]).map(lambda value: Form([value] * count, None))
    return mostly([st.just(Form(None, np.full(count, -1))), known], [outside, nonsense()])


def labels_of(count: int, classes: int) -> SearchStrategy[Form]:
    """Return classes for `count` queries, of a data set whose classes are 0 .. classes - 1; unions as rows."""
    one = st.lists(st.integers(-1, classes - 1), min_size=count, max_size=count)

    def forms(values: list[int]) -> list[Form]:
        rows = np.array(values)[:, None]
        held = [form._replace(meaning=np.array(form.meaning)[:, None]) for form in batches_of(values)]
        all_alike = [form._replace(meaning=np.array(form.meaning)[:, None]) for form in one_for_all(values[0], count)]
        padded = np.concatenate([rows, np.full((count, classes + 1), -1)], 1)
        hot = np.where(rows < 0, -1.0, rows == np.arange(classes))
        spread = [Form(padded, padded), Form(padded.tolist(), padded), Form(torch.as_tensor(hot), rows)]
        return [*held, *all_alike, *spread, Form(torch.as_tensor(hot).half(), rows)]

    pairs = st.lists(st.permutations(range(classes)).map(lambda order: order[:2]), min_size=count, max_size=count)
    unions = pairs.map(lambda rows: Form(torch.tensor(rows), np.array(rows)))
    wrong = [classes, -2, 0.0, 1.5, True, 2**40]
    outside = st.sampled_from(wrong).map(lambda value: Form([value] * count, None))
    soft = st.just(Form(torch.full((count, classes), 1 / classes), None))
    twice = st.just(Form([[1, 1]] * count, None))
    none = st.just(Form(None, np.full((count, 1), -1)))
    known = one.flatmap(lambda values: st.sampled_from(forms(values)))
    return mostly([none, known, unions], [outside, soft, twice, nonsense()])


def scales_of(count: int) -> SearchStrategy[Form]:
    """Return guidance scales for `count` queries."""
    inside = st.lists(st.sampled_from([0.0, 1.0, 1.5, -0.5, 4.0]), min_size=count, max_size=count)
    known = inside.flatmap(lambda values: st.sampled_from([*batches_of(values), *one_for_all(values[0], count)]))
    return mostly([st.just(Form(None, np.ones(count))), known], [nonsense()])


def mostly(usual: list[SearchStrategy[Any]], others: list[SearchStrategy[Any]]) -> SearchStrategy[Any]:
    """Return one of the usual ones in most cases: one wrong argument hides what the others do."""
    return st.integers(0, 11).flatmap(lambda place: st.one_of(*(others if place == 11 else usual)))


def coefficients(path: str, t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return alpha, sigma and their derivatives at times [B] in extended precision."""
    t = t.astype(np.longdouble)
    if path == "rectified_flow":
        return t, 1 - t, np.ones_like(t), -np.ones_like(t)
    angle, half = np.longdouble(np.pi) / 2 * t, np.longdouble(np.pi) / 2
    return np.sin(angle), np.cos(angle), half * np.cos(angle), -half * np.sin(angle)


def posterior_weights(problem: Problem, x: np.ndarray, t: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return posterior weights [B, N] and log-densities [B] of flat queries, by direct difference.

    usable: which samples count for each query, [B, N].
    """
    alpha, sigma, *_ = coefficients(problem.path, t)
    offset = x.astype(np.longdouble)[:, None] - alpha[:, None, None] * problem.points.astype(np.longdouble)
    prior = np.where(usable, problem.weights, 0.0).astype(np.longdouble)
    with np.errstate(divide="ignore"):
        logits = np.log(prior / prior.sum(1, keepdims=True)) - (offset**2).sum(2) / (2 * sigma[:, None] ** 2)
    top = logits.max(1, keepdims=True)
    shares = np.exp(logits - top)
    total = shares.sum(1, keepdims=True)
    normal = x.shape[1] / 2 * np.log(2 * np.longdouble(np.pi) * sigma**2)
    return shares / total, (top + np.log(total))[:, 0] - normal


def usable_samples(problem: Problem, labels: np.ndarray, exclude: np.ndarray) -> np.ndarray:
    """Return which samples count, [B, N], for unions of classes [B, U] and excluded samples [B]."""
    free = np.all(labels < 0, axis=1)[:, None]
    own = np.any((labels[:, :, None] == problem.labels) & (labels[:, :, None] >= 0), axis=1)
    usable: np.ndarray = (free | own) & (np.arange(len(problem.points)) != exclude[:, None])
    return usable


def predictions(problem: Problem, x: np.ndarray, t: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Return every prediction [B, D] that goes with posterior means [B, D]."""
    alpha, sigma, d_alpha, d_sigma = (part[:, None] for part in coefficients(problem.path, t))
    noise = (x - alpha * mean) / sigma
    return {"velocity": d_alpha * mean + d_sigma * noise, "denoiser": mean, "score": -noise / sigma, "noise": noise}
