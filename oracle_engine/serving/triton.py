"""A model repository for NVIDIA Triton's Python backend, and what its model.py calls.

https://github.com/triton-inference-server/python_backend
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.arrays import Tensor
from ..base.errors import InputError, invalid
from ..base.files import replacing
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..paths.described import path_facts, path_of_facts
from ..search.index import SearchIndex
from .limits import Limits, RefusedError
from .models import Model
from .protocol import Inference
from .questions import NUMBERS, Question
from .together import Result, answers

MODEL = '''"""Oracle answers by oracle-velocity-engine, which has to be installed where Triton's Python backend runs."""

import triton_python_backend_utils as pb_utils

from oracle_engine.serving.triton import loaded, responses


class TritonPythonModel:
    def initialize(self, args):
        self.model = loaded(args)

    def execute(self, requests):
        return responses(self.model, requests, pb_utils)
'''


def export(engine: OracleEngine, folder: Path, name: str, limits: Limits) -> list[Path]:
    """Return the files of a model repository that are written.

    engine: what answers there; its data, index, path and options are written. folder: of the repository, in which the
    model gets the folder `name`. limits: rows of a request.
    Raises InputError for paths that cannot be described and for models that exist, OSError where nothing can be
    written.
    """
    facts = path_facts(engine.path)
    if facts is None:
        raise invalid("path", "must be one of oracle_engine.paths", repr(engine.path), "write a model.py of your own")
    place = folder / name
    if place.exists():
        raise invalid(
            "repository", f"must hold no {name}", f"{place}, which exists", "remove it, or choose another name"
        )
    version = place / "1"
    version.mkdir(parents=True)
    tensors = [version / "data.safetensors"]
    engine.data.save(tensors[0])
    if engine.index is not None:
        tensors.append(version / "data.index")
        engine.index.save(tensors[1])
    options = {"path": facts, "t_max": engine.t_max, "point_std": engine.point_std, "tolerance": engine.tolerance}
    texts = {
        place / "config.pbtxt": configuration(Model(name, engine, limits)),
        version / "model.py": MODEL,
        version / "oracle.json": json.dumps(options),
    }
    for file, text in texts.items():
        with replacing(file) as partial:
            partial.write_text(text, "utf-8")
    return [*texts, *tensors]


def configuration(model: Model) -> str:
    """Return the config.pbtxt of a model: batched by Triton, every input but x and t optional."""
    held = model.config()
    kind = "KIND_GPU" if model.engine.data.device.type == "cuda" else "KIND_CPU"
    lines = [
        f'name: "{model.name}"',
        'backend: "python"',
        f"max_batch_size: {model.limits.rows}",
        *(f"input [ {{ {_entry(item)}{_optional(item)} }} ]" for item in held["input"]),
        *(f"output [ {{ {_entry(item)} }} ]" for item in held["output"]),
        "dynamic_batching { }",
        f"instance_group [ {{ count: 1 kind: {kind} }} ]",
    ]
    return "\n".join(lines) + "\n"


def _entry(item: Mapping[str, Any]) -> str:
    # one number a query: Triton sees [B, 1], the model [B]
    alone = item["dims"] == [1]
    shape = " reshape: { shape: [ ] }" if alone else ""
    return f'name: "{item["name"]}" data_type: {item["data_type"]} dims: {item["dims"]}{shape}'


def _optional(item: Mapping[str, Any]) -> str:
    return " optional: true" if item["name"] in NUMBERS else ""


def loaded(args: Mapping[str, str]) -> Model:
    """Return the model that :func:`export` wrote.

    args: what Triton hands to `initialize`: model_name, model_repository, model_version, model_instance_kind and
    model_instance_device_id.
    """
    place = Path(args["model_repository"]) / args.get("model_version", "1")
    options = json.loads((place / "oracle.json").read_text("utf-8"))
    card = args.get("model_instance_kind") == "GPU"
    device = torch.device("cuda", int(args["model_instance_device_id"])) if card else torch.device("cpu")
    data = OracleDataset.load(place / "data.safetensors").to(device)
    engine = OracleEngine(data, path_of_facts(options.pop("path")), **options)
    if (place / "data.index").exists():
        engine.use(SearchIndex.read(place / "data.index"), place / "data.index")
    model = Model(args.get("model_name", "oracle"), engine, Limits())
    model.warm_up()
    return model


def responses(model: Model, requests: Sequence[Any], pb_utils: Any) -> list[Any]:
    """Return a response to each request: the answers, or an error in words for the guilty.

    model: what answers. requests: of Triton. pb_utils: its module triton_python_backend_utils.
    """
    asked: list[Inference | Exception] = [_asked(request, pb_utils) for request in requests]
    questions = [_question(model, held) for held in asked]
    results: list[Result] = [held if isinstance(held, Exception) else InputError() for held in questions]
    for places in _kinds(questions):
        found = answers(model, [question for place in places if isinstance(question := questions[place], Question)])
        for place, result in zip(places, found, strict=True):
            results[place] = result
    return [_response(request, result, pb_utils) for request, result in zip(requests, results, strict=True)]


def _asked(request: Any, pb_utils: Any) -> Inference:
    """Return what a request of Triton's Python backend asks."""
    inputs = {}
    for name in ("x", "t", *NUMBERS):
        held = pb_utils.get_input_tensor_by_name(request, name)
        if held is not None:
            inputs[name] = torch.from_numpy(np.array(held.as_numpy()))
    parameters = json.loads(request.parameters() or "{}")
    outputs = dict.fromkeys(request.requested_output_names(), True)
    return Inference("", inputs, outputs, True, parameters)


def _question(model: Model, inference: Inference | Exception) -> Question | Exception:
    try:
        return model.question(inference) if isinstance(inference, Inference) else inference
    except (InputError, RefusedError) as error:
        return error


def _kinds(questions: Iterable[Question | Exception]) -> Iterator[list[int]]:
    """Yield the places of questions that can be answered together."""
    found: dict[tuple[object, ...], list[int]] = {}
    for place, question in enumerate(questions):
        if isinstance(question, Question):
            found.setdefault(question.kind, []).append(place)
    yield from found.values()


def _response(request: Any, result: Result, pb_utils: Any) -> Any:
    if isinstance(result, Exception):
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(result)))
    tensors = [pb_utils.Tensor(name, _array(result[name])) for name in request.requested_output_names()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _array(value: Tensor | tuple[str, ...]) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else np.array([text.encode() for text in value], dtype=object)
