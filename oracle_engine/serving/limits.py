"""What a server takes at most, and how it says that something is too much."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..base.arrays import is_number
from ..base.errors import invalid

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a server takes at most; every value is positive.

    body: bytes of a request. json: bytes of its JSON, which is parsed at once. memory: bytes of all bodies that have
    not been answered. rows: queries of a request. batch_rows: queries answered together. queue_rows: queries that wait.
    top_k: samples that can be named for a query. requests: requests in work at once. read_seconds: time for a body to
    arrive. answer_seconds: time from there to the answer, for requests that give none themselves.
    Raises InputError for values that are not positive numbers, and for a queue that is shorter than a request.
    """

    body: int = 64 * MIB
    json: int = 8 * MIB
    memory: int = 1024 * MIB
    rows: int = 4096
    batch_rows: int = 1024
    queue_rows: int = 16384
    top_k: int = 1024
    requests: int = 1024
    read_seconds: float = 30.0
    answer_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not is_number(value) or not value > 0:
                raise invalid(f"limits.{field.name}", "must be a positive number", value, "leave it out")
        if self.queue_rows < self.rows:
            raise invalid("limits.queue_rows", f"must hold a request of {self.rows} rows", self.queue_rows, "raise it")


class RefusedError(Exception):
    """A request that is refused for another reason than its content: too large, too many, too late, unknown.

    status: of HTTP. words: what is said, with a remedy.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words
