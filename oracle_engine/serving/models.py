"""A model of the server: an engine by name, what it takes and gives, and how it answers questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..base.arrays import Tensor, check_shape
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..engine.several import PREDICTIONS, Value, several
from ..paths.described import path_facts
from ..queries.conditions import Conditions
from .datatypes import DATATYPE_NAMES
from .limits import Limits, RefusedError
from .protocol import Inference
from .questions import NUMBERS, TOP_K, Question, check_input, check_names, per_query
from .statistics import Statistics

# datatype and sizes of a sample of each output beside the predictions; -1 is top_k
OUTPUTS = {
    "log_density": ("FP64", []),
    "ess": ("FP64", []),
    "entropy": ("FP64", []),
    "variance": ("FP64", []),
    "top_weights": ("FP64", [-1]),
    "top_indices": ("INT64", [-1]),
    "omitted_mass": ("FP64", []),
    "velocity_error": ("FP64", []),
    "confidence": ("FP64", []),
    "standard_error": ("FP64", []),
    "survivors": ("INT64", []),
    "route": ("BYTES", []),
}


@dataclass(frozen=True)
class Model:
    """An engine that is served.

    name: of the model. engine: what answers. limits: of requests. guidance: of labelled queries that give none.
    statistics: what has been counted.
    """

    name: str
    engine: OracleEngine
    limits: Limits
    guidance: float | None = None
    statistics: Statistics = field(default_factory=Statistics)

    def answer(self, question: Question) -> dict[str, Value]:
        """Return the answers to a question on the CPU, with route and omitted mass whether asked for or not."""
        device = self.engine.data.device
        x, t = question.x.to(device), question.t.to(device)
        conditions = Conditions(question.labels, question.guidance, question.exclude, question.source)
        names = question.names | {"route", "omitted_mass"}
        found = several(self.engine, names, x, t, conditions, top_k=question.top_k)
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in found.items()}

    def warm_up(self) -> None:
        """Answer one query, so that the first request does not pay for what is made once."""
        x = torch.zeros(1, *self.engine.data.sample_shape)
        self.answer(Question(x, torch.full((1,), 0.5, dtype=torch.float64), frozenset({"velocity"})))

    def outputs(self, inference: Inference) -> tuple[str, ...]:
        """Return the names of what a request asks for; of one that names nothing, everything.

        Raises InputError for names that are none.
        """
        known = (*PREDICTIONS, *OUTPUTS)
        for name in inference.outputs:
            if name not in known:
                raise invalid("outputs", f"must be among {', '.join(known)}", name[:80], "check its name")
        return tuple(inference.outputs) or known

    def question(self, inference: Inference) -> Question:
        """Return what a request asks.

        Raises InputError for inputs that are missing, unknown, or of another shape or datatype, RefusedError for more
        rows than the limits allow.
        """
        inputs = inference.inputs
        check_names(inputs)
        x = self._points(inputs["x"])
        names = frozenset(self.outputs(inference))
        given = {name: per_query(name, inputs[name], len(x)) for name in inputs if name != "x"}
        return Question(
            x=x,
            t=given["t"],
            names=names,
            top_k=self._top_k(inference),
            labels=given.get("labels"),
            source=given.get("source"),
            exclude=given.get("exclude"),
            guidance=self._guidance(given, names),
        )

    def _points(self, x: Tensor) -> Tensor:
        """Return the states of a request, checked."""
        check_input("x", x)
        check_shape("x", x, self.engine.data.sample_shape)
        if len(x) > self.limits.rows:
            words = f"a request may have {self.limits.rows} rows; received {len(x)}. Remedy: send several requests."
            raise RefusedError(413, words)
        return x

    def _top_k(self, inference: Inference) -> int:
        """Return how many of the heaviest samples a request asks for."""
        most = min(self.limits.top_k, len(self.engine.data))
        found = inference.parameters.get("top_k", min(TOP_K, most))
        if type(found) is not int or not 0 <= found <= most:
            raise invalid("top_k", f"must be a whole number from 0 to {most}", str(found)[:40], "leave it out for 8")
        return found

    def _guidance(self, given: Mapping[str, Tensor], names: frozenset[str]) -> Tensor | None:
        """Return the guidance scale of each query, from the request or the model, or None."""
        if names.isdisjoint(PREDICTIONS):
            return None
        if "guidance" in given and "labels" not in given:
            raise invalid("guidance", "needs labels to guide towards", "no labels", "send labels")
        if "guidance" in given or self.guidance is None or "labels" not in given:
            return given.get("guidance")
        return torch.full((len(given["labels"]),), self.guidance, dtype=torch.float64)

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the model: its inputs and outputs with datatypes and shapes, -1 for any size."""
        sample = list(self.engine.data.sample_shape)
        inputs = {"x": ("FP32", sample), "t": ("FP64", [])} | {name: (kind, []) for name, kind in NUMBERS.items()}
        outputs = dict.fromkeys(PREDICTIONS, ("FP32", sample)) | OUTPUTS
        return {
            "name": self.name,
            "versions": ["1"],
            "platform": "oracle_engine",
            "inputs": [_described(name, *kind) for name, kind in inputs.items()],
            "outputs": [_described(name, *kind) for name, kind in outputs.items()],
        }

    def config(self) -> dict[str, Any]:
        """Return what the model computes, in the form of Triton's configuration, and the limits on requests."""
        metadata = self.metadata()
        inputs = [_entry(item) | {"optional": item["name"] in NUMBERS} for item in metadata["inputs"]]
        return {
            "name": self.name,
            "platform": "oracle_engine",
            "max_batch_size": self.limits.rows,
            "dynamic_batching": {"preferred_batch_size": []},
            "input": inputs,
            "output": [_entry(item) for item in metadata["outputs"]],
            "parameters": {"oracle": self._facts()},
        }

    def _facts(self) -> dict[str, Any]:
        """Return what a client has to know of the engine: its path, its data and the limits on requests."""
        engine = self.engine
        return {
            "path": repr(engine.path),
            "path_facts": path_facts(engine.path),
            "value_dtype": DATATYPE_NAMES[engine.data.value_dtype],
            "samples": len(engine.data),
            "sample_shape": list(engine.data.sample_shape),
            "classes": sorted(engine.data.segments),
            "values": engine.data.describe_values(),
            "device": str(engine.data.device),
            "resident": str(engine.residency),
            "t_max": engine.t_max,
            "point_std": engine.point_std,
            "guidance": self.guidance,
            "limits": asdict(self.limits),
        }


def _entry(item: dict[str, Any]) -> dict[str, Any]:
    """Return an input or an output of the metadata as Triton's configuration writes it."""
    datatype = {"BYTES": "STRING"}.get(item["datatype"], item["datatype"])
    return {"name": item["name"], "data_type": f"TYPE_{datatype}", "dims": item["shape"][1:] or [1]}


def _described(name: str, datatype: str, sizes: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1, *sizes]}


def check_name(name: str) -> None:
    """Check that a model can be called `name` in an address. Raises InputError for other names."""
    if not name or not name.isascii() or not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise invalid(
            "name", "must be letters, digits, dots, dashes and underscores", repr(name)[:80], "call it oracle"
        )
