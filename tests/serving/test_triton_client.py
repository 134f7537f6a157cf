"""Triton's own HTTP client asks in every form that it has, and gets what the engine says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import tritonclient.http as triton
from servers import Server, served, small_engine
from tolerances import assert_close
from torch import Tensor
from tritonclient.utils import InferenceServerException

from oracle_engine import OracleEngine
from oracle_engine.serving import create_app, protocol

GENERATOR = torch.Generator().manual_seed(3)
ENGINE = small_engine(GENERATOR)
X = torch.randn(4, 2, 3, generator=GENERATOR)
TIMES = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, -1])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with served(create_app({"oracle": ENGINE, "other": OracleEngine(ENGINE.data, "gvp")})) as held:
        yield held


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    held = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield held
    held.close()


def asked(name: str, value: Tensor, datatype: str, *, binary: bool = True, columns: bool = False) -> Any:
    array = value.reshape(-1, 1).numpy() if columns else value.numpy()
    held = triton.InferInput(name, list(array.shape), datatype)
    held.set_data_from_numpy(array, binary_data=binary)
    return held


def inputs(*, binary: bool = True, columns: bool = False) -> list[Any]:
    return [
        asked("x", X, "FP32", binary=binary),
        asked("t", TIMES, "FP64", binary=binary, columns=columns),
        asked("labels", LABELS, "INT64", binary=binary, columns=columns),
    ]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("columns", [True, False])
def test_tensors_travel_in_every_form(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool, columns: bool
) -> None:
    names = ("velocity", "score", "log_density", "top_indices", "route")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    answer = client.infer("oracle", inputs(binary=binary_in, columns=columns), outputs=outputs, request_id="seven")
    assert [item["name"] for item in answer.get_response()["outputs"]] == list(names)
    assert answer.get_response()["id"] == "seven"
    assert_close(torch.tensor(answer.as_numpy("velocity")), ENGINE.velocity(X, TIMES, labels=LABELS), "bar")
    assert_close(torch.tensor(answer.as_numpy("score")), ENGINE.score(X, TIMES, labels=LABELS), "bar")
    posterior = ENGINE.posterior(X, TIMES, labels=LABELS)
    assert_close(torch.tensor(answer.as_numpy("log_density")), posterior.log_density, "moment")
    assert answer.as_numpy("top_indices").tolist() == posterior.top_indices.tolist()
    assert [np.asarray(name).item() for name in answer.as_numpy("route")] in (["exact"] * 4, [b"exact"] * 4)


def test_long_answers_in_json_are_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITTEN", 5)
    asked = protocol.Inference("", {}, {}, False, {})
    (text,), length = protocol.answer_body("oracle", asked, {"velocity": X, "ess": TIMES[:0], "route": ("exact",) * 7})
    outputs = [item["data"] for item in json.loads(text)["outputs"]]
    assert outputs == [X.reshape(-1).tolist(), [], ["exact"] * 7]
    assert length is None


def test_no_outputs_means_all_of_them(client: triton.InferenceServerClient) -> None:
    answer = client.infer("oracle", inputs(), parameters={"top_k": 3})
    posterior = ENGINE.posterior(X, TIMES, labels=LABELS, top_k=3)
    described = client.get_model_metadata("oracle")["outputs"]
    assert [item["name"] for item in answer.get_response()["outputs"]] == [item["name"] for item in described]
    for name in ("ess", "entropy", "variance", "top_weights", "omitted_mass", "velocity_error"):
        assert_close(torch.tensor(answer.as_numpy(name)), getattr(posterior, name), "moment")
    assert_close(torch.tensor(answer.as_numpy("denoiser")), posterior.mean, "bar")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_answers_have_the_datatype_of_x(client: triton.InferenceServerClient, dtype: Any) -> None:
    kind = "FP16" if dtype is np.float16 else "FP64"
    x = torch.from_numpy(X.numpy().astype(dtype))
    answer = client.infer("oracle", [asked("x", x, kind), asked("t", TIMES, "FP64")])
    assert answer.as_numpy("velocity").dtype == dtype
    assert_close(torch.tensor(answer.as_numpy("velocity")), ENGINE.velocity(x, TIMES), "moment")


def test_bfloat16_is_understood_although_numpy_lacks_it(client: triton.InferenceServerClient) -> None:
    x = triton.InferInput("x", list(X.shape), "BF16")
    x.set_data_from_numpy(X.numpy().astype(ml_dtypes.bfloat16))
    answer = client.infer("oracle", [x, asked("t", TIMES, "FP64")])
    output = next(item for item in answer.get_response()["outputs"] if item["name"] == "velocity")
    assert output["datatype"] == "BF16"
    found = torch.tensor(answer.as_numpy("velocity").astype(np.float32))
    assert_close(found, ENGINE.velocity(X.bfloat16(), TIMES), "bfloat16 output")


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_may_be_compressed(client: triton.InferenceServerClient, algorithm: str) -> None:
    answer = client.infer("oracle", inputs(), request_compression_algorithm=algorithm)
    assert_close(torch.tensor(answer.as_numpy("velocity")), ENGINE.velocity(X, TIMES, labels=LABELS), "bar")


def test_the_server_and_its_models_describe_themselves(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("other", "1")
    assert not client.is_model_ready("nothing")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("oracle")
    assert metadata["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 2, 3]}
    config = client.get_model_config("other")
    assert config["parameters"]["oracle"]["path"] == "GVP()"
    assert config["parameters"]["oracle"]["classes"] == [0, 1, 2]
    assert [item["name"] for item in client.get_model_repository_index()] == ["oracle", "other"]


def test_statistics_count_rows_and_scans(client: triton.InferenceServerClient) -> None:
    client.infer("other", inputs())
    (held,) = client.get_inference_statistics("other")["model_stats"]
    before = held["inference_count"], held["execution_count"]
    client.infer("other", inputs())
    (held,) = client.get_inference_statistics("other")["model_stats"]
    assert (held["inference_count"], held["execution_count"]) == (before[0] + 4, before[1] + 1)
    assert held["inference_stats"]["compute_infer"]["ns"] > 0


def test_errors_reach_the_client_in_words(client: triton.InferenceServerClient) -> None:
    late = torch.tensor([0.1, 0.4, 0.6, 1.5], dtype=torch.float64)
    with pytest.raises(InferenceServerException, match=r"`t` must lie in \[0, 1\]") as caught:
        client.infer("oracle", [asked("x", X, "FP32"), asked("t", late, "FP64")])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="there is no model 'nothing'"):
        client.infer("nothing", inputs())


def test_guidance_sources_and_excluded_samples_reach_the_engine(client: triton.InferenceServerClient) -> None:
    scale, exclude = torch.tensor([2.0, 1.0, 0.5, 3.0], dtype=torch.float64), torch.tensor([3, -1, 5, 0])
    more = [asked("guidance", scale, "FP64"), asked("exclude", exclude, "INT64")]
    answer = client.infer("oracle", [*inputs(), *more])
    wanted = ENGINE.velocity(X, TIMES, labels=LABELS, guidance=scale, exclude=exclude)
    assert_close(torch.tensor(answer.as_numpy("velocity")), wanted, "bar")
