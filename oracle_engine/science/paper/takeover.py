"""What figures 5 and 6 share: the ends of runs that a model took over, how near they are to the data, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...base.arrays import Int64, Shaped, Tensor
from ...data.values import is_picture
from ...engine.engine import OracleEngine
from ..memorisation import CopyRate, copy_rate, distance_to, nearest_samples
from .result import Sheet, context_of

# pictures in a row of the sheet
SHOWN = 8


@dataclass(frozen=True)
class Ends:
    """Where K runs ended, and how near that is to the data.

    x: the ends, [K, *shape]. rate: of copies. distance: median root mean square distance a coordinate to the nearest
    sample. ratio: median of this distance over that to the second nearest. nearest: index of the nearest sample, [K].
    """

    x: Shaped[Tensor, "K ..."]
    rate: CopyRate
    distance: float
    ratio: float
    nearest: Int64[Tensor, "K"]

    @classmethod
    def of(cls, engine: OracleEngine, x: Shaped[Tensor, "K ..."], threshold: float, seed: int) -> Ends:
        """Return what is known of the ends `x`. threshold: largest distance ratio of a copy. seed: of its error."""
        found = nearest_samples(engine, x)
        rate = copy_rate(found.ratio, threshold=threshold, seed=seed)
        distance = distance_to(engine, x, found.index[:, 0]) / engine.data.dim**0.5
        return cls(x, rate, float(distance.median()), float(found.ratio.median()), found.index[:, 0])


def ends_sheet(
    engine: OracleEngine, named: Sequence[tuple[str, Tensor]], nearest: Int64[Tensor, "K"] | None = None
) -> Sheet | None:
    """Return rows of pictures, or None for data that are no pictures.

    engine: whose data give the colours. named: samples [K, *shape] by the name of their row. nearest: samples of the
    data by their index, which become the last row.
    """
    if not is_picture(engine.data.sample_shape):
        return None
    rows = [(name, x[:SHOWN].float().cpu()) for name, x in named]
    if nearest is not None:
        rows.append(("nearest sample of the last", engine.data[nearest[:SHOWN]].float().cpu()))
    columns = ("",) * min(SHOWN, *(len(part) for _, part in rows))
    return Sheet(tuple(rows), columns, context_of(engine))
