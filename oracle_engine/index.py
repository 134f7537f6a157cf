"""What the late route prepares once for a data set, and its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path

import torch

from .answer import Route
from .arrays import Float, Tensor
from .dataset import OracleDataset
from .errors import bad_file, invalid
from .kernels.neighbours import nearest_distances
from .kernels.reach import with_measured_reach
from .kernels.screen import Screen, build_screen, default_widths
from .search import FactorySearch, FlatSearch, ScreenSearch, Search, check_spec
from .storage import read_tensors, write_tensors

# what a saved file says it is
KIND = "oracle-index-1"

# called with what is being done, how much of it is done, and how much there is
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SearchIndex:
    """A screen of a data set and the distances of its samples to their nearest neighbours.

    spec: "screen", "flat", or a FAISS factory string. screen: None for a factory string.
    distances: to the nearest other sample, at least, [N] float32 in row units, or None.
    fingerprint, name: of the data set. scale: values for a unit of its rows.
    """

    spec: str
    fingerprint: str
    name: str
    scale: float
    screen: Screen | None
    distances: Float[Tensor, "N"] | None

    @property
    def route(self) -> Route:
        """The route that answers of this index take."""
        return Route.SCREEN if self.spec == "screen" else Route.FAISS

    @cached_property
    def search(self) -> Search:
        """The search over this index, which keeps what it trains."""
        if self.screen is None:
            return FactorySearch(self.spec)
        return ScreenSearch(self.screen) if self.spec == "screen" else FlatSearch(self.screen)

    def to(self, device: torch.device) -> SearchIndex:
        """Return the index on `device`."""
        screen = None if self.screen is None else self.screen.to(device)
        return replace(self, screen=screen, distances=None if self.distances is None else self.distances.to(device))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the index to one checksummed `.safetensors` file; a failure leaves no file behind."""
        tensors = {} if self.distances is None else {"distances": self.distances}
        names = ("spec", "fingerprint", "name", "scale")
        facts = {name: getattr(self, name) for name in names}
        if self.screen is not None:
            tensors |= {f"features{level}": part for level, part in enumerate(self.screen.features)}
            tensors["basis"] = self.screen.basis
            facts |= {"widths": self.screen.widths, "reach": self.screen.reach}
        write_tensors(Path(path), KIND, tensors, facts)

    @classmethod
    def read(cls, path: str | PathLike[str], *, verify: bool = True) -> SearchIndex:
        """Read what :meth:`save` wrote, for whatever data set. Raises FileNotFoundError, DataFileError if damaged."""
        tensors, facts = read_tensors(Path(path), KIND, verify=verify)
        screen = None
        if "basis" in tensors:
            widths, reach = tuple(facts["widths"]), tuple(tuple(row) for row in facts["reach"])
            features = tuple(tensors[f"features{level}"] for level in range(len(widths)))
            screen = Screen(tensors["basis"], widths, features, reach)
        about = {name: facts[name] for name in ("spec", "fingerprint", "name", "scale")}
        return cls(**about, screen=screen, distances=tensors.get("distances"))

    @classmethod
    def load(cls, path: str | PathLike[str], data: OracleDataset, *, verify: bool = True) -> SearchIndex:
        """Read what :meth:`save` wrote for `data`. Raises DataFileError for another data set or a damaged file."""
        return cls.read(path, verify=verify).of(data, path)

    def of(self, data: OracleDataset, path: str | PathLike[str]) -> SearchIndex:
        """Return the index, read from `path`, on the device of `data`. Raises DataFileError if it is of other data."""
        if self.fingerprint == data.fingerprint:
            return self.to(data.device)
        remedy = "build it again with `oracle-engine index build` or engine.prepare(path=...)"
        raise bad_file(path, f"an index of the data set {data.fingerprint}", f"one of {self.fingerprint}", remedy)


def build_index(
    data: OracleDataset, spec: str = "screen", neighbours: bool = True, progress: Progress | None = None
) -> SearchIndex:
    """Return the index of `data`.

    spec: "screen" (torch), "flat" (FAISS inner product on the same short rows) or a FAISS factory string such as
        "IVF1024,Flat", which cannot certify its answers and is trained on first use.
    neighbours: also bound the distance of every sample to its nearest neighbour, N^2 short products: what lets late
        training queries skip the search.
    Raises InputError where samples are so short that no screen can help and for strings that FAISS does not know,
    MissingDependencyError where FAISS is needed and not installed.
    """
    check_spec(spec, data.dim)
    if spec not in ("screen", "flat"):
        return SearchIndex(spec, data.fingerprint, data.name, data.value_map.scale, None, None)
    widths = default_widths(data.rows)
    if not widths:
        raise invalid(
            "data",
            "must have at least 48 values a sample and a few dozen samples for a screen to help",
            f"{len(data)} samples of {data.dim}",
            "keep mode='exact', which is cheap here",
        )
    screen = build_screen(data.rows, widths, progress=_named("projecting", progress))
    screen = with_measured_reach(data.rows, screen, progress=_named("measuring", progress))
    distances = nearest_distances(data.rows, screen, _named("neighbours", progress)) if neighbours else None
    return SearchIndex(spec, data.fingerprint, data.name, data.value_map.scale, screen, distances)


def _named(what: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
