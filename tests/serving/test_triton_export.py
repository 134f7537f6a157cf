"""An exported model repository is what Triton reads, and its model.py answers as the engine does."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient
from command_line import assert_refused, run_json
from google.protobuf import text_format
from tolerances import assert_close

from oracle_engine import OracleEngine, load_dataset

ENGINE = OracleEngine(load_dataset("digits", count=40, seed=0), "vp")
X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
TIMES = torch.tensor([0.1, 0.3, 0.6, 0.8], dtype=torch.float64)


class Tensor:
    """A tensor of Triton's utilities."""

    def __init__(self, name: str, value: np.ndarray) -> None:
        self.name, self.value = name, value

    def as_numpy(self) -> np.ndarray:
        return self.value


class Request:
    """A request as Triton hands it to model.py."""

    def __init__(self, outputs: list[str], parameters: dict[str, Any], **inputs: np.ndarray) -> None:
        self.inputs, self.outputs, self.held = inputs, outputs, parameters

    def requested_output_names(self) -> list[str]:
        return self.outputs

    def parameters(self) -> str:
        return json.dumps(self.held) if self.held else ""


UTILITIES = ModuleType("triton_python_backend_utils")
vars(UTILITIES).update(
    Tensor=Tensor,
    TritonError=lambda words: words,
    InferenceResponse=lambda output_tensors, error=None: SimpleNamespace(tensors=output_tensors, error=error),
    get_input_tensor_by_name=lambda request, name: (
        Tensor(name, request.inputs[name]) if name in request.inputs else None
    ),
)


def module_of(name: str, file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    options = ["--data", "digits", "--count", "40", "--path", "vp", "--max-rows", "64"]
    facts = run_json(capsys, "export-triton", tmp_path, *options, "--name", "digits")
    assert sorted(facts["files"]) == sorted(str(file) for file in tmp_path.rglob("*") if file.is_file())
    return tmp_path


@pytest.fixture
def model(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", UTILITIES)
    held = module_of("model", repository / "digits" / "1" / "model.py").TritonPythonModel()
    place = {"model_repository": str(repository / "digits"), "model_version": "1", "model_name": "digits"}
    held.initialize(place | {"model_instance_kind": "CPU", "model_instance_device_id": "0"})
    return held


def test_the_configuration_is_what_triton_reads(repository: Path) -> None:
    # of the package with gRPC, which these messages do not need
    folder = Path(str(tritonclient.__file__)).parent
    messages = module_of("model_config_pb2", folder / "grpc" / "model_config_pb2.py")
    text = (repository / "digits" / "config.pbtxt").read_text("utf-8")
    config = text_format.Parse(text, messages.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "python", 64)
    inputs = {item.name: item for item in config.input}
    assert (list(inputs["x"].dims), inputs["x"].data_type) == ([1, 8, 8], messages.TYPE_FP32)
    assert [name for name, item in inputs.items() if item.optional] == ["labels", "source", "exclude", "guidance"]
    assert list(inputs["t"].dims) == [1]
    assert inputs["t"].HasField("reshape")
    outputs = {item.name: item for item in config.output}
    assert list(outputs["top_weights"].dims) == [-1]
    assert outputs["route"].data_type == messages.TYPE_STRING
    assert config.HasField("dynamic_batching")


def test_the_model_answers_as_the_engine_does(model: Any) -> None:
    x, t = X.numpy(), TIMES.numpy()
    labels = np.array([0, 1, 2, 3])
    requests = [
        Request(["velocity", "route"], {}, x=x[:1], t=t[:1]),
        Request(["velocity", "route"], {}, x=x[1:], t=t[1:], labels=labels[1:]),
        Request(["velocity"], {}, x=x, t=t + 1.0),
        Request(["entropy", "top_indices"], {"top_k": 3}, x=x, t=t),
        Request(["velocity"], {}, x=x[:, :, :2], t=t),
    ]
    first, second, late, posterior, narrow = model.execute(requests)
    assert_close(torch.from_numpy(first.tensors[0].value), ENGINE.velocity(X[:1], TIMES[:1]), "bar")
    assert_close(torch.from_numpy(second.tensors[0].value), ENGINE.velocity(X[1:], TIMES[1:], labels=labels[1:]), "bar")
    assert second.tensors[1].value.tolist() == [b"exact"] * 3
    assert "`t` must lie in [0, 1]" in late.error
    wanted = ENGINE.posterior(X, TIMES, top_k=3)
    assert_close(torch.from_numpy(posterior.tensors[0].value), wanted.entropy, "moment")
    assert posterior.tensors[1].value.tolist() == wanted.top_indices.tolist()
    assert "`x` must have shape [B, 1, 8, 8]" in narrow.error


def test_a_model_that_exists_is_not_replaced(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "digits", "--count", "40"]
    assert_refused(capsys, "which exists", "export-triton", repository, *options, "--name", "digits")
    assert_refused(capsys, "`--max-rows` must be at least 1", "export-triton", repository, *options, "--max-rows", "0")
    assert_refused(capsys, "`--name` must be letters", "export-triton", repository, *options, "--name", "a b")
