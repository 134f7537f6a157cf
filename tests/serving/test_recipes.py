"""What the pages and the notebook show of the server works."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from servers import Server, served

from oracle_engine import OracleEngine, load_dataset
from oracle_engine.serving import RemoteOracle, create_app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "howto" / "serving.md").read_text("utf-8")
ADDRESS = "127.0.0.1:8000"


@pytest.fixture
def server() -> Iterator[Server]:
    with served(create_app(OracleEngine(load_dataset("digits")))) as held:
        yield held


def run(blocks: list[str], port: int) -> dict[str, object]:
    """Run blocks in one namespace, with the server at `port`."""
    namespace: dict[str, object] = {"__name__": "recipe"}
    try:
        for block in blocks:
            exec(compile(block.replace(ADDRESS, f"127.0.0.1:{port}"), "recipe", "exec"), namespace)
    finally:
        # what shows how to ask does not show how to close
        for held in namespace.values():
            if isinstance(held, RemoteOracle):
                held.close()
    return namespace


def blocks_of(section: str) -> list[str]:
    """Return the Python blocks under a heading of the page."""
    text = PAGE.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_blocks_for_other_tools_run(server: Server) -> None:
    torch.manual_seed(0)
    found = run(blocks_of("From Python"), server.port)
    assert isinstance(found["velocities"], torch.Tensor)
    assert found["velocities"].shape == (16, 1, 8, 8)
    # the pipeline ends on samples of the data
    ends, samples = found["latents"], load_dataset("digits")[:]
    assert isinstance(ends, torch.Tensor)
    assert float(torch.cdist(ends.flatten(1), samples.flatten(1)).amin(1).max()) < 1e-3


def test_the_notebook_runs(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    mpl.use("agg")
    cells = json.loads((ROOT / "examples" / "remote_oracle.ipynb").read_text("utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    run(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"], server.port)
    plt.close("all")
    printed = capsys.readouterr().out
    assert printed.count("samples count") == 4
    assert "`labels` must be" in printed


@pytest.mark.filterwarnings("ignore")
def test_two_replicas_of_ray_outlive_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason='needs pip install "ray[serve]"')
    serve = pytest.importorskip("ray.serve")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    paths = f"{ROOT}:{Path(ray.__file__).parents[1]}"
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    try:
        serve.start(http_options={"port": 8456})
        run(blocks_of("Ray Serve"), 8456)
        x, engine = torch.zeros(2, 1, 8, 8), OracleEngine(load_dataset("digits"))
        with RemoteOracle("http://127.0.0.1:8456") as oracle:
            assert torch.equal(oracle.velocity(x, 0.3), engine.velocity(x, 0.3))
            actors = [held for held in ray.util.list_named_actors(True) if "#Oracle#" in held["name"]]
            assert len(actors) == 2
            ray.kill(ray.get_actor(actors[0]["name"], namespace=actors[0]["namespace"]))
            for _ in range(10):
                assert torch.equal(oracle.velocity(x, 0.3), engine.velocity(x, 0.3))
    finally:
        serve.shutdown()
        ray.shutdown()
