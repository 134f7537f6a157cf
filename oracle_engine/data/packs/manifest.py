"""The manifest of a packed folder: which shards it has, and what preparation found about all of them together."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...base.arrays import Float64, Tensor
from ...base.errors import bad_file
from ...base.files import replacing

MANIFEST_KIND = "oracle-pack-1"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShardRecord:
    """A shard: its file name, the byte at which its samples begin, their number, size and time of the file, checksum.

    modified: nanoseconds since 1970. digest: of the whole content, 32 hexadecimal digits.
    """

    name: str
    start: int
    count: int
    size: int
    modified: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What is known of the shards of a folder together.

    key: which array of the files holds the samples, or None. storage: their dtype. shape: of one sample. centre: of the
    rows, base64 of float32. labelled: whether there are labels. radius, stored_radius, low, high, copies: of all rows.
    shards: none before the first pack has ended.
    """

    key: str | None
    storage: str
    shape: list[int]
    centre: str
    labelled: bool = False
    radius: float = 0.0
    stored_radius: float = 0.0
    low: float = 0.0
    high: float = 0.0
    copies: int = 1
    shards: list[ShardRecord] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the samples."""
        found: torch.dtype = getattr(torch, self.storage)
        return found

    def centre_point(self) -> Float64[Tensor, "D"]:
        """Return the centre of the rows, [D]."""
        numbers = np.frombuffer(base64.b64decode(self.centre), dtype="<f4")
        return torch.from_numpy(numbers.astype(np.float64))

    def write(self, folder: Path) -> None:
        """Write the manifest to `folder`, complete or not at all. Raises OSError."""
        held = asdict(self)
        content = {"kind": MANIFEST_KIND, "checksum": _checksum(held), **held}
        with replacing(folder / MANIFEST) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """Return the manifest of a folder, or None where there is none, or one of another program.

        Raises DataFileError for one that is damaged.
        """
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise _damaged(path, str(error)) from error
        if not isinstance(content, dict) or content.get("kind") != MANIFEST_KIND:
            return None
        held: dict[str, Any] = {one.name: content.get(one.name) for one in fields(cls)}
        if content.get("checksum") != _checksum(held):
            raise _damaged(path, "content of another checksum")
        return cls(**{**held, "shards": [ShardRecord(**shard) for shard in held["shards"]]})


def centre_text(centre: Float64[Tensor, "D"]) -> str:
    """Return a centre, [D], whose numbers are exact in float32, as text."""
    return base64.b64encode(centre.numpy().astype("<f4").tobytes()).decode()


def _damaged(path: Path, found: str) -> Exception:
    remedy = "restore it, or remove it and run `oracle-engine pack` on the folder again"
    return bad_file(path, "the manifest of a packed folder", found, remedy)


def _checksum(held: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(held, sort_keys=True).encode(), digest_size=16).hexdigest()
