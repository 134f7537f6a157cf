"""What `plan` says of a pass, and what it takes: `python -m bench.passes` measures both on small real cases.

Samples lie in shards of a temporary folder and in memory; printed are seconds foretold and measured, and their ratio,
which should lie between a half and two. Calls are early in t, where every block has weight, as forecasts assume.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import oracle_engine as oe
from oracle_engine.data import samples
from oracle_engine.engine.plans.cards import card_named
from oracle_engine.engine.plans.scale_plan import ScaleProblem, plan_scale

# samples, values of each, and queries; shards of the samples, runs of each case, and the time of the queries
CASES = ((60_000, 784, 64), (20_000, 3_072, 64), (20_000, 3_072, 8))
SHARDS, RUNS, TIME = 4, 5, 0.1


def main() -> None:
    """Print the figures of every case, as JSON."""
    # small files stay where they are, as large ones do
    samples.READ_BYTES = 0
    json.dump([case(*sizes) for sizes in CASES], sys.stdout, indent=1)
    print()


def case(count: int, dim: int, batch: int) -> dict[str, Any]:
    """Return seconds that were foretold and measured for samples in files, and for samples in memory."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, dim), dtype=torch.uint8, generator=generator)
    noise = torch.randn(batch, dim, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(pixels.chunk(SHARDS)):
            save_file({"points": part.contiguous()}, Path(folder) / f"shard{number}.safetensors")
        oe.pack(folder)
        data = oe.load_dataset(folder)
        engine = oe.OracleEngine(data, mode="exact")
        x = oe.path_sample("rectified_flow", data[:batch], noise, TIME)
        streams = engine.plan(batch).streams
        assert streams is not None
        files = compared(streams.seconds, engine, x)
    card = card_named("cpu")
    sizes = plan_scale(ScaleProblem(count, dim, "uint8", batch), card, 1)
    resident = oe.OracleEngine(oe.OracleDataset(pixels), mode="exact")
    plan = compared(resident.plan(batch).seconds, resident, x)
    facts = {"samples": count, "dim": dim, "batch": batch}
    return facts | {"files": files, "plan": plan, "sizes": compared(sizes.call, resident, x)}


def compared(foretold: float, engine: oe.OracleEngine, x: torch.Tensor) -> dict[str, float]:
    """Return the seconds foretold, the best of RUNS calls, and the ratio of the two."""
    engine.velocity(x, TIME)
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        engine.velocity(x, TIME)
        seconds.append(time.perf_counter() - began)
    measured = min(seconds)
    return {"foretold": round(foretold, 4), "measured": round(measured, 4), "ratio": round(foretold / measured, 2)}


if __name__ == "__main__":
    main()
