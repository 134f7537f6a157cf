from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from oracle_engine.base.errors import InputError
from oracle_engine.base.machine.environment import environment_report, format_report
from oracle_engine.base.machine.settings import Settings, __version__


def test_settings_default_when_nothing_is_set() -> None:
    assert Settings.read({}) == Settings(data=None, block_mb=None, backend="auto")


def test_settings_read_every_variable(tmp_path: Path) -> None:
    environ = {"ORACLE_DATA": str(tmp_path), "ORACLE_BLOCK_MB": " 2.5 ", "ORACLE_BACKEND": "Torch"}
    assert Settings.read(environ) == Settings(data=tmp_path, block_mb=2.5, backend="torch")


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.read({"ORACLE_DATA": "", "ORACLE_BLOCK_MB": " ", "ORACLE_BACKEND": ""}) == Settings()


def test_settings_follow_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACLE_BACKEND", "reference")
    assert Settings.read().backend == "reference"
    monkeypatch.setenv("ORACLE_BACKEND", "triton")
    assert Settings.read().backend == "triton"


@pytest.mark.parametrize(
    ("name", "value", "requirement"),
    [
        ("ORACLE_DATA", "/nowhere/at/all", "must name an existing folder"),
        ("ORACLE_BLOCK_MB", "many", "must be a number above 0"),
        ("ORACLE_BLOCK_MB", "0", "must be a number above 0"),
        ("ORACLE_BLOCK_MB", "-1", "must be a number above 0"),
        ("ORACLE_BLOCK_MB", "inf", "must be a number above 0"),
        ("ORACLE_BLOCK_MB", "nan", "must be a number above 0"),
        ("ORACLE_BACKEND", "cuda", "must be one of auto, native, torch, reference, triton"),
        ("ORACLE_NATIVE", "v9", "must be one of auto, off, v3, v4, amx, aarch64"),
    ],
)
def test_a_bad_variable_is_named_with_its_value_and_a_remedy(name: str, value: str, requirement: str) -> None:
    with pytest.raises(InputError) as caught:
        Settings.read({name: value})
    message = str(caught.value)
    assert message.startswith(f"`{name}` {requirement}; received {value!r}. Remedy: ")
    assert f"unset {name}" in message


def test_report_survives_json() -> None:
    report = environment_report()
    assert json.loads(json.dumps(report)) == report


def test_report_says_what_runs_here() -> None:
    report = environment_report({})
    assert report["version"] == __version__
    assert report["packages"]["torch"] == torch.__version__
    assert report["cpu"]["threads"] == torch.get_num_threads()
    assert len(report["cuda"]["devices"]) == torch.cuda.device_count()
    assert report["settings_error"] is None


def test_report_carries_a_bad_variable_instead_of_raising() -> None:
    report = environment_report({"ORACLE_BACKEND": "cuda"})
    assert report["settings"]["ORACLE_BACKEND"] == "cuda"
    assert "must be one of" in report["settings_error"]
    assert f"error: {report['settings_error']}" in format_report(report)


def test_report_gives_the_pip_line_of_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
        return None if name == "faiss" else importlib.machinery.ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    report = environment_report({})
    # the package is on no index: its own name would install nothing
    line = 'pip install faiss-cpu (or, in a checkout: pip install -e ".[faiss]")'
    assert report["features"]["candidate search"] == {"available": False, "install": line}
    assert report["features"]["figures"] == {"available": True, "install": None}
    assert f"not installed: {line}" in format_report(report)


def test_report_lists_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimpleNamespace(name="Some GPU", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    report = environment_report({})
    assert report["cuda"]["devices"] == [{"name": "Some GPU", "capability": "9.0", "memory_gib": 80.0}]
    assert "Some GPU, capability 9.0, 80.0 GiB" in format_report(report)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_report_needs_nothing_of_the_operating_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(subprocess, "run", absent)
    monkeypatch.delattr(os, "sysconf", raising=False)
    report = environment_report({}, cpu_info=tmp_path / "cpuinfo")
    assert report["cpu"]["model"]
    assert report["memory_gib"] is None
    assert "memory" in format_report(report)


def test_report_needs_no_private_function_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(_is_amx_tile_supported=lambda: True))
    assert environment_report({})["cpu"]["matrix_units"] == ["AMX"]


def test_formatted_values_are_aligned() -> None:
    lines = format_report(environment_report({})).splitlines()
    column = lines[0].index(__version__)
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)
