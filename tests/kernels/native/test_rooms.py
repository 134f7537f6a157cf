"""The sources of the native kernels lie in rooms, of which each includes what lies below it and nothing above."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

from oracle_engine.kernels.native import build

# from the lowest up
ROOMS = [
    *("threads", "core", "rescore", "products", "digits", "blocks", "scans"),
    *("differences", "answers", "screens", "search"),
]

SOURCES = {path.relative_to(build.SOURCES): path.read_text("utf-8") for path in build.sources("*.[ch]pp")}
INCLUDES = {file: [Path(name) for name in re.findall(r'#include "(.+)"', text)] for file, text in SOURCES.items()}


def test_every_file_lies_in_a_room() -> None:
    assert {file.parent.as_posix() for file in SOURCES} == set(ROOMS)


def test_files_include_what_lies_below_by_its_room_and_name() -> None:
    missing = [f"{file}: {name}" for file, names in INCLUDES.items() for name in names if name not in SOURCES]
    assert missing == []
    floor = {room: number for number, room in enumerate(ROOMS)}
    up = [
        f"{file}: {name}"
        for file, names in INCLUDES.items()
        for name in names
        if floor[name.parent.as_posix()] > floor[file.parent.as_posix()]
    ]
    assert up == []


def test_no_file_includes_itself_by_way_of_others() -> None:
    # raises CycleError, which names the files
    assert set(TopologicalSorter(INCLUDES).static_order()) == set(SOURCES)
