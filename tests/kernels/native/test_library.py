"""The library that suits a machine is chosen, or the reason why there is none is said."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from refusals import refused

from oracle_engine.kernels import native_library
from oracle_engine.kernels.native import build, library
from oracle_engine.kernels.native.library import FEATURES, usable_targets

X86 = pytest.mark.skipif("v3" not in build.targets(), reason="versions of x86-64")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORACLE_NATIVE", raising=False)
    monkeypatch.setattr(library, "_chosen", library._chosen.__wrapped__)


def cpu_with(tmp_path: Path, *features: str) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\nflags : fpu {' '.join(features)}\n", "utf-8")
    return path


class Loaded(ctypes.CDLL):
    """A library that loads, with leave to use what it is made of or without."""

    asked: ClassVar[list[str]] = []

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def oracle_permitted(self) -> bool:
        self.asked.append(self.path.name)
        return self.path.read_text("utf-8") == "permitted"


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of libraries, files that say whether they are permitted, where all of x86-64 runs."""
    monkeypatch.setattr(library, "LIBRARIES", tmp_path)
    monkeypatch.setattr(library, "usable_targets", lambda: ["amx", "v4", "v3"])
    monkeypatch.setattr(ctypes, "CDLL", Loaded)
    monkeypatch.setattr(Loaded, "asked", [])
    monkeypatch.setattr(library, "_is_current", lambda loaded: True)
    for name in ("v4", "v3"):
        library.library_path(name).write_text("permitted", "utf-8")
    return tmp_path


def fake_compiler(tmp_path: Path, refused: str) -> str:
    """Return a compiler that knows no option which begins with `refused`, and makes empty files where it knows all.

    A file beside it, `some-compiler.made`, lists their names.
    """
    path = tmp_path / "some-compiler"
    path.write_text(
        "#!/bin/sh\n"
        'for given in "$@"; do\n'
        f'    case "$given" in {refused}*) echo "unknown option $given" >&2; exit 1;; esac\n'
        '    [ "$before" = -o ] && : > "$given" && echo "${given##*/}" >> "$0.made"\n'
        "    before=$given\n"
        "done\n",
        "utf-8",
    )
    path.chmod(0o755)
    return str(path)


@X86
def test_the_best_version_that_a_processor_runs_comes_first(tmp_path: Path) -> None:
    assert usable_targets(cpu_with(tmp_path, *FEATURES["v3"], *FEATURES["amx"])) == ["amx", "v4", "v3"]
    assert usable_targets(cpu_with(tmp_path, *FEATURES["v3"], *FEATURES["v4"])) == ["v4", "v3"]
    assert usable_targets(cpu_with(tmp_path, *FEATURES["v3"])) == ["v3"]
    assert usable_targets(cpu_with(tmp_path)) == []
    assert usable_targets(tmp_path / "nothing") == []


def test_the_version_that_serves_is_named() -> None:
    found = native_library()
    if found.library is not None:
        assert found.reason.startswith(f"native kernels for {found.target} serve the CPU")
        assert found.library.oracle_usable_threads(torch.get_num_threads()) == torch.get_num_threads()


def test_versions_can_be_chosen_or_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in usable_targets():
        monkeypatch.setenv("ORACLE_NATIVE", name)
        assert native_library().target in (name, None)
    monkeypatch.setenv("ORACLE_NATIVE", "off")
    assert native_library() == library.NativeLibrary(None, None, "native kernels are switched off by ORACLE_NATIVE")
    monkeypatch.setenv("ORACLE_NATIVE", "v3")
    monkeypatch.setattr(library, "usable_targets", lambda: ["v9"])
    with refused("`ORACLE_NATIVE` must name kernels that this machine can run; received 'v3'"):
        native_library()


@X86
def test_a_version_without_leave_to_use_the_processor_gives_way(
    monkeypatch: pytest.MonkeyPatch, libraries: Path
) -> None:
    library.library_path("amx").write_text("refused", "utf-8")
    kept_from = "native kernels for amx may not use the matrix units of this processor"
    found = native_library()
    assert (found.target, found.reason) == ("v4", f"native kernels for v4 serve the CPU; {kept_from}")
    monkeypatch.setenv("ORACLE_NATIVE", "amx")
    assert native_library() == library.NativeLibrary(None, None, kept_from)


@X86
def test_leave_is_asked_only_for_the_version_that_is_to_serve(monkeypatch: pytest.MonkeyPatch, libraries: Path) -> None:
    library.library_path("amx").write_text("permitted", "utf-8")
    assert native_library().target == "amx"
    monkeypatch.setenv("ORACLE_NATIVE", "v4")
    found = native_library()
    assert (found.target, found.reason) == ("v4", "native kernels for v4 serve the CPU")
    assert Loaded.asked == ["liboracle-amx.so", "liboracle-v4.so"]


@X86
def test_a_version_that_was_left_out_gives_way(monkeypatch: pytest.MonkeyPatch, libraries: Path) -> None:
    (libraries / build.LEFT_OUT).write_text(json.dumps({"amx": "g++ failed: unknown option\nmore of it"}), "utf-8")
    left_out = "native kernels for amx were left out: g++ failed: unknown option"
    found = native_library()
    assert (found.target, found.reason) == ("v4", f"native kernels for v4 serve the CPU; {left_out}")
    monkeypatch.setenv("ORACLE_NATIVE", "amx")
    assert native_library() == library.NativeLibrary(None, None, left_out)
    # nothing is there
    monkeypatch.delenv("ORACLE_NATIVE")
    for name in ("v4", "v3"):
        library.library_path(name).unlink()
    assert native_library().reason == "native kernels were not built; run: make native"


@pytest.mark.parametrize(
    ("usable", "failure", "why"),
    [
        ([], None, "need AVX2, which this processor lacks"),
        (["v3"], "no C++ compiler was found, of g++", "were not built: no C++ compiler was found, of g++"),
        (["v3"], None, "were not built; run: make native"),
    ],
)
@X86
def test_why_there_is_no_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usable: list[str], failure: str | None, why: str
) -> None:
    monkeypatch.setattr(library, "LIBRARIES", tmp_path)
    monkeypatch.setattr(library, "usable_targets", lambda: usable)
    if failure is not None:
        (tmp_path / build.FAILURE).write_text(f"{failure}\nmore of it\n", "utf-8")
    assert native_library() == library.NativeLibrary(None, None, f"native kernels {why}")


@pytest.mark.skipif(native_library().library is None, reason=native_library().reason)
def test_a_library_of_other_sources_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "sources_digest", lambda: "another")
    reason = "native kernels are of other sources than these; run: make native"
    assert native_library() == library.NativeLibrary(None, None, reason)


def test_a_damaged_library_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "LIBRARIES", tmp_path)
    monkeypatch.setattr(library, "usable_targets", lambda: ["v3"])
    library.library_path("v3").write_bytes(b"no library")
    found = native_library()
    assert found.library is None
    assert found.reason.startswith("native kernels could not be loaded: ")


@pytest.mark.skipif(not build.targets(), reason="there is nothing to build")
def test_an_installation_without_a_compiler_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.build_if_possible(tmp_path) == []
    assert "no C++ compiler was found, of no-such-compiler" in (tmp_path / build.FAILURE).read_text("utf-8")
    assert "the portable ones serve" in capfd.readouterr().err
    # one that is there and fails
    monkeypatch.setenv("CXX", "false")
    assert build.build_if_possible(tmp_path) == []
    assert (tmp_path / build.FAILURE).read_text("utf-8").startswith("false failed: ")


@pytest.mark.skipif(not build.targets(), reason="there is nothing to build")
def test_libraries_of_the_same_sources_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    made = [tmp_path / f"liboracle-{target}.so" for target in build.targets()]
    for path in made:
        path.write_bytes(b"some code" + build.sources_digest().encode() + b"more of it")
    assert build.ensure_built(tmp_path) == made
    made[-1].write_bytes(b"of other sources")
    with pytest.raises(build.BuildError, match="no-such-compiler"):
        build.ensure_built(tmp_path)


@X86
def test_a_target_that_the_compiler_does_not_know_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "liboracle-amx.so").write_bytes(b"of other sources")
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "-mamx"))
    made = [folder / f"liboracle-{target}.so" for target in ("v4", "v3")]
    assert build.build_if_possible(folder) == made
    assert sorted(folder.glob("*.so")) == sorted(made)
    why = "some-compiler failed: unknown option -mamx-tile"
    assert build.left_out(folder) == {"amx": why}
    assert f"native kernels for amx are left out: {why}" in capfd.readouterr().err
    # they are kept as long as they are of the same sources
    for path in made:
        path.write_bytes(build.sources_digest().encode())
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.ensure_built(folder) == made
    # and a compiler that knows all makes all
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "-no-such"))
    assert len(build.build(folder, build.OPTIMISED)) == len(build.targets())
    assert build.left_out(folder) == {}


@X86
def test_what_targets_have_in_common_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "-no-such"))
    made = tmp_path / "some-compiler.made"

    def objects(*names: str) -> set[str]:
        build.build(tmp_path / "lib", build.OPTIMISED, names)
        found = {name for name in made.read_text("utf-8").split() if name.endswith(".o") and name != "probe.o"}
        made.unlink()
        return found

    some = objects("amx", "v4")
    assert {"v4-screens-screens.o", "v4-scans-segments.o", "amx-scans-segments.o", "amx-core-machine.o"} <= some
    assert "amx-screens-screens.o" not in some
    # compiled with the other one
    assert "v4-scans-scan.o" not in some
    # without one to take them from
    assert "amx-screens-screens.o" in objects("amx")


@X86
def test_sources_that_read_those_of_matrix_units_are_compiled_for_them() -> None:
    asking = {path for path in build.sources("*.cpp") if build._maker("amx", (path,), ["amx", "v4"]) == "amx"}
    assert build.SOURCES / "core" / "machine.cpp" in asking
    assert build.SOURCES / "scans" / "scan.cpp" in asking
    for path in set(build.sources("*.cpp")) - asking:
        assert build.SOURCES / "core" / "matrix_units.hpp" not in build._read_by((path,))
