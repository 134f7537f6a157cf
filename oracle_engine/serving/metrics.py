"""What models have done, as metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest

from .statistics import STAGES, Statistics


def metrics(statistics: Mapping[str, Statistics]) -> bytes:
    """Return the statistics of models by name in the text format of Prometheus, under the names that Triton gives them.

    https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(statistics))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Collector:
    """What the client of Prometheus asks for the numbers of all models."""

    statistics: Mapping[str, Statistics]

    def describe(self) -> Iterable[Any]:
        """Return nothing: names are not checked beforehand."""
        return []

    def collect(self) -> Iterable[Any]:
        """Yield every metric with the samples of all models."""
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
    """Return the labels and values of one metric of one model."""
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
