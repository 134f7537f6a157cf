"""The folder of a job: what it is, the states of its units, the answers of its blocks, and who works on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..base.arrays import Tensor
from ..base.errors import DataFileError, bad_file, invalid
from ..base.files import read_tensors, replacing, write_tensors
from .claims import Claims
from .spec import Spec, Unit

STATE_KIND, ANSWER_KIND = "oracle-engine-job-state", "oracle-engine-job-answer"

# the claim of whoever begins or ends a job
WHOLE_JOB = 0


class JobFolder:
    """The folder `path` of a job `spec`.

    job.json says what the job is; units/ holds the state of each unit until its block is answered, answers/ those of
    blocks until the job is finished, workers/ what each worker has done. All files are written under another name and
    renamed, with a checksum; those that do not match it are deleted, and what they held is done again.
    """

    def __init__(self, path: Path, spec: Spec) -> None:
        """Open the folder, which is there. Raises InputError where files cannot be locked."""
        self.path, self.spec = path, spec
        self.claims = Claims(path / "claims")

    @classmethod
    def begin(cls, path: Path, spec: Spec) -> JobFolder:
        """Return the folder of a job, which is begun as `spec` where it holds none; what it is may differ from `spec`.

        Raises InputError where the folder holds other things than a job.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        claims = Claims(path / "claims")
        try:
            with claims.hold(WHOLE_JOB, wait=True):
                if not _facts(path).exists():
                    with replacing(_facts(path)) as partial:
                        partial.write_text(json.dumps(spec.facts(), indent=1) + "\n", "utf-8")
        finally:
            claims.close()
        return cls(path, read_spec(path))

    @classmethod
    def open(cls, path: Path) -> JobFolder:
        """Return the folder of a job that was begun. Raises InputError where it holds none."""
        if not _facts(path).is_file():
            raise invalid("folder", "must be that of a job", path, "begin it with `oracle-engine job IN OUT.d`")
        return cls(path, read_spec(path))

    @property
    def result(self) -> Path:
        """The file of all answers, which is there once the job is finished."""
        return self.path / f"{self.spec.what}{self.spec.suffix}"

    def pending(self) -> list[int]:
        """Return the numbers of the blocks without an answer, in rising order; costs a look into a folder."""
        answered = {entry.name for entry in _entries(self.path / "answers")}
        blocks = [block for block in range(self.spec.blocks) if self._answer(block).name not in answered]
        # answers are deleted after the result is there
        return [] if self.result.exists() else blocks

    def is_done(self, unit: Unit) -> bool:
        """Return whether the state of a unit is there, or was needed and is no more."""
        # in this order: each is deleted only when the next one is there
        return self._state(unit).exists() or self._answer(unit.block).exists() or self.result.exists()

    def is_answered(self, block: int) -> bool:
        """Return whether the answer of a block is there, or was needed and is no more."""
        return self._answer(block).exists() or self.result.exists()

    def has_states(self, block: int) -> bool:
        """Return whether the states of all units of a block are there."""
        return all(self._state(unit).exists() for unit in self.spec.units(block))

    def units_done(self) -> int:
        """Return how many units are done; costs a look into two folders."""
        pending = self.pending()
        states = [entry.name for entry in _entries(self.path / "units") if entry.suffix == ".state"]
        open_blocks = {f"{block:08d}" for block in pending}
        done = sum(name.partition("-")[0] in open_blocks for name in states)
        return (self.spec.blocks - len(pending)) * self.spec.shards + done

    def write_state(self, unit: Unit, state: Mapping[str, Tensor]) -> None:
        """Keep the state of a unit. Raises OSError where there is no room."""
        write_tensors(self._state(unit), STATE_KIND, state, self._facts_of(unit.block, unit.shard))

    def states(self, block: int) -> list[dict[str, Tensor]] | None:
        """Return the states of the units of a block in the order of the shards, or None where one is not there."""
        found = [
            self._read(self._state(unit), STATE_KIND, self._facts_of(block, unit.shard))
            for unit in self.spec.units(block)
        ]
        held = [one for one in found if one is not None]
        return held if len(held) == len(found) else None

    def write_answer(self, block: int, answer: Tensor) -> None:
        """Keep the answer of a block, and delete the states of its units. Raises OSError where there is no room."""
        write_tensors(self._answer(block), ANSWER_KIND, {"answer": answer}, self._facts_of(block))
        for unit in self.spec.units(block):
            self._state(unit).unlink(missing_ok=True)

    def answer(self, block: int) -> Tensor | None:
        """Return the answer of a block, memory-mapped, or None where it is not there or was damaged."""
        found = self._read(self._answer(block), ANSWER_KIND, self._facts_of(block))
        return None if found is None else found["answer"]

    def clear(self) -> None:
        """Delete what is no longer needed once the result is there."""
        for name in ("units", "answers", "workers"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def unit_claim(self, unit: Unit) -> int:
        """Return the number of the claim to a unit; that of a unit behind the last shard is the claim to the block."""
        return 1 + unit.block * (self.spec.shards + 1) + unit.shard

    def block_claim(self, block: int) -> int:
        """Return the number of the claim to answer a block."""
        return self.unit_claim(Unit(block, self.spec.shards))

    def _read(self, path: Path, kind: str, facts: Mapping[str, object]) -> dict[str, Tensor] | None:
        """Return the tensors of a file, or None where it is missing or of another job, and is removed then."""
        try:
            tensors, found = read_tensors(path, kind, verify=True)
        except FileNotFoundError:
            return None
        except DataFileError:
            found = {}
        if found == facts:
            return tensors
        path.unlink(missing_ok=True)
        return None

    def _facts_of(self, *numbers: int) -> dict[str, object]:
        return {"job": self.spec.digest, "numbers": list(numbers)}

    def _state(self, unit: Unit) -> Path:
        return self.path / "units" / f"{unit.block:08d}-{unit.shard:04d}.state"

    def _answer(self, block: int) -> Path:
        return self.path / "answers" / f"{block:08d}.answer"


def check_free(path: Path) -> None:
    """Check that a job can be begun or gone on with in the folder `path`; nothing is made there.

    Raises InputError where it is no folder, or holds other things than a job.
    """
    if path.exists() and not path.is_dir():
        raise invalid("folder", "must be a folder", f"the file {path}", "name another")
    others = [entry.name for entry in _entries(path) if entry.name != "claims" and "job.json" not in entry.name]
    if others and not _facts(path).is_file():
        raise invalid("folder", "must be new, empty or that of a job", f"{path} with {others[0]}", "name another")


def read_spec(path: Path) -> Spec:
    """Return what the job of the folder `path` is. Raises DataFileError where that is damaged."""
    try:
        return Spec.of(json.loads(_facts(path).read_text("utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise bad_file(_facts(path), "what a job is", found, "delete the folder and begin anew") from error


def _facts(path: Path) -> Path:
    return path / "job.json"


def _entries(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []
