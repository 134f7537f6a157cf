"""What a model has done: counted once, told in two forms, as statistics of the protocol and as metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..base.arrays import Float64, Tensor

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass
class Statistics:
    """Counts and times of a model, changed on the event loop only.

    requests: answered and refused, by "success" or the status of HTTP. rows: that were answered. scans: calls of the
    engine. nanoseconds: of answered requests, by stage, and in all. routes: rows by the way they took.
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


def metrics(statistics: Mapping[str, Statistics]) -> bytes:
    """Return the statistics of models by name in the text format of Prometheus, under the names that Triton gives them.

    https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
    """
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(statistics))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Collector:
    statistics: Mapping[str, Statistics]

    def describe(self) -> Iterable[Any]:
        return []

    def collect(self) -> Iterable[Any]:
        from prometheus_client import Metric

        # a counter of this client is called _total, which Triton's are not
        for name, words in _WORDS.items():
            metric = Metric(name, words, "unknown")
            for model, held in self.statistics.items():
                for labels, value in _samples(held, name):
                    metric.add_sample(name, {"model": model, "version": "1"} | labels, value)
            yield metric


_WORDS = {
    "nv_inference_request_success": "Requests that were answered",
    "nv_inference_request_failure": "Requests that were refused, by status",
    "nv_inference_count": "Queries that were answered",
    "nv_inference_exec_count": "Scans that answered them",
    "nv_inference_request_duration_us": "Time of answered requests, in microseconds",
    **{f"nv_inference_{stage}_duration_us": f"Time of the stage {stage}, in microseconds" for stage in STAGES},
    "nv_inference_pending_request_count": "Requests that wait",
    "oracle_route_count": "Queries by the route that answered them",
    "oracle_omitted_mass_sum": "Sum of the bounds on omitted posterior mass",
}


def _samples(held: Statistics, name: str) -> Iterable[tuple[dict[str, str], float]]:
    if name == "nv_inference_request_failure":
        return [({"reason": reason}, float(count)) for reason, count in held.requests.items() if reason != "success"]
    if name == "oracle_route_count":
        return [({"route": route}, float(count)) for route, count in held.routes.items()]
    if name.endswith("_duration_us"):
        stage = name.removeprefix("nv_inference_").removesuffix("_duration_us")
        return [({}, held.nanoseconds[stage] / 1000)]
    plain: dict[str, float] = {
        "nv_inference_request_success": held.requests["success"],
        "nv_inference_count": held.rows,
        "nv_inference_exec_count": held.scans,
        "nv_inference_pending_request_count": held.waiting,
        "oracle_omitted_mass_sum": held.omitted,
    }
    return [({}, float(plain[name]))]
