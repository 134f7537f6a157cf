"""What is kept about a shard in a small file beside it: norms, labels, projections, and checksums of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...base.arrays import Float64, Int64, Tensor
from ...base.errors import DataFileError, bad_file
from ...base.files import hash_tensors, read_some, write_tensors
from ...base.outside.blocks import blocks
from ...base.outside.parts import FilePart
from ...base.outside.rows import BLOCK_BYTES, OutsideRows
from ...kernels import Measures, native_measured, random_directions
from ..samples import Samples

SIDE_KIND = "oracle-pack-shard-1"
SIDE_SUFFIX = ".pack"

# bytes of the samples that have a checksum of their own, at least a row
CHECKED_BYTES = 32 << 10
# bytes of a checksum
SUM_BYTES = 16

_REMEDY = "run `oracle-engine pack` on the folder again"


@dataclass(frozen=True, eq=False)
class ShardSide:
    """What is kept about the samples of a shard, in their order there.

    part: the samples in the file. labels: [n] integers, or None. measures: of the samples. sums: a checksum for each
    CHECKED_BYTES of the samples, [k, 16] uint8. frame: that of all other bytes of the file. centre: a checksum of the
    centre that the measures are about.
    """

    part: FilePart
    labels: Int64[Tensor, "n"] | None
    measures: Measures
    sums: Tensor
    frame: str
    centre: str

    @property
    def digest(self) -> str:
        """A checksum of the whole content, 32 hexadecimal digits."""
        return hash_tensors(self.frame, [self.sums])

    def write(self) -> None:
        """Write the file beside the shard, complete or not at all. Raises OSError."""
        measures, labels = self.measures, self.labels
        tensors = {"half_norms": measures.half_norms, "projected": measures.projected.float()}
        tensors |= {"total": measures.total, "sums": self.sums}
        if labels is not None:
            tensors["labels"] = labels.int() if int(labels.max()) < 2**31 else labels
        facts = {
            "start": self.part.start,
            "count": self.part.count,
            "size": self.part.stamp[2],
            "modified": self.part.stamp[3],
            "frame": self.frame,
            "centre": self.centre,
            "largest_square": measures.largest_square,
            "low": measures.low,
            "high": measures.high,
            "tensors": {name: hash_tensors(name, [tensor]) for name, tensor in tensors.items()},
        }
        write_tensors(side_path(self.part.path), SIDE_KIND, tensors, facts)

    @classmethod
    def read(cls, part: FilePart, *, whole: bool) -> ShardSide:
        """Return what is kept about the shard that `part` is, whose size and time it must agree with.

        whole: whether to read the projections, too, without which the measures have none: they tell copies of samples
        apart, and no answer needs them. Raises DataFileError where there is no such file, or a damaged one, or where
        the shard is another.
        """
        path = side_path(part.path)
        try:
            tensors, facts = read_some(path, SIDE_KIND, () if whole else ("projected",))
        except FileNotFoundError as error:
            raise bad_file(path, "what is kept about the shard beside it", "no file", _REMEDY) from error
        found = [facts["start"], facts["count"], facts["size"], facts["modified"]]
        if found != [part.start, part.count, *part.stamp[2:]]:
            raise bad_file(part.path, "the shard that was packed", "one that was changed or replaced since", _REMEDY)
        for name, tensor in tensors.items():
            if hash_tensors(name, [tensor]) != facts["tensors"][name]:
                raise bad_file(path, f"the checksum of {name}", "other content", f"remove it, and {_REMEDY}")
        largest, low, high = (facts[name] for name in ("largest_square", "low", "high"))
        projected = tensors.get("projected", torch.empty(0, 4))
        measures = Measures(tensors["half_norms"], projected, tensors["total"], largest, low, high)
        labels = tensors["labels"].long() if "labels" in tensors else None
        return cls(part, labels, measures, tensors["sums"], facts["frame"], facts["centre"])


def side_path(shard: Path) -> Path:
    """Return the path of the small file beside a shard."""
    return shard.with_name(f"{shard.name}{SIDE_SUFFIX}")


def centre_sum(centre: Float64[Tensor, "D"]) -> str:
    """Return the checksum of a centre, 32 hexadecimal digits."""
    return hash_tensors("centre", [centre])


def measured_side(shard: Samples, part: FilePart, centre: Float64[Tensor, "D"]) -> ShardSide:
    """Return what is to be kept about a shard. Reads its file once.

    shard: the samples. part: where they lie. centre: what they are measured about, [D].

    Raises DataFileError that names the file and the first sample with a NaN or an infinity.
    """
    rows, directions = rows_of(shard, part), random_directions(len(centre), centre.device)
    half_norms = torch.empty(len(rows), dtype=torch.float64)
    projected, whole, sums = torch.empty(len(rows), directions.shape[1]), None, []
    for block in blocks(rows, block_bytes=_block_bytes(rows)):
        found = native_measured(block.values, centre, directions)
        if not bool(found.half_norms.isfinite().all()):
            bad = int(block.index[int((~found.half_norms.isfinite()).nonzero()[0])])
            raise not_finite(part, bad)
        half_norms[block.index], projected[block.index] = found.half_norms, found.projected.float()
        whole = found.and_more(whole)
        sums.append(_sums(block.values))
    assert whole is not None
    measures = Measures(half_norms, projected, whole.total, whole.largest_square, whole.low, whole.high)
    return ShardSide(part, shard.labels, measures, torch.cat(sums), frame_of(part, rows), centre_sum(centre))


def not_finite(part: FilePart, sample: int) -> DataFileError:
    """Return the error about a sample of a shard that is not finite, which the caller raises."""
    words = f"a NaN, an infinity or a number without a square in sample {sample} of this file"
    return bad_file(part.path, "finite numbers that can be squared", words, "remove or repair these samples")


def rows_of(shard: Samples, part: FilePart) -> OutsideRows:
    """Return the samples of a shard, which lie at `part`, as rows that stay in its file, [n, D]."""
    return OutsideRows.of([part], shard.points.dtype, [shard.points[0].numel()])


def frame_of(part: FilePart, rows: OutsideRows) -> str:
    """Return the checksum of the bytes of a file before and after its samples."""
    found = hashlib.blake2b(digest_size=SUM_BYTES)
    with part.path.open("rb") as stream:
        found.update(stream.read(part.start))
        stream.seek(part.start + rows.nbytes)
        for content in iter(lambda: stream.read(1 << 20), b""):
            found.update(content)
    return found.hexdigest()


def check_content(side: ShardSide, rows: OutsideRows) -> None:
    """Compare the whole content of a shard with its checksums. Reads its file once.

    side: what is kept about it. rows: its samples. Raises DataFileError that names the file and the samples.
    """
    size, path = _checked_rows(rows), side.part.path
    for block in blocks(rows, block_bytes=_block_bytes(rows)):
        start = int(block.index[0])
        differs = (_sums(block.values) != _part(side.sums, start // size, len(block.index), size)).any(1).nonzero()
        if len(differs):
            first = start + int(differs[0]) * size
            words = f"other numbers among the samples {first} to {min(first + size, len(rows)) - 1}"
            raise bad_file(path, "the content that was packed", words, _RESTORE.format(side_path(path).name))
    if frame_of(side.part, rows) != side.frame:
        words = "other bytes before or after the samples"
        raise bad_file(path, "the content that was packed", words, _RESTORE.format(side_path(path).name))


_RESTORE = "restore the file, or remove {} beside it and pack the folder again where the change is meant"


def changed_since(part: FilePart) -> DataFileError:
    """Return the error about a shard whose content is not what was packed, which the caller raises."""
    remedy = _RESTORE.format(side_path(part.path).name)
    return bad_file(part.path, "the content that was packed", "other content", remedy)


def check_sample(side: ShardSide, rows: OutsideRows) -> None:
    """Compare one part of a shard, in its middle, with its checksum: reads CHECKED_BYTES.

    side: what is kept about it. rows: its samples. Raises DataFileError that names the file.
    """
    size, number = _checked_rows(rows), len(side.sums) // 2
    some = rows.at_places(torch.arange(number * size, min((number + 1) * size, len(rows))))
    if not torch.equal(_sums(some), side.sums[number : number + 1]):
        raise changed_since(side.part)


def _checked_rows(rows: Tensor) -> int:
    return max(1, CHECKED_BYTES // (rows.shape[1] * rows.itemsize))


def _block_bytes(rows: OutsideRows) -> int | None:
    """Return the bytes of a block that ends where a checksum does, about as many as blocks have anyway."""
    size = _checked_rows(rows) * rows.shape[1] * rows.itemsize
    return max(1, BLOCK_BYTES // size) * size


def _part(sums: Tensor, start: int, count: int, size: int) -> Tensor:
    return sums[start : start + -(-count // size)]


def _sums(values: Tensor) -> Tensor:
    """Return the checksums of samples, one for each CHECKED_BYTES, [k, 16] uint8."""
    return torch.stack([torch.frombuffer(bytearray(found), dtype=torch.uint8) for found in _each_sum(values)])


def _each_sum(values: Tensor) -> Iterator[bytes]:
    content = values.contiguous().reshape(-1).view(torch.uint8).numpy().data
    size = _checked_rows(values) * values.shape[1] * values.itemsize
    for start in range(0, len(content), size):
        yield hashlib.blake2b(content[start : start + size], digest_size=SUM_BYTES).digest()
