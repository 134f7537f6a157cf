"""Models of others become velocities of the engine: files, names, and every convention."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from tolerances import assert_close

from oracle_engine import DataFileError, InputError, OracleDataset, OracleEngine, adapters
from oracle_engine.science.paper import as_velocity, load_model


class Half(torch.nn.Module):
    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.5 * x + t[:, None]


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    return OracleEngine(OracleDataset(torch.randn(30, 4, generator=generator)))


@pytest.mark.parametrize("convention", ["sit", "lightningdit", "torchcfm", "repa", "diffusers", "flux"])
def test_the_oracle_in_a_convention_comes_back_as_itself(
    convention: str, engine: OracleEngine, generator: torch.Generator
) -> None:
    theirs = adapters.VelocityModel(engine, convention)
    x, t = torch.randn(7, 4, generator=generator), torch.rand(7, generator=generator) * 0.8 + 0.1
    found = as_velocity(theirs, engine, convention)(x, t)
    assert_close(found, engine.velocity(x, t), "float32 steps", scale=10.0)


def test_a_denoiser_of_noise_levels_becomes_a_velocity(engine: OracleEngine, generator: torch.Generator) -> None:
    theirs = adapters.EDMDenoiser(OracleEngine(engine.data, "edm"))
    x, t = torch.randn(7, 4, generator=generator), torch.rand(7, generator=generator) * 0.8
    found = as_velocity(theirs, engine, "edm")(x, t)
    assert_close(found, engine.velocity(x, t), "float32 steps", scale=10.0)
    assert bool(as_velocity(theirs, engine, "edm")(x, torch.zeros(7)).isfinite().all())


def test_files_and_names_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, t = torch.ones(3, 2), torch.full((3,), 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Half(), (x, t)).save(tmp_path / "half.pt")
    torch.export.save(torch.export.export(Half(), (x, t)), tmp_path / "half.pt2")
    (tmp_path / "my_model.py").write_text("def half(x, t):\n    return 0.5 * x + t[:, None]\n")
    monkeypatch.chdir(tmp_path)
    for name in ("half.pt", "half.pt2", "my_model:half"):
        assert torch.equal(load_model(name)(x, t), Half()(x, t)), name


def test_what_is_no_model_is_refused(tmp_path: Path, engine: OracleEngine) -> None:
    (tmp_path / "weights.pt").write_bytes(b"not a model")
    with pytest.raises(DataFileError, match="TorchScript"):
        load_model(str(tmp_path / "weights.pt"))
    for name in ("nothing", "no_such_module:model", "math:nothing", str(tmp_path / "none.pt")):
        with pytest.raises(InputError, match="model"):
            load_model(name)
    with pytest.raises(InputError, match="must be something to call"):
        as_velocity(3, engine)
    with pytest.raises(InputError, match="must return a tensor"):
        as_velocity(lambda x, t: "words", engine)(torch.zeros(1, 4), torch.zeros(1))
