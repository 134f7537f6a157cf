"""The oracle runs in the sampling and training loops of every project that a convention is named after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapter_cases import one_sample, small_images
from closed_form import nearest, normal, values_of
from flow_matching.path import CondOTProbPath
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper
from foreign_loops import (
    edm2_loss,
    edm_loss,
    edm_sample,
    k_euler,
    k_guided,
    repa_loss,
    repa_sample,
    repa_sde_sample,
    sit_loss,
    sit_sample,
    torchcfm_plane_sample,
    torchcfm_sample,
    transformer_loss,
    transformer_pipeline,
)
from other_libraries import FlowMatchScheduler
from refusals import refused
from tolerances import assert_rows_close
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, OracleTarget, oracle_loss
from oracle_engine.adapters import (
    DiffusersTransformer,
    EDMDenoiser,
    ODEFunction,
    SmallDiffusionModel,
    SolverModel,
    VelocityModel,
)
from oracle_engine.paths.time_grids import sampling_times
from oracle_engine.samplers.runs import initial_noise, sample

# asked thousands of times: annotations are checked where the same is asked once
pytestmark = pytest.mark.usefixtures("unchecked")

NULL = 1000


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return small_images(generator)


@pytest.fixture
def image(generator: torch.Generator) -> OracleEngine:
    """One image: the oracle is the conditional target, and every loss is zero."""
    single = one_sample(generator)
    return OracleEngine(OracleDataset(single.data[:].reshape(1, 2, 3, 4), torch.tensor([0])), point_std=0.0)


@pytest.fixture
def noise(data: OracleDataset, generator: torch.Generator) -> Tensor:
    return initial_noise(OracleEngine(data), 6, generator=generator)


@pytest.fixture
def classes() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 0, 1])


def images_of(engine: OracleEngine) -> Tensor:
    return engine.data[:].expand(8, 2, 3, 4).contiguous()


def assert_zero(loss: Tensor) -> None:
    assert float(loss.abs().max()) < 1e-12


def assert_lands(x: Tensor, data: OracleDataset, classes: Tensor | None = None) -> None:
    assert_rows_close(x, nearest(x, data)[0], "landing")
    if classes is not None:
        assert_near_class(x, data, classes)


def assert_near_class(x: Tensor, data: OracleDataset, classes: Tensor) -> None:
    assert data.labels is not None
    distance, index = torch.cdist(x.flatten(1).double(), values_of(data)).min(1)
    assert float(distance.max()) < 0.5
    assert torch.equal(data.labels[data.index_of(index)], classes)


@pytest.mark.parametrize("name", ["SiT", "LightningDiT"])
def test_sit_and_lightningdit_sample_and_train(
    name: str, data: OracleDataset, image: OracleEngine, noise: Tensor, classes: Tensor
) -> None:
    engine = OracleEngine(data)
    model = VelocityModel(engine, name, null_label=NULL)
    x = sit_sample(model, noise, steps=12, y=classes)
    assert_rows_close(x, sample(engine, noise, sampling_times(12), labels=classes).x, "bar")
    assert_lands(x, data, classes)
    # adaptive, to the end of the grid and beyond
    late = VelocityModel(OracleEngine(data, t_max=0.999), name, null_label=NULL)
    near = sit_sample(late, noise, steps=1, method="dopri5", y=classes)
    assert_rows_close(near, nearest(near, data)[0], "near a sample")
    assert_zero(sit_loss(VelocityModel(image, name), images_of(image), y=torch.zeros(8, dtype=torch.int64)))


def test_sit_guides_a_doubled_batch(data: OracleDataset, noise: Tensor, classes: Tensor) -> None:
    engine = OracleEngine(data)
    model: Any = VelocityModel(engine, "sit", null_label=NULL)
    both, y = torch.cat([noise, noise]), torch.cat([classes, torch.full_like(classes, NULL)])
    x = sit_sample(model.forward_with_cfg, both, steps=12, y=y, cfg_scale=2.0)
    expected = sample(engine, noise, sampling_times(12), labels=classes, guidance=2.0).x
    for half in x.chunk(2):
        assert_rows_close(half, expected, "bar")
    # as the published code: some channels are guided, the others follow the class of their half
    first: Any = VelocityModel(engine, "sit", null_label=NULL, guided_channels=1)
    partly = first.forward_with_cfg(both, 0.4, y, 2.0)
    plain, guided = model(both, 0.4, y, guidance=1.0), model(noise, 0.4, classes, guidance=2.0)
    assert_rows_close(partly[:, 1:], plain[:, 1:], "bar")
    assert_rows_close(partly[:6, :1], guided[:, :1], "bar")
    assert_rows_close(partly[6:, :1], guided[:, :1], "bar")
    # LightningDiT's interval: not guided before its start
    early = model.forward_with_cfg(both, torch.full((12,), 0.1), y, 2.0, cfg_interval=True, cfg_interval_start=0.3)
    assert_rows_close(early[:6], model(noise, 0.1, classes), "bar")
    later = model.forward_with_cfg(both, torch.full((12,), 0.4), y, 2.0, cfg_interval=True, cfg_interval_start=0.3)
    assert_rows_close(later[6:], guided, "bar")
    with refused("`x` must be a doubled batch"):
        model.forward_with_cfg(both[:5], 0.4, y[:5], 2.0)


def test_repa_samples_and_trains(data: OracleDataset, image: OracleEngine, noise: Tensor, classes: Tensor) -> None:
    engine = OracleEngine(data)
    model = VelocityModel(engine, "REPA", null_label=NULL)
    x = repa_sample(model, noise, classes, steps=12)
    assert_rows_close(x, sample(engine, noise, sampling_times(12), labels=classes).x, "bar")
    guided = repa_sample(model, noise, classes, steps=12, cfg_scale=1.5)
    expected = sample(engine, noise, sampling_times(12), labels=classes, guidance=1.5).x
    assert_rows_close(guided, expected, "bar")
    heun = repa_sample(model, noise, classes, steps=12, heun=True)
    assert_rows_close(heun, sample(engine, noise, sampling_times(12), method="heun", labels=classes).x, "bar")
    # its last step goes beyond the sample by the noise that is left at t = .04
    assert_near_class(repa_sde_sample(model, noise, classes, steps=200), data, classes)
    y = torch.zeros(8, dtype=torch.int64)
    for zs in ([torch.randn(8, 5, 3)], [torch.randn(8, 5, 3), torch.randn(8, 5, 2)]):
        denoising, projection = repa_loss(VelocityModel(image, "repa"), images_of(image), zs, y)
        assert_zero(denoising)
        assert projection == 0.0


def test_what_a_convention_returns_is_never_taken_for_a_velocity(data: OracleDataset, noise: Tensor) -> None:
    engine = OracleEngine(data)
    for name in ("repa", "diffusers"):
        model = VelocityModel(engine, name, check_time=False)
        with refused("`velocity` must be v\\(x, t\\) with t = 0 noise and t = 1 data"):
            sample(model, noise, sampling_times(4) * 0.5 + 0.25)
        with refused("`model` must return a tensor"):
            oracle_loss(model, OracleTarget(engine), data[:4], t=0.5)
    with refused("`velocity` must return a torch.Tensor"):
        sample(VelocityModel(engine, "sit", returns="tuple"), noise, sampling_times(4) * 0.5 + 0.25)
    plain = VelocityModel(engine, "repa", returns="tensor")
    # a tensor, but its time runs the other way
    with refused("`velocity` must be v\\(x, t\\) with t = 0 noise and t = 1 data"):
        sample(plain, noise, sampling_times(4) * 0.5 + 0.25)
    assert torch.equal(plain(noise, 0.9), VelocityModel(engine, "repa")(noise, 0.9)[0])


@pytest.mark.parametrize("name", ["torchcfm", "CFM"])
def test_torchcfm_samples_and_trains(
    name: str, data: OracleDataset, image: OracleEngine, noise: Tensor, generator: torch.Generator
) -> None:
    x = torchcfm_sample(VelocityModel(OracleEngine(data), name), noise, 12)
    assert_rows_close(x, sample(OracleEngine(data), noise, sampling_times(12)).x, "bar")
    plane = OracleEngine(OracleDataset(normal(9, 2, generator)))
    start = normal(5, 2, generator)
    model = VelocityModel(plane, name)
    assert_rows_close(torchcfm_plane_sample(model, start, 12), sample(plane, start, sampling_times(12)).x, "bar")
    x1, t = images_of(image), torch.rand(8, dtype=torch.float64)
    x0, share = torch.randn_like(x1), t[:, None, None, None]
    assert_zero(VelocityModel(image, name)(t, share * x1 + (1 - share) * x0) - (x1 - x0))
    for wrong in ((x1, t), (x1,)):
        with refused(r"`model` is called as model\(t, x, y\)"):
            VelocityModel(image, name)(*wrong)
    with refused(r"`model` is called as model\(x, t, y\)"):
        VelocityModel(image, "sit")(t, x1)


def test_flow_matching_wraps_samples_and_trains(
    data: OracleDataset, image: OracleEngine, noise: Tensor, classes: Tensor
) -> None:
    engine = OracleEngine(data)

    class Wrapped(ModelWrapper):  # type: ignore[misc]
        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            # their image example: classes in extra={"label": y}, one time for each state
            found: Tensor = self.model(x, torch.zeros(x.shape[0]) + t, extra={"label": extras["label"]})
            return found

    solver = ODESolver(velocity_model=Wrapped(VelocityModel(engine, "flow matching")))
    grid = torch.linspace(0, 1, 13, dtype=torch.float64)
    x = solver.sample(x_init=noise, step_size=None, method="euler", time_grid=grid, label=classes)
    assert_rows_close(x, sample(engine, noise, sampling_times(12), labels=classes).x, "bar")
    x1 = images_of(image)
    drawn = CondOTProbPath().sample(t=torch.rand(8, dtype=torch.float64), x_0=torch.randn_like(x1), x_1=x1)
    for model in (SolverModel(image), VelocityModel(image, "flow_matching")):
        assert_zero(model(drawn.x_t, drawn.t) - drawn.dx_t)
        assert_zero(model(x=drawn.x_t, t=drawn.t) - drawn.dx_t)
    assert_zero(VelocityModel(image, "flow_matching")(drawn.x_t, drawn.t, extra={}) - drawn.dx_t)


@pytest.mark.parametrize(("name", "steps"), [("diffusers", 1000.0), ("SD3", 1000.0), ("flux.1", 1.0)])
def test_pipelines_of_diffusers_sample_and_train(
    name: str, steps: float, data: OracleDataset, image: OracleEngine, noise: Tensor, classes: Tensor
) -> None:
    engine, unit = OracleEngine(data), steps / 1000.0
    embeddings: dict[str, Any] = {
        "encoder_hidden_states": torch.randn(6, 7, 5),
        "pooled_projections": torch.randn(6, 5),
    }
    transformer = VelocityModel(engine, name, null_label=NULL)
    scheduler = FlowMatchScheduler()
    x = transformer_pipeline(transformer, scheduler, noise, steps=12, class_labels=classes, unit=unit, **embeddings)
    assert_lands(x, data, classes)
    named = transformer(noise, steps * 0.5, classes)
    assert torch.equal(named.sample, named[0])
    assert torch.equal(named["sample"], transformer(noise, timestep=steps * 0.5, class_labels=classes).sample)
    # text alone says nothing that the data set knows of
    for given in (embeddings, {"pooled_projections": embeddings["pooled_projections"]}):
        with refused(r"`(encoder_hidden_states|pooled_projections)` is a condition that the data set knows nothing of"):
            transformer_pipeline(transformer, scheduler, noise, steps=12, unit=unit, **given)
    ignoring = VelocityModel(engine, name, ignore_conditions=True)
    options: dict[str, Any] = {
        "guidance": torch.full((6,), 3.5),
        "img_ids": torch.randn(12, 3),
        "joint_attention_kwargs": None,
    }
    free = transformer_pipeline(ignoring, scheduler, noise, steps=12, unit=unit, **embeddings, **options)
    plain = transformer_pipeline(transformer, scheduler, noise, steps=12, unit=unit)
    assert torch.equal(free, plain)
    # classifier-free guidance by a doubled batch
    both = torch.cat([torch.full_like(classes, NULL), classes])
    unchecked = VelocityModel(engine, name, null_label=NULL, check_time=False)
    guided = transformer_pipeline(unchecked, scheduler, noise, steps=12, scale=2.0, class_labels=both, unit=unit)
    assert_lands(guided, data, classes)
    assert_zero(transformer_loss(VelocityModel(image, name), images_of(image), steps))


@pytest.mark.parametrize("timestep", [500, 500.0, torch.tensor(500), torch.tensor([500.0]), torch.tensor([500] * 6)])
def test_timesteps_come_as_numbers_and_tensors(timestep: Any, data: OracleDataset, noise: Tensor) -> None:
    engine = OracleEngine(data)
    found = DiffusersTransformer(engine)(noise, timestep=timestep, return_dict=False)[0]
    assert torch.equal(found, -engine.velocity(noise, 0.5))


@pytest.mark.parametrize("churn", [0.0, 0.2])
@pytest.mark.parametrize("options", [{}, {"force_fp32": True}, {"augment_labels": torch.zeros(6, 9)}])
def test_edm_samples_and_trains(
    churn: float,
    options: dict[str, Any],
    data: OracleDataset,
    image: OracleEngine,
    noise: Tensor,
    classes: Tensor,
) -> None:
    net = EDMDenoiser(OracleEngine(data))
    assert (net.img_channels, net.img_resolution, net.label_dim) == (2, 4, 4)
    onehot = torch.eye(net.label_dim)[classes]
    assert_lands(edm_sample(net, noise, onehot, churn=churn, **options), data, classes)
    assert_lands(edm_sample(net, noise, None, churn=churn, **options), data)
    single = EDMDenoiser(image)
    # one sample has no spread, which their weights divide by
    single.sigma_data = 0.5
    for loss in (edm_loss, edm2_loss):
        assert_zero(loss(single, images_of(image), torch.ones(8, 1)))
    # data sets without classes have labels of width zero there
    unlabelled = EDMDenoiser(OracleEngine(OracleDataset(images_of(image))))
    unlabelled.sigma_data = 0.5
    assert_zero(edm2_loss(unlabelled, images_of(image), torch.zeros(8, 0)))


def test_k_diffusion_samples(data: OracleDataset, noise: Tensor, classes: Tensor) -> None:
    model = EDMDenoiser(OracleEngine(data), null_label=4)
    root = torch.linspace(80.0 ** (1 / 7), 0.01 ** (1 / 7), 18, dtype=torch.float64)
    sigmas = torch.cat([root**7, torch.zeros(1, dtype=torch.float64)])
    x = k_euler(model, 80.0 * noise, sigmas, {"class_cond": classes, "aug_cond": torch.zeros(6, 9)})
    assert_lands(x, data, classes)
    guided = k_guided(model, 2.0, 4)
    sigma = torch.full((6,), 1.5, dtype=torch.float64)
    assert_rows_close(guided(noise, sigma, classes), model(noise, 1.5, classes, guidance=2.0), "bar")
    assert_lands(k_euler(guided, 80.0 * noise, sigmas, {"class_cond": classes}), data, classes)


def test_smalldiffusion_trains(image: OracleEngine) -> None:
    x0 = images_of(image)
    sigma, eps = torch.rand(8, 1, 1, 1, dtype=torch.float64) + 0.1, torch.randn_like(x0)
    model = SmallDiffusionModel(image).train()
    assert_zero(model.get_loss(x0, sigma, eps))
    assert_zero(model.get_loss(x0, sigma, eps, cond=torch.zeros(8, dtype=torch.int64)))
    assert model.eval() is model


def test_adapters_are_modules_without_parameters(data: OracleDataset) -> None:
    engine = OracleEngine(data)
    adapters = [
        VelocityModel(engine, "sit"),
        DiffusersTransformer(engine),
        SolverModel(engine),
        ODEFunction(engine),
        EDMDenoiser(engine),
        SmallDiffusionModel(engine),
    ]
    for adapter in adapters:
        assert isinstance(adapter, torch.nn.Module)
        assert list(adapter.parameters()) == []
        assert adapter.state_dict() == {}
        assert adapter.eval().requires_grad_(False).half().to("cpu") is adapter
        assert adapter.engine.data.storage == torch.float64
