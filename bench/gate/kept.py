"""The figures of the gate that are kept in a file, and may only improve."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import triton

from oracle_engine.base.errors import bad_file
from oracle_engine.base.files import replacing
from oracle_engine.kernels.gpu.tools.figures import Number

PATH = Path(__file__).parent / "figures.json"

# figures by what they are about, a configuration, a shape or a call, and by their name
Section = dict[str, dict[str, Number]]

# figures that are better where they are larger; all others are better where they are smaller
LARGER = ("programs", "ahead", "flying", "outside", "score", "digits", "dense", "listed")

# figures that say what a kernel is, not how good it is
NEUTRAL = ("code", "ends", "launches")

# registers of a thread, and bytes of shared memory, are given in pieces
PIECES = {"registers": 8, "shared": 1024}


@dataclass
class Kept:
    """What the file holds.

    compiler: the version of Triton that the figures came from. sections: configurations, waves and calls. accepted:
    worse figures that were taken nevertheless, with the reason of each.
    """

    compiler: str
    sections: dict[str, Section]
    accepted: dict[str, str] = field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        """Whether the figures came from the compiler that is installed; others make others."""
        return self.compiler == str(triton.__version__)

    def write(self, path: Path = PATH) -> None:
        """Write the file, a line for what each set of figures is about; it appears complete or not at all."""
        sections = ",\n".join(f"{json.dumps(name)}: {_lines(section)}" for name, section in self.sections.items())
        accepted = json.dumps(self.accepted, indent=1)
        with replacing(path) as partial:
            head = f'{{"compiler": {json.dumps(self.compiler)},\n"sections": '
            partial.write_text(f'{head}{{\n{sections}\n}},\n"accepted": {accepted}}}\n', "utf-8")


def _lines(section: Section) -> str:
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(figures)}" for name, figures in section.items()) + "}"


def read(path: Path = PATH) -> Kept:
    """Return what the file at `path` holds; empty without a file.

    Raises DataFileError where it is damaged.
    """
    if not path.exists():
        return Kept(triton.__version__, {})
    try:
        return Kept(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise bad_file(path, "figures as bench.gate writes them", repr(error), "restore it with git") from None


@dataclass(frozen=True)
class Change:
    """A figure that is not what it was.

    about, name: what it is of, and which. was, now: None where there was none, or is none any more.
    """

    about: str
    name: str
    was: Number | None
    now: Number | None

    @property
    def worse(self) -> bool:
        """Whether it is worse than it was, or gone."""
        if self.was is None or self.name in NEUTRAL:
            return False
        if self.now is None:
            return True
        piece = PIECES.get(self.name, 0)
        was, now = (-(-value // piece) if piece else value for value in (self.was, self.now))
        return now < was if self.name in LARGER else now > was

    def __str__(self) -> str:
        was, now = ("none" if value is None else f"{value:g}" for value in (self.was, self.now))
        return f"{self.about}: {self.name} was {was}, is {now}"


def changes(kept: Section, found: Section) -> list[Change]:
    """Return the figures of `found` that are not those of `kept`, which may be about more."""
    return [
        Change(about, name, was.get(name), now.get(name))
        for about, now in found.items()
        for was in (kept.get(about, {}),)
        for name in dict.fromkeys((*was, *now))
        if was.get(name) != now.get(name)
    ]


def updated(kept: Section, found: Section, *, whole: bool, worse_too: bool) -> Section:
    """Return what is to be kept: figures of `found` that are no worse, or, with `worse_too`, all of them.

    whole: whether everything was counted, so that what is not found is gone.
    """
    held = {change for change in changes(kept, found) if change.worse and not worse_too}
    result = {} if whole else dict(kept)
    for about, figures in found.items():
        old = {change.name: change.was for change in held if change.about == about and change.was is not None}
        result[about] = {**figures, **old}
    return dict(sorted(result.items()))
