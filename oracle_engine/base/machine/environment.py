"""A report on the machine and on what is installed, for `oracle-engine info` and bug reports."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, install_words
from .settings import Settings, __version__, _raw_settings

_GIB = 2**30

CPU_INFO = Path("/proc/cpuinfo")

# named as pip names them; the last three install the same module, so no two of them belong together
_DISTRIBUTIONS = (
    "torch",
    "numpy",
    "safetensors",
    "jaxtyping",
    "triton",
    "matplotlib",
    "scikit-learn",
    "rich",
    "faiss-cpu",
    "faiss-gpu",
    "faiss-gpu-cuvs",
)

# what the feature is, the modules it imports and their distributions, the extra that installs them
_FEATURES = (
    ("candidate search", {"faiss": "faiss-cpu"}, "faiss"),
    ("Triton kernels", {"triton": "triton"}, "triton"),
    ("progress bars and tables", {"rich": "rich"}, "cli"),
    ("figures", {"matplotlib": "matplotlib"}, "plot"),
    (
        "server and its client",
        {"starlette": "starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client", "httpx": "httpx"},
        "serve",
    ),
    ("jobs and actors on a cluster", {"ray": "ray"}, "ray"),
    ("pictures", {"PIL": "pillow"}, "pictures"),
    ("HDF5, zarr, parquet, LMDB", {"h5py": "h5py", "zarr": "zarr", "pyarrow": "pyarrow", "lmdb": "lmdb"}, "formats"),
    ("built-in images", {"sklearn": "scikit-learn", "PIL": "pillow"}, "demo"),
)


def environment_report(environ: Mapping[str, str] | None = None, *, cpu_info: Path = CPU_INFO) -> dict[str, Any]:
    """Return the facts about this machine that a bug report needs, as plain values that json can write.

    environ: where the ORACLE_* variables are read; None is the environment of the process. A variable that cannot be
        used is reported under settings_error and does not raise.
    cpu_info: the text file in which Linux lists the processors.

    The keys are version, python, platform, packages, cpu, memory_gib, cuda, settings, settings_error and features.
    Versions come from the metadata of the installed distributions, that of torch from itself: only it is imported.
    """
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        # torch says which build it is, its metadata may not
        "packages": {name: _version(name) for name in _DISTRIBUTIONS} | {"torch": str(torch.__version__)},
        "cpu": _cpu(cpu_info),
        "memory_gib": _memory_gib(),
        "cuda": {"built_for": torch.version.cuda, "devices": _cuda_devices()},
        "settings": _raw_settings(environ),
        "settings_error": _settings_error(environ),
        "features": {name: _feature(modules, extra) for name, modules, extra in _FEATURES},
    }


def format_report(report: Mapping[str, Any]) -> str:
    """Return a report as aligned lines of text, one fact a line.

    report: a mapping with the keys that :func:`environment_report` returns, and perhaps native and streaming: which
        kernels of the CPU serve, and which samples are streamed, in words.
    """
    cpu = report["cpu"]
    rows = [
        ("oracle-velocity-engine", report["version"]),
        ("python", f"{report['python']} on {report['platform']}"),
        *((name, version or "not installed") for name, version in report["packages"].items()),
        ("processor", f"{cpu['model']}, {cpu['cores']} cores, torch uses {cpu['threads']} threads"),
        ("vector units", ", ".join([cpu["capability"], *cpu["matrix_units"]])),
        ("memory", "unknown" if report["memory_gib"] is None else f"{report['memory_gib']} GiB"),
        *([("native kernels", report["native"])] if "native" in report else []),
        *([("streamed samples", report["streaming"])] if "streaming" in report else []),
        *_device_rows(report["cuda"]),
        *((name, value or "not set") for name, value in report["settings"].items()),
        *((name, _feature_line(feature)) for name, feature in report["features"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if report["settings_error"]:
        lines.append(f"error: {report['settings_error']}")
    return "\n".join(lines)


def _settings_error(environ: Mapping[str, str] | None) -> str | None:
    """Return what is wrong with the environment variables, or None."""
    try:
        Settings.read(environ)
    except InputError as error:
        return str(error)
    return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _feature(modules: Mapping[str, str], extra: str) -> dict[str, Any]:
    # find_spec of a top-level name looks for the module and does not import it
    absent = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
    return {"available": not absent, "install": install_words(" ".join(absent), extra) if absent else None}


def _feature_line(feature: Mapping[str, Any]) -> str:
    return "available" if feature["available"] else f"not installed: {feature['install']}"


def _cpu(cpu_info: Path) -> dict[str, Any]:
    """Return the facts about the processor."""
    return {
        "model": _cpu_model(cpu_info),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "matrix_units": _matrix_units(),
    }


def units_of(cpu: Mapping[str, Any]) -> str:
    """Return in one word or two what a processor of a report multiplies by: its vectors, and AMX where it has that."""
    return f"{cpu['capability']} AMX" if "AMX" in cpu["matrix_units"] else str(cpu["capability"])


def _matrix_units() -> list[str]:
    """Return the names of the units for products of matrices that torch finds."""
    # older versions of torch lack some of these functions
    functions = {
        "AVX512-VNNI": "_is_vnni_supported",
        "AVX512-BF16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
        "AMX-FP16": "_is_amx_fp16_supported",
    }
    return [unit for unit, function in functions.items() if getattr(torch.cpu, function, bool)()]


def _cpu_model(cpu_info: Path) -> str:
    """Return the name of the processor, or "unknown"."""
    try:
        if sys.platform == "linux":
            lines = cpu_info.read_text("utf-8", "replace").splitlines()
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, StopIteration, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine() or "unknown"


def memory_bytes() -> int | None:
    """Return the bytes of memory that this machine has, or None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        # Windows has no sysconf
        return None


def _memory_gib() -> float | None:
    found = memory_bytes()
    return None if found is None else round(found / _GIB, 1)


def _cuda_devices() -> list[dict[str, Any]]:
    """Return the facts about each CUDA device."""
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {
            "name": device.name,
            "capability": f"{device.major}.{device.minor}",
            "memory_gib": round(device.total_memory / _GIB, 1),
        }
        for device in devices
    ]


def _device_rows(cuda: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the report about CUDA devices."""
    if not cuda["devices"]:
        built = f"torch is built for CUDA {cuda['built_for']}" if cuda["built_for"] else "torch is built without CUDA"
        return [("CUDA devices", f"none; {built}")]
    return [
        (f"CUDA device {index}", f"{device['name']}, capability {device['capability']}, {device['memory_gib']} GiB")
        for index, device in enumerate(cuda["devices"])
    ]
