"""What a model has done: counted once, told as statistics of the protocol here, and as metrics in `metrics`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.arrays import Float64, Tensor

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass
class Statistics:
    """Counts and times of a model, changed on the event loop; `scans` by the worker alone.

    requests: answered and refused, by "success" or the status of HTTP. rows: that were answered. scans: calls of the
    engine. nanoseconds: of answered requests, by stage, and in all as "request"; of refused ones as "failure".
    routes: rows by the way they took.
    omitted: sum of the bounds on omitted mass, of rows where it is known. waiting: requests in the queue.
    last: milliseconds since 1970 of the last answer.
    """

    requests: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    scans: int = 0
    nanoseconds: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    omitted: float = 0.0
    waiting: int = 0
    last: int = 0

    @property
    def failures(self) -> int:
        """Requests that were refused."""
        return sum(count for reason, count in self.requests.items() if reason != "success")

    def failed(self, status: int, taken: int) -> None:
        """Count a request that was refused with `status` after `taken` nanoseconds."""
        self.requests[str(status)] += 1
        self.nanoseconds["failure"] += taken

    def succeeded(self, times: Mapping[str, int], routes: Sequence[str], omitted: Float64[Tensor, "B"]) -> None:
        """Count a request that was answered.

        times: nanoseconds by stage. routes, omitted: of its rows; NaN where omitted mass is not known.
        """
        self.requests["success"] += 1
        self.rows += len(routes)
        self.routes.update(routes)
        self.omitted += float(omitted.nan_to_num(0.0).sum())
        self.last = time.time_ns() // 10**6
        self.nanoseconds.update(times)

    def report(self, name: str) -> dict[str, Any]:
        """Return the entry of the model `name` in the statistics extension of the protocol."""
        count = self.requests["success"]
        stages = {"success": "request", "queue": "queue"} | {stage: stage for stage in STAGES[1:]}
        times = {key: {"count": count, "ns": self.nanoseconds[stage]} for key, stage in stages.items()}
        return {
            "name": name,
            "version": "1",
            "last_inference": self.last,
            "inference_count": self.rows,
            "execution_count": self.scans,
            "inference_stats": times | {"fail": {"count": self.failures, "ns": self.nanoseconds["failure"]}},
            "batch_stats": [],
        }
