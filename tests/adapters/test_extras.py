"""Keywords that pipelines pass to networks are ignored where they change nothing, else refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from adapter_cases import small_images
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, OracleError
from oracle_engine.adapters import (
    DDPMDenoiser,
    DiffusersTransformer,
    EDMDenoiser,
    SmallDiffusionModel,
    SolverModel,
    VelocityModel,
)

NOTHING: dict[str, Any] = {
    "augment_labels": torch.zeros(3, 9),
    "aug_cond": None,
    "encoder_hidden_states": None,
    "pooled_projections": None,
    "joint_attention_kwargs": {},
    "attention_kwargs": {"scale": 0.7},
    "controlnet_block_samples": [],
    "skip_layers": None,
    "force_fp32": True,
    "img_ids": torch.ones(4, 3),
    "txt_ids": torch.ones(4, 3),
    "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    "whatever": None,
}
CHANGING: dict[str, Any] = {
    "augment_labels": torch.ones(3, 9),
    "aug_cond": torch.ones(3, 9),
    "joint_attention_kwargs": {"ip_adapter_image_embeds": torch.ones(1)},
    "attention_kwargs": {"scale": 1.0, "mask": torch.ones(1)},
    "controlnet_block_samples": [torch.ones(1)],
    "block_controlnet_hidden_states": [torch.ones(1)],
    "skip_layers": [7, 8, 9],
}
CONDITIONS: dict[str, Any] = {
    "encoder_hidden_states": torch.ones(3, 7, 5),
    "encoder_attention_mask": torch.ones(3, 7),
    "pooled_projections": torch.ones(3, 5),
    "added_cond_kwargs": {"resolution": torch.ones(3, 2)},
    "mapping_cond": torch.ones(3, 5),
}


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    return OracleEngine(small_images(generator))


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 2, 3, 4, generator=generator, dtype=torch.float64)


def models(engine: OracleEngine, **options: Any) -> list[Any]:
    """Return every adapter that takes keywords of networks, as functions of x, classes and keywords."""
    edm = EDMDenoiser(engine, **options)
    transformer = DiffusersTransformer(engine, check_time=False, **options)
    plain = VelocityModel(engine, "sit", check_time=False, **options)
    return [
        lambda x, y=None, **extras: edm(x, 0.7, y, **extras),
        lambda x, y=None, **extras: transformer(x, 700, y, return_dict=False, **extras)[0],
        lambda x, y=None, **extras: plain(x, 0.3, y, **extras),
    ]


@pytest.mark.parametrize("name", NOTHING)
def test_keywords_that_say_nothing_change_nothing(name: str, engine: OracleEngine, x: Tensor) -> None:
    for model in models(engine):
        assert torch.equal(model(x, **{name: NOTHING[name]}), model(x))


@pytest.mark.parametrize("name", CHANGING)
def test_keywords_that_could_change_an_answer_are_refused(name: str, engine: OracleEngine, x: Tensor) -> None:
    for model in models(engine, ignore_conditions=True):
        with refused(f"`{name}` must be None, empty or zeros; received .*Remedy: (an|the) oracle"):
            model(x, torch.tensor([0, 1, 2]), **{name: CHANGING[name]})


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_are_ignored_where_classes_are_named_or_the_caller_says_so(
    name: str, engine: OracleEngine, x: Tensor
) -> None:
    condition, y = {name: CONDITIONS[name]}, torch.tensor([0, 1, 2])
    for model, ignoring in zip(models(engine), models(engine, ignore_conditions=True), strict=True):
        with refused(f"`{name}` is a condition that the data set knows nothing of.*ignore_conditions=True"):
            model(x, **condition)
        assert torch.equal(model(x, y, **condition), model(x, y))
        assert torch.equal(ignoring(x, **condition), model(x))


def test_unknown_keywords_are_refused(engine: OracleEngine, x: Tensor) -> None:
    for model in models(engine):
        with refused("`colour` must be an argument that is known here; received 'red'"):
            model(x, colour="red")


def test_the_guidance_of_flux_needs_classes(engine: OracleEngine, x: Tensor) -> None:
    y, scale = torch.tensor([0, 1, 2]), torch.full((3,), 3.5)
    flux = VelocityModel(engine, "flux", check_time=False)
    with refused("`guidance` needs labels"):
        flux(hidden_states=x, timestep=torch.tensor(0.7), guidance=scale)
    guided = flux(hidden_states=x, timestep=0.7, class_labels=y, guidance=scale, return_dict=False)[0]
    assert torch.allclose(guided, -engine.velocity(x, 0.3, labels=y, guidance=3.5), atol=1e-12)
    ignoring = VelocityModel(engine, "flux", ignore_conditions=True)
    assert torch.equal(ignoring(x, 0.7, guidance=scale)[0], -engine.velocity(x, 1 - 0.7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.float16])
def test_edm_reads_one_hot_rows_of_every_dtype(dtype: torch.dtype, engine: OracleEngine, x: Tensor) -> None:
    model = EDMDenoiser(engine)
    classes = torch.tensor([0, 3, -1])
    rows = torch.nn.functional.one_hot(classes.clamp_min(0), 4) * (classes >= 0)[:, None]
    expected = model(x, 0.7, classes)
    assert torch.equal(model(x, 0.7, rows.to(dtype)), expected)
    assert torch.equal(model(x, 0.7, rows.to(dtype).numpy()), expected)
    assert torch.equal(model(x, 0.7, rows[1:2].to(dtype)), model(x, 0.7, torch.tensor([3, 3, 3])))
    assert torch.equal(model(x, 0.7, 3), model(x, 0.7, torch.tensor([3, 3, 3])))


def test_edm_refuses_other_labels(engine: OracleEngine, x: Tensor) -> None:
    model = EDMDenoiser(engine)
    for width in (1, 3, 5, 10, 1000):
        with refused(rf"`class_labels` must be one-hot rows \[3, 4\], or integers \[3\]; received \[3, {width}\]"):
            model(x, 0.7, torch.zeros(3, width))
    with refused(r"`class_labels` must be one-hot rows \[3, 4\]"):
        model(x, 0.7, torch.eye(4)[:2])
    for rows in (torch.full((3, 4), 0.25), torch.ones(3, 4), 2 * torch.eye(4)[:3], -torch.eye(4)[:3]):
        with refused("`class_labels` must be one-hot rows, or rows of zeros"):
            model(x, 0.7, rows)
    with refused("`class_cond` must be left out beside class_labels"):
        model(x, 0.7, torch.eye(4)[:3], class_cond=torch.tensor([0, 1, 2]))
    free = EDMDenoiser(OracleEngine(OracleDataset(engine.data[:])))
    assert free.label_dim == 0
    assert torch.equal(free(x, 0.7, torch.zeros(3, 0)), free(x, 0.7))
    with refused("`class_labels` must be one-hot rows"):
        free(x, 0.7, torch.zeros(3, 4))
    with refused("`labels` need labelled data"):
        free(x, 0.7, torch.tensor([0, 1, 2]))


NUMBERS = st.one_of(
    st.integers(-3, 6),
    st.floats(allow_nan=True, width=32),
    st.lists(st.integers(-2, 5), max_size=4),
    st.lists(st.lists(st.sampled_from([0, 1, 0.0, 1.0, 0.5]), min_size=4, max_size=4), min_size=3, max_size=3),
    st.sampled_from(["cat", None, (), np.array([0, 1, 2]), np.eye(4)[:3], torch.tensor(2), torch.zeros(3, 0)]),
)
TIMES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-1, 3),
    st.lists(st.floats(0.0, 1.0), max_size=4),
    st.sampled_from(
        [torch.tensor(0.4), torch.full((3, 1, 1, 1), 0.4), np.float32(0.4), torch.tensor([]), None, "late"]
    ),
)


@given(labels=NUMBERS, t=TIMES, which=st.integers(0, 5))
def test_whatever_is_passed_is_answered_or_refused_in_words(labels: Any, t: Any, which: int) -> None:
    engine = OracleEngine(small_images(torch.Generator().manual_seed(1)))
    x = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(2))
    edm, small = EDMDenoiser(engine, null_label=4), SmallDiffusionModel(engine)
    calls = [
        lambda: VelocityModel(engine, "sit", null_label=4)(x, t, labels),
        lambda: VelocityModel(engine, "repa")(x, t, labels)[0],
        lambda: DiffusersTransformer(engine)(x, t, labels).sample,
        lambda: edm(x, t, labels),
        lambda: small(x, t, labels),
        lambda: SolverModel(engine)(x, t, labels=labels),
    ]
    try:
        # annotations are not checked, as for a user
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
            answer = calls[which]()
    except OracleError:
        return
    assert answer.shape == x.shape
    assert bool(answer.isfinite().all())


def test_what_extra_says_is_heard_or_refused(engine: OracleEngine, x: Tensor) -> None:
    model = VelocityModel(engine, "flow_matching")
    expected = engine.velocity(x, 0.3, labels=1)
    labels = torch.ones(3, dtype=torch.int64)
    assert torch.equal(model(x, 0.3, extra={"label": labels, "concat_conditioning": None}), expected)
    for extra in ({"labels": labels}, labels, {"label": labels, "mask": labels}):
        with refused("`(labels|extra|mask)` must be an argument that is known here"):
            model(x, 0.3, extra=extra)
    with refused("`model` is called as"):
        model(x, 0.3, y=labels, extra={"label": labels})


def test_an_interval_of_guidance_is_for_one_time(engine: OracleEngine, x: Tensor) -> None:
    model, classes = VelocityModel(engine, "sit", check_time=False), torch.tensor([0, 1, -1, -1])
    doubled, times = torch.cat([x[:2], x[:2]]), torch.tensor([0.1, 0.9, 0.1, 0.9])
    with refused("`t` must be one time for all where an interval is guided"):
        model.forward_with_cfg(doubled, times, classes, 2.0, cfg_interval=True, cfg_interval_start=0.5)


@pytest.mark.parametrize("build", [lambda engine: VelocityModel(engine, "sit"), EDMDenoiser, SolverModel])
def test_complex_times_are_refused_as_the_engine_does(
    build: Callable[[OracleEngine], Any], engine: OracleEngine, x: Tensor
) -> None:
    with refused("`(t|sigma)` must be real; received torch.complex64"):
        build(engine)(x, torch.tensor(0.5 + 5j))


def test_float16_answers_of_adapters_are_finite_or_refused(engine: OracleEngine, x: Tensor) -> None:
    with refused("`x` must have a dtype that holds the answer; received torch.float16"):
        DDPMDenoiser(engine, [0.99999, 0.9, 0.5]).noise(torch.full_like(x, 300.0).half(), 0)
    doubled, classes = torch.cat([x[:2], x[:2]]).half(), torch.tensor([0, 1, -1, -1])
    with refused("`x` must have a dtype that holds the answer; received torch.float16"):
        VelocityModel(engine, "sit", check_time=False).forward_with_cfg(doubled, 0.5, classes, 1e5)
