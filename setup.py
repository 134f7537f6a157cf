"""Packaging of oracle-velocity-engine; pyproject.toml holds the build system and the settings of the tools."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path
from typing import Any, ClassVar

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent

NATIVE = "kernels/native"

# ORACLE_BUILD=pure leaves the native kernels out: a wheel for every platform, which the portable kernels serve
PURE = os.environ.get("ORACLE_BUILD") == "pure"


def read_version() -> str:
    """Return the version written in oracle_engine/base/machine/settings.py, as text: importing it would need torch."""
    found = re.search(
        r'^__version__ = "(.+)"$', (ROOT / "oracle_engine/base/machine/settings.py").read_text("utf-8"), re.MULTILINE
    )
    if found is None:
        raise RuntimeError('oracle_engine/base/machine/settings.py has no line __version__ = "..."')
    return found[1]


class BuildNative(Command):  # type: ignore[misc]  # setuptools is not annotated
    """Compile the native kernels, where that is possible, into the package or beside their sources."""

    description = "compile the native kernels"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    editable_mode = False
    build_lib: str | None

    def initialize_options(self) -> None:
        """Start without a folder."""
        self.build_lib = None

    def finalize_options(self) -> None:
        """Take the folder of the build."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Compile; a missing compiler is said and does not stop the installation."""
        builder: dict[str, Any] = runpy.run_path(str(ROOT / NATIVE / "build.py"))
        builder["build_if_possible"](self._folder())

    def get_source_files(self) -> list[str]:
        """Return what a source distribution needs beside the modules of Python."""
        return sorted(str(path.relative_to(ROOT)) for path in (ROOT / NATIVE / "src").rglob("*.[ch]pp"))

    def get_outputs(self) -> list[str]:
        """Return the libraries that were made."""
        return sorted(str(path) for path in self._folder().glob("*.so"))

    def get_output_mapping(self) -> dict[str, str]:
        """Return nothing: an editable installation builds in place."""
        return {}

    def _folder(self) -> Path:
        package = ROOT / NATIVE if self.editable_mode else Path(self.build_lib or "", "oracle_engine", NATIVE)
        return package / "lib"


class Native(Distribution):  # type: ignore[misc]
    """A distribution with libraries of its platform, which belong beside the modules."""

    def has_ext_modules(self) -> bool:
        """Return whether there are libraries; none of them is an extension module of Python."""
        return not PURE


class Build(build):  # type: ignore[misc]
    """The build of setuptools, and that of the native kernels."""

    sub_commands = [  # noqa: RUF012  the interface of setuptools
        *build.sub_commands,
        ("build_native", lambda command: not PURE),
    ]


class Wheel(bdist_wheel):  # type: ignore[misc]
    """A wheel of one platform, or a pure one, for any Python: the libraries know nothing of Python."""

    def finalize_options(self) -> None:
        """Say whether there is more than Python inside."""
        super().finalize_options()
        self.root_is_pure = PURE

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag of a wheel that any Python 3 of this platform, or of any, may use."""
        return "py3", "none", super().get_tag()[2]


OURS = find_packages(include=["oracle_engine*"], exclude=["oracle_engine.kernels*"])
KERNELS = [f"oracle_engine.kernels.{name}" for name in find_packages("kernels")]

CLI = ["rich>=13.7"]
PLOT = ["matplotlib>=3.8"]
FAISS = ["faiss-cpu>=1.8"]
# the kernels are compiled on Linux only; elsewhere the extra is empty and the torch backend answers
TRITON = ["triton>=3.6; platform_system == 'Linux'"]
PICTURES = ["pillow>=10"]
# small libraries of the formats, and the one of parquet
STORES = ["h5py>=3.10", "zarr>=3", "lmdb>=1.4"]
FORMATS = [*PICTURES, *STORES, "pyarrow>=15"]
DEMO = ["scikit-learn>=1.4", *PICTURES, *CLI, *PLOT]
# starlette before 1.0.1 is open to CVE-2026-48710
SERVE = ["starlette>=1.0.1", "uvicorn>=0.30", "prometheus-client>=0.20", "httpx>=0.27"]
SERVE_FAST = ["uvloop>=0.19; platform_system != 'Windows'", "httptools>=0.6"]
RAY = ["ray>=2.40"]
BENCH = ["pytest>=8.2", "pytest-benchmark>=4", "pykeops>=2.2; platform_system != 'Windows'"]
# libraries that the adapters are tested with; flow_matching needs tqdm but does not declare it
PEERS = ["flow_matching>=1.0.10", "torchdiffeq>=0.2.5", "tqdm>=4.60"]
CHECK = ["ruff>=0.6", "mypy>=1.11", "clang-format>=18", "import-linter>=2.7"]
# holds each notebook and its script together
NOTEBOOKS = ["jupytext>=1.16"]
DOCS = ["sphinx>=8", "furo>=2024.8.6", "myst-parser>=4", "sphinx-copybutton>=0.5"]
TEST = [
    "pytest>=8.2",
    "mpmath>=1.3",
    "pytest-xdist>=3.6",
    "pytest-benchmark>=4",
    "hypothesis>=6.100",
    "beartype>=0.18",
    # the server is tested with the client of Triton, which speaks its protocol, exports with its messages
    "tritonclient[http]>=2.50",
    "protobuf>=5",
    *STORES,
    *DEMO,
    *PEERS,
    *SERVE,
    *SERVE_FAST,
]

setup(
    name="oracle-velocity-engine",
    version=read_version(),
    description="Exact oracle velocities of flow-based diffusion models over a whole data set.",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["diffusion", "flow matching", "rectified flow", "posterior mean", "velocity", "pytorch", "triton"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    distclass=Native,
    cmdclass={"build": Build, "build_native": BuildNative, "bdist_wheel": Wheel},
    packages=[*OURS, "oracle_engine.kernels", *KERNELS],
    # in a checkout oracle_engine/kernels is a symlink to kernels/; builds name the folder itself and need no symlink
    package_dir={"oracle_engine.kernels": "kernels"},
    package_data={"oracle_engine": ["py.typed"], "oracle_engine.kernels.gpu": ["tuned/*.json"]},
    include_package_data=False,
    zip_safe=False,
    install_requires=["torch>=2.9", "numpy>=1.26", "safetensors>=0.6", "jaxtyping>=0.2.30"],
    extras_require={
        "faiss": FAISS,
        # installs the same module as faiss-cpu: take one of the two
        "faiss-gpu": ["faiss-gpu-cuvs>=1.10; platform_system == 'Linux'"],
        "triton": TRITON,
        "cli": CLI,
        "plot": PLOT,
        "serve": SERVE,
        "serve-fast": [*SERVE, *SERVE_FAST],
        # jobs and actors on a cluster; not among what the tests need, it is as large as all of that
        "ray": RAY,
        "bench": BENCH,
        "test": TEST,
        "demo": DEMO,
        "pictures": PICTURES,
        "formats": FORMATS,
        "docs": DOCS,
        "dev": [*CHECK, *TEST, *FAISS, *TRITON, *DOCS, *NOTEBOOKS],
    },
    entry_points={"console_scripts": ["oracle-engine = oracle_engine.cli.main:main"]},
)
