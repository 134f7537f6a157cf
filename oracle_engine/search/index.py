"""What the late route prepares once for a data set, and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..base.arrays import Float, Float64, Tensor
from ..base.errors import bad_file, invalid
from ..base.files import read_tensors, write_tensors
from ..base.progress import PartProgress, Progress
from ..data.dataset import OracleDataset
from ..data.prefixes import prefix_fingerprint, prefix_rows
from ..data.sharded import check_here
from ..kernels import LEAST_RADIUS, MOST_RADIUS, Rows
from ..kernels.screens import (
    SCREEN_KINDS,
    CodeScreen,
    DistanceVectors,
    LeadingCodeScreen,
    PrincipalScreen,
    Screen,
    SearchCosts,
    StoredScreen,
    best_screen,
    build_kind,
    extended_distances,
    nearest_distances,
    refusal,
    with_thresholds,
)
from ..queries.answer import Route
from .faiss import FactorySearch, FlatSearch, check_spec
from .search import NoSearch, ScreenSearch, Search

# what a saved file says it is
INDEX_KIND = "oracle-index-6"

# how a screen of each kind is read back
RESTORED: Mapping[str, Callable[..., Screen]] = MappingProxyType(
    {
        "pca": PrincipalScreen.restored,
        "pca8": LeadingCodeScreen.restored,
        "int8": CodeScreen.restored,
        "exact8": StoredScreen.restored,
    }
)


@dataclass(frozen=True)
class Origin:
    """The data set an index is of.

    name, fingerprint: of the data set. count: number of samples. prefix: its prefix fingerprint at `count`, which data
    grown from it have too. scale: values for a unit of its rows.
    """

    name: str
    fingerprint: str
    count: int
    prefix: str
    scale: float

    @classmethod
    def of(cls, data: OracleDataset) -> Origin:
        """Return the origin of an index of `data`. Costs two passes over the samples."""
        count = len(data)
        return cls(data.name, data.fingerprint, count, prefix_fingerprint(data, count), data.value_map.scale)


@dataclass(frozen=True)
class SearchIndex:
    """A screen of a data set and the distances of its samples to their nearest neighbours.

    spec: "screen", a kind of screen, "flat", or a FAISS factory string.
    reason: of the kind of screen, in words.
    origin: the data set.
    centre: of the rows as the screen knows them, [D] float64.
    screen: None for a factory string, and where no screen pays.
    distances: to the nearest other sample, at least, [N] float32 in row units, or None.
    """

    spec: str
    reason: str
    origin: Origin
    centre: Float64[Tensor, "D"]
    screen: Screen | None
    distances: Float[Tensor, "N"] | None

    @property
    def kind(self) -> str:
        """The kind of screen: pca, pca8, int8, exact8, or none."""
        return "none" if self.screen is None else self.screen.kind

    @property
    def screened(self) -> bool:
        """Whether torch searches a screen, or would where one pays."""
        return self.spec in ("screen", *SCREEN_KINDS)

    @property
    def uses_shared_products(self) -> bool:
        """Whether the products of a trajectory narrow its bounds."""
        return self.screened and self.screen is not None and self.screen.uses_shared_products

    @property
    def route(self) -> Route:
        """The route of answers of this index."""
        return Route.SCREEN if self.screened else Route.FAISS

    @cached_property
    def search(self) -> Search:
        """The search over this index, which keeps what it trains."""
        if isinstance(self.screen, PrincipalScreen) and self.spec == "flat":
            return FlatSearch(self.screen)
        if self.screen is not None:
            return ScreenSearch(self.screen)
        return NoSearch(self.reason) if self.screened else FactorySearch(self.spec)

    def asks_nothing(self, rows: Rows) -> bool:
        """Return whether the host waits for nothing while it searches `rows`."""
        return self.search.asks_nothing(rows)

    def to(self, device: torch.device) -> SearchIndex:
        """Return the index on `device`."""
        screen = None if self.screen is None else self.screen.to(device)
        distances = None if self.distances is None else self.distances.to(device)
        return replace(self, centre=self.centre.to(device), screen=screen, distances=distances)

    def extended(
        self, data: OracleDataset, source: str | PathLike[str], progress: PartProgress | None = None
    ) -> SearchIndex:
        """Return the index of data that begin with the samples of this index.

        data: the samples of this index and others behind them. source: the file that this index was read from.
        progress: hears of "projecting", "measuring" and "neighbours".
        Only the other samples are encoded and compared with all. The rows keep the centre of this index.
        Raises DataFileError where the first samples, or their labels, are others, and InputError where their size is
        none that an index can have.
        """
        _check_size(data)
        if not self.begins(data):
            expected = f"an index of the first samples of {data.name!r}"
            found = f"one of {self.origin.count:,} samples that differ from the first of its {len(data):,}"
            raise bad_file(source, expected, found, "build the index of these data anew")
        here = self.to(data.device)
        rows = data.centred_at(here.centre).rows
        kept = prefix_rows(data, self.origin.count)
        screen, distances = here.screen, here.distances
        if screen is not None:
            screen = screen.extended(rows, kept, _named("projecting", progress))
            screen = with_thresholds(rows, screen, progress=_named("measuring", progress)).screen
        if distances is not None:
            vectors = DistanceVectors.of(rows) if screen is None else screen.vectors(rows)
            distances = extended_distances(vectors, distances, kept, _named("neighbours", progress))
        return replace(here, origin=Origin.of(data), screen=screen, distances=distances)

    def begins(self, data: OracleDataset) -> bool:
        """Return whether the first samples of `data` are those of this index; reads them once."""
        count = self.origin.count
        return count <= len(data) and prefix_fingerprint(data, count) == self.origin.prefix

    def save(self, path: str | PathLike[str]) -> None:
        """Write the index to one checksummed `.safetensors` file at `path`; a failure leaves no file behind.

        Raises OSError where the file cannot be written.
        """
        tensors = {"centre": self.centre}
        facts: dict[str, Any] = {"spec": self.spec, "reason": self.reason, "origin": vars(self.origin)}
        if self.distances is not None:
            tensors["distances"] = self.distances
        if self.screen is not None:
            tensors |= self.screen.tensors
            measured = {"thresholds": self.screen.thresholds, "costs": asdict(self.screen.costs)}
            facts["screen"] = {"kind": self.kind, **measured, **self.screen.facts}
        write_tensors(Path(path), INDEX_KIND, tensors, facts)

    @classmethod
    def read(cls, path: str | PathLike[str], *, verify: bool = True) -> SearchIndex:
        """Return the index in the file at `path`, of whatever data set.

        verify: whether to compare the checksum. Raises FileNotFoundError where there is no file, DataFileError for a
        damaged one and for what is no index of this version.
        """
        tensors, facts = read_tensors(Path(path), INDEX_KIND, verify=verify)
        screen, kept = None, facts.get("screen")
        if kept is not None:
            screen = RESTORED[kept["kind"]](tensors, kept, tuple(tuple(row) for row in kept["thresholds"]))
            costs: dict[str, Any] = {
                name: tuple(one) if isinstance(one, list) else one for name, one in kept["costs"].items()
            }
            screen = replace(screen, measured_costs=SearchCosts(**costs))
        origin = Origin(**facts["origin"])
        return cls(facts["spec"], facts["reason"], origin, tensors["centre"], screen, tensors.get("distances"))

    @classmethod
    def load(cls, path: str | PathLike[str], data: OracleDataset, *, verify: bool = True) -> SearchIndex:
        """Return the index in a file on the device of its data.

        path: what :meth:`save` wrote. data: its data set. verify: whether to compare the checksum.
        Raises FileNotFoundError where there is no file, DataFileError for another data set or a damaged file.
        """
        return cls.read(path, verify=verify).of(data, path)

    def of(self, data: OracleDataset, path: str | PathLike[str]) -> SearchIndex:
        """Return the index on the device of its data.

        data: its data set. path: the file it was read from. Raises DataFileError where it is the index of other data,
        and InputError where the samples were changed in place.
        """
        check_here(data, "an index")
        data.check_unchanged()
        if self.origin.fingerprint == data.fingerprint:
            return self.to(data.device)
        remedy = "build it again by `oracle-engine index build`, --append where data grew, or prepare() in Python"
        raise bad_file(
            path, f"an index of the data set {data.fingerprint}", f"one of {self.origin.fingerprint}", remedy
        )


def build_index(
    data: OracleDataset,
    spec: str = "screen",
    *,
    neighbours: bool = True,
    progress: PartProgress | None = None,
    product_cost: float | None = None,
) -> SearchIndex:
    """Return the index of a data set.

    data: what late queries search.
    spec: "screen": the kind that saves most of a scan, measured, or none where none does; a kind by name, "pca"
        (leading coordinates), "pca8" (8-bit codes of them), "int8" (8-bit codes of all coordinates) or "exact8"
        (samples stored in 8 bits, as they are); "flat" (FAISS inner product on the rows of "pca"); or a FAISS factory
        string such as "IVF1024,Flat", which cannot certify its answers and is trained on first use.
    neighbours: whether to bound the distance of every sample to its nearest neighbour, N^2 products: what lets late
        training queries skip the search.
    progress: hears of "projecting", "measuring" and "neighbours".
    product_cost: time of a product with 8-bit rows over that with float32 rows, in (0, 1], or None to time it.
    Raises InputError for a kind that these data cannot have, where samples are so short or few that no screen can help
    or so large or small that float32 cannot square them,
    for strings that FAISS does not know, and where samples were changed in place; MissingDependencyError where FAISS is
    needed and not installed.
    """
    data.check_unchanged()
    check_spec(spec, data.dim)
    _check_size(data)
    if spec not in ("screen", "flat", *SCREEN_KINDS):
        reason = "built by FAISS on its first use"
        return SearchIndex(spec, reason, Origin.of(data), data.rows.centre, screen=None, distances=None)
    kind = "pca" if spec == "flat" else spec
    _check_kind(kind, data)
    if spec == "screen":
        screen, reason = best_screen(data.rows, progress, product_cost=product_cost)
    else:
        screen, reason = build_kind(kind, data.rows, progress, product_cost=product_cost).screen, "asked for"
    vectors = DistanceVectors.of(data.rows) if screen is None else screen.vectors(data.rows)
    distances = nearest_distances(vectors, _named("neighbours", progress)) if neighbours else None
    return SearchIndex(spec, reason, Origin.of(data), data.rows.centre, screen, distances)


def prepared_index(
    data: OracleDataset,
    spec: str,
    path: str | PathLike[str] | None,
    *,
    neighbours: bool = True,
    progress: PartProgress | None = None,
) -> SearchIndex:
    """Return the index of a data set that a file holds, extended where the data grew, or build and save it.

    data: what late queries search. path: the file, or None for none. spec, neighbours, progress: as in
    :func:`build_index`, for an index that has to be built.
    Raises what :func:`build_index` does, and DataFileError for the index of other data.
    """
    check_here(data, "an index")
    if path is not None and Path(path).exists():
        kept = SearchIndex.read(path)
        made = kept.extended(data, path, progress) if kept.origin.count < len(data) else kept.of(data, path)
        if made.origin == kept.origin:
            return made
    else:
        made = build_index(data, spec, neighbours=neighbours, progress=progress)
    if path is not None:
        made.save(path)
    return made


def _check_size(data: OracleDataset) -> None:
    """Raise InputError where the samples differ by what float32, in which an index is, cannot square."""
    rows = data.rows
    # equal samples are at distance zero from their centre: there is nothing to square
    if rows.radius == 0.0 or rows.squares_in_single:
        return
    raise invalid(
        "data",
        f"must be stored within {LEAST_RADIUS:g} .. {MOST_RADIUS:g} of their centre for an index, which is in float32",
        f"samples up to {rows.radius:.3g} from it",
        "divide the stored numbers by it, and multiply the scale of their value_map by it",
    )


def _check_kind(kind: str, data: OracleDataset) -> None:
    """Raise InputError where no index of this kind helps for the data."""
    # samples that are few or short are scanned sooner than any search would take
    why = refusal("pca" if kind == "screen" else kind, data.rows)
    if why is None:
        return
    if kind in ("pca", "screen"):
        raise invalid(
            "data",
            "must have at least 48 values a sample and a few dozen samples for a screen to help",
            f"{len(data)} samples of {data.dim}",
            "keep mode='exact', which is cheap here",
        )
    raise invalid("index", f"{kind!r} {why}", f"{data!r}", "use 'screen', which picks a kind that fits")


def _named(what: str, progress: PartProgress | None) -> Progress | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
