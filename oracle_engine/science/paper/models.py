"""Models of others as velocities v(x, t): callables, TorchScript and torch.export files, names of Python objects."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...adapters.conventions import Convention, resolve_convention
from ...base.arrays import Tensor
from ...base.errors import DataFileError, bad_file, invalid
from ...engine.engine import OracleEngine
from ...paths.paths import coefficients

VelocityFunction = Callable[[Tensor, Tensor], Tensor]

SCRIPTED, EXPORTED = (".pt", ".ts", ".jit"), (".pt2",)
# a denoiser is not asked at noise levels above this: sigma / alpha is infinite at t = 0
MOST_SIGMA = 1e3


def load_model(name: str) -> Any:
    """Return the model that `name` stands for: the file of a TorchScript or torch.export model, or a Python object.

    name: a file ending in .pt, .ts or .jit (`torch.jit.save`) or .pt2 (`torch.export.save`); or "package.module:object"
        of something that can be called, looked up in the current folder too. A file runs the code in it, an object that
        of its module: name those that you trust.

    Raises DataFileError for a file that holds no such model, InputError for anything else.
    """
    path = Path(name)
    if path.suffix in (*SCRIPTED, *EXPORTED):
        return _from_file(path)
    module, found, attribute = name.partition(":")
    if not found or not module or not attribute:
        requirement = f"must be a file ({', '.join((*SCRIPTED, *EXPORTED))}) or package.module:object"
        raise invalid("model", requirement, repr(name), "name a file that torch.jit.save wrote, or an object")
    return _from_module(module, attribute)


def as_velocity(model: Any, engine: OracleEngine, convention: str | Convention = "sit") -> VelocityFunction:
    """Return a model of a project as v(x, t) along the path of the engine, t = 0 noise and t = 1 data.

    model: called as the project calls it, without classes. engine: the oracle, whose path the model was trained on.
    convention: a name of `adapters.CONVENTIONS` or a Convention; or "edm" for a denoiser D(x; sigma), which is asked at
        x / alpha with sigma / alpha, v = d_alpha D + d_sigma (x - alpha D) / sigma.

    Raises InputError for unknown conventions and for what cannot be called.
    """
    if not callable(model):
        raise invalid("model", "must be something to call", type(model).__name__, "pass a module or function")
    if isinstance(convention, str) and convention.casefold() in ("edm", "edm2", "k-diffusion"):
        return _of_denoiser(model, engine)
    held = resolve_convention(convention)

    @torch.no_grad()
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity of queries x [B, *shape] at t [B]."""
        theirs = (1.0 - t if held.from_data else t) * held.steps
        output = _tensor(model(theirs, x) if held.time_first else model(x, theirs))
        return -output if held.from_data else output

    return velocity


def _of_denoiser(model: Any, engine: OracleEngine) -> VelocityFunction:
    """Return a denoiser D(x; sigma) as v(x, t)."""

    @torch.no_grad()
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity of queries x [B, *shape] at t [B]."""
        at, axes = coefficients(engine.path, t.double()), [1] * (x.ndim - 1)
        alpha = torch.maximum(at.alpha_t, at.sigma_t / MOST_SIGMA)
        parts = (alpha, at.sigma_t, at.alpha_t, at.d_alpha_t, at.d_sigma_t)
        scale, sigma, exact, d_alpha, d_sigma = (part.reshape(-1, *axes) for part in parts)
        denoised = _tensor(model((x / scale).to(x.dtype), (at.sigma_t / alpha).to(x.dtype))).double()
        return (d_alpha * denoised + d_sigma * (x - exact * denoised) / sigma).to(x.dtype)

    return velocity


def _tensor(output: Any) -> Tensor:
    """Return the tensor in what a model returned: itself, the first of several, or `.sample`."""
    held = output[0] if isinstance(output, (tuple, list)) else getattr(output, "sample", output)
    if not isinstance(held, Tensor):
        found = type(output).__name__
        raise invalid("model", "must return a tensor, a tuple or an object with .sample", found, "wrap the model")
    return held


def _from_file(path: Path) -> Any:
    """Return the model of a TorchScript or torch.export file."""
    if not path.is_file():
        raise invalid("model", "must be a file that exists", path, "check the path")
    try:
        with warnings.catch_warnings():
            # newer versions of torch call TorchScript deprecated
            warnings.simplefilter("ignore")
            if path.suffix in EXPORTED:
                return torch.export.load(path).module()
            return torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:
        remedy = "write it by torch.jit.save or torch.export.save; weights alone are no model"
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _bad_model(path, reason[0], remedy) from error


def _bad_model(path: Path, reason: str, remedy: str) -> DataFileError:
    return bad_file(path, "a TorchScript or torch.export model", reason[:200], remedy)


def _from_module(module: str, attribute: str) -> Any:
    """Return a Python object by the name of its module and its own."""
    place = str(Path.cwd())
    added = place not in sys.path
    if added:
        sys.path.insert(0, place)
    try:
        held: Any = importlib.import_module(module)
        for part in attribute.split("."):
            held = getattr(held, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise invalid("model", "must name a Python object, package.module:object", str(error), "check it") from error
    finally:
        if added:
            sys.path.remove(place)
    return held
