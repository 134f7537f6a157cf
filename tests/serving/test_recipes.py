"""What the pages and the notebook show of the server works."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from pretended_actors import engine_on
from ray_cases import cluster
from servers import Server, served

from oracle_engine import OracleEngine, load_dataset
from oracle_engine.engine.on_actors import NAMESPACE
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


@contextmanager
def deployed(section: str, port: int) -> Iterator[tuple[Any, RemoteOracle]]:
    """Yield the module ray and a client of what the blocks of a section deploy, which is ended."""
    with cluster(4) as ray:
        serve = pytest.importorskip("ray.serve")
        try:
            serve.start(http_options={"port": port})
            run(blocks_of(section), port)
            with RemoteOracle(f"http://127.0.0.1:{port}") as oracle:
                yield ray, oracle
        finally:
            serve.shutdown()


def kill_a_replica(ray: Any) -> None:
    """Kill one of the two replicas that serve."""
    replicas = [held for held in ray.util.list_named_actors(True) if "#Oracle#" in held["name"]]
    assert len(replicas) == 2
    ray.kill(ray.get_actor(replicas[0]["name"], namespace=replicas[0]["namespace"]))


@pytest.mark.filterwarnings("ignore")
def test_two_replicas_of_ray_outlive_one() -> None:
    x, engine = torch.zeros(2, 1, 8, 8), OracleEngine(load_dataset("digits"))
    with deployed("Ray Serve", 8456) as (ray, oracle):
        assert torch.equal(oracle.velocity(x, 0.3), engine.velocity(x, 0.3))
        kill_a_replica(ray)
        for _ in range(10):
            assert torch.equal(oracle.velocity(x, 0.3), engine.velocity(x, 0.3))


@pytest.mark.filterwarnings("ignore")
def test_replicas_over_actors_outlive_a_replica_and_an_actor() -> None:
    data, x = load_dataset("digits"), torch.linspace(-1.0, 1.0, 128).reshape(2, 1, 8, 8)
    engine = engine_on(data, 1, data)
    guided: dict[str, Any] = {"labels": torch.tensor([3, 4]), "guidance": 2.0, "exclude": 5}
    with deployed("Ray Serve over shards", 8457) as (ray, oracle):
        assert torch.equal(oracle.velocity(x, 0.3, **guided), engine.velocity(x, 0.3, **guided))
        # known by its number in the data, wherever it is held
        assert torch.equal(oracle.posterior(data[:2], 0.9).top_indices[:, 0], torch.arange(2))
        kill_a_replica(ray)
        for _ in range(10):
            assert torch.equal(oracle.velocity(x, 0.6), engine.velocity(x, 0.6))
        ray.kill(ray.get_actor("digits-1-of-2", namespace=NAMESPACE), no_restart=False)
        assert torch.equal(oracle.velocity(x, 0.6), engine.velocity(x, 0.6))
