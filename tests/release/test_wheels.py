"""A release is what it says: a native wheel holds libraries beside the modules, a pure one none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from oracle_engine import __version__
from release.environments import ROOT, FailedError, folder_of_tests, quick_tests, run
from release.wheels import LIBRARIES, libraries

pytest.importorskip("setuptools")

# compiles nothing, and leaves a file where one is asked for
COMPILER = """#!/bin/sh
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then echo library > "$2"; fi; shift; done
"""

BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("source")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in ("oracle_engine", "kernels"):
        skip = shutil.ignore_patterns("__pycache__", "lib", *(["kernels"] if name == "oracle_engine" else []))
        shutil.copytree(ROOT / name, checkout / name, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    name = run([sys.executable, "-c", BUILD, "build_sdist", str(folder)], checkout).split()[-1]
    assert name == f"oracle_velocity_engine-{__version__}.tar.gz"
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder, filter="data")
    return folder / name.removesuffix(".tar.gz")


def built(source: Path, folder: Path, **variables: str) -> Path:
    """Return the wheel that the sources make; what an earlier build left is not looked at."""
    shutil.rmtree(source / "build", ignore_errors=True)
    command = [sys.executable, "-c", BUILD, "build_wheel", str(folder)]
    done = subprocess.run(command, cwd=source, env=os.environ | variables, capture_output=True, text=True, check=True)
    return folder / done.stdout.split()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="native kernels are compiled on Linux")
def test_a_native_wheel_has_libraries_beside_the_modules(source: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    wheel = built(source, tmp_path, CXX=str(compiler))
    assert "-py3-none-linux_" in wheel.name
    assert libraries(wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    # in the place that tools for wheels of a platform look at
    assert {f"{LIBRARIES}liboracle-v3.so", "oracle_engine/kernels/native/build.py", "oracle_engine/py.typed"} <= names
    assert not [name for name in names if ".data/" in name or name.startswith(("tests/", "bench/", "release/"))]


def test_a_pure_wheel_is_for_every_platform(source: Path, tmp_path: Path) -> None:
    wheel = built(source, tmp_path, ORACLE_BUILD="pure")
    assert wheel.name == f"oracle_velocity_engine-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        # the compiler of a later day finds its sources
        assert "oracle_engine/kernels/reference.py" in archive.namelist()


def test_tests_go_where_no_package_is(tmp_path: Path) -> None:
    place = folder_of_tests(tmp_path)
    assert not (place / "oracle_engine").exists()
    assert all((place / name).exists() for name in quick_tests())
    with pytest.raises(FailedError, match="no such thing"):
        run([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)
