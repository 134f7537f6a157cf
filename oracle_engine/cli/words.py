"""Errors of the library in the words of the command line: options in place of parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..base.errors import OracleError

# where an error comes from, as a command or the input that it is about, and the parameter that it names; the entry of
# a parameter alone counts everywhere else
Key = tuple[str, str] | str

OPTIONS: Mapping[Key, str] = {
    "source": "--data",
    "data": "--data",
    "engine": "--data",
    "points": "--data",
    "key": "--data-key",
    "folder": "--folder",
    "count": "--count",
    "seed": "--seed",
    "value_map": "--range",
    "size": "--size",
    "gray": "--gray",
    "device": "--device",
    "resident": "--resident",
    "memory": "--memory",
    "backend": "ORACLE_BACKEND",
    "t_max": "--t-max",
    "tolerance": "--tolerance",
    "steps": "--steps",
    "shift": "--shift",
    "guidance": "--guidance",
    "queries": "--queries",
    "per_class": "--per-class",
    "held_out": "--held-out",
    "held_out_labels": "the labels of --held-out",
    ("stages", "precision"): "--precision",
    "layout": "--layout",
    "model": "--model",
    "models": "--model",
    "convention": "--convention",
    "threshold": "--threshold",
    "variance": "--variance",
    "times": "--times",
    "batch": "--batch",
    "width": "--width",
    "references": "--references",
    "bins": "--bins",
    "draws": "--draws",
    "index": "--index",
    ("pack", "workers"): "--workers",
    ("bench", "t"): "--t",
    ("bench", "budget"): "--budget",
    ("plan", "samples"): "--samples",
    ("plan", "dim"): "--dim",
    ("plan", "storage"): "--storage",
    ("plan", "ranks"): "--ranks",
    ("plan", "card"): "--card",
    ("serve", "name"): "--name",
    ("export-triton", "name"): "--name",
    ("export-triton", "repository"): "DIR",
    ("--data", "labels"): "the labels of --data",
    ("IN", "key"): "--key",
    ("IN", "source"): "IN",
    ("IN", "data"): "IN",
    ("IN", "points"): "IN",
    ("IN", "labels"): "the labels of IN",
    ("velocity", "x"): "IN",
    ("velocity", "labels"): "the labels of IN",
    ("sample", "labels"): "--labels",
    ("stages", "labels"): "--labels",
    ("--held-out", "source"): "--held-out",
    ("--also", "source"): "--also",
    ("--also", "data"): "--also",
    ("--also", "points"): "--also",
    ("--also", "labels"): "the labels of --also",
    ("--held-out", "data"): "--held-out",
    ("--held-out", "points"): "--held-out",
    ("--held-out", "labels"): "the labels of --held-out",
    ("sample", "x"): "the run",
    ("job", "folder"): "OUT.d",
    ("job", "x"): "IN",
    ("job", "labels"): "the labels of IN",
    ("job", "workers"): "--workers",
}

# what to do in place of what the library says, where that speaks of Python
REMEDIES: Mapping[Key, str] = {
    "engine": "name data whose samples differ",
    "backend": "unset ORACLE_BACKEND",
    "t": "pass --t from 0 to 1, and --t-max 0.999 to clamp what leaves no noise",
    "t_max": "pass --t-max 0.999, or leave it out to refuse later times",
    "tolerance": "pass --tolerance 1e-4, or leave --index out to scan every sample",
    "shift": "pass --shift 1 for equal steps",
    "guidance": "pass one finite number",
    "times": "pass --times 0.05 0.1 0.2, or leave it out",
    "value_map": "pass two numbers such as -1,1, or leave --range out",
    "flips": "encode that shard again",
    "points": "repair the samples of --data",
    ("bench", "t"): "pass times such as .1,.5,.9",
    ("bench", "tolerance"): "leave it out for 1e-3",
    ("plan", "queries"): "pass --queries 1e6, or leave it out",
    ("build", "data"): "leave the index out: a scan is cheap here",
    ("--data", "labels"): "number the classes from 0, with -1 for samples without one",
    ("velocity", "x"): "make the queries like the samples of --data, finite and floating",
    ("velocity", "labels"): "mend them, or pass --no-labels",
    ("sample", "labels"): "name classes of the data, or -1 for any",
    "per_class": "name data with labels, or leave --per-class out",
    "held_out": "name samples like those of --data",
    "held_out_labels": "give each a class of the data, or leave --per-class out",
    "model": "name a TorchScript or exported file, or package.module:object",
    "models": "check what --model returns",
    "variance": "pass --variance 0.1 for a tenth of CFM's",
    ("stages", "precision"): "pass --precision 0.002 without --held-out, or leave it out",
    ("stages", "labels"): "name classes of labelled data, or leave --labels out",
    ("--also", "points"): "repair the samples of --also",
    ("--held-out", "points"): "repair the samples of --held-out",
    ("IN", "points"): "repair the samples of IN",
    ("sample", "x"): "take a smaller --guidance or more --steps",
    ("job", "x"): "make the queries like the samples of --data, finite and floating",
    ("job", "labels"): "mend them, or pass --no-labels",
    ("job", "guidance"): "pass one finite number, and labels in IN",
}

# a parameter as a remedy writes it, with its value: key='x', key=, t_max=0.999
_PASSED = re.compile(r"\b([a-z_]+)=('[^']*'|[\w.\-]*)")
_LEFT_OUT = re.compile(r"\bleave ([a-z_]+) out\b")


def in_options(error: OracleError, place: str) -> OracleError:
    """Return an error whose message names options in place of parameters.

    error: of the library, or one that names options already, which stays as it is. place: the command, or the input
    that the error is about: "--data" or "IN".
    """
    if error.remedy is None:
        return error
    parameter = error.parameter or ""
    remedy = REMEDIES.get((place, parameter)) or REMEDIES.get(parameter) or _in_words(error.remedy, place)
    return error.about(_option(parameter, place) if parameter else None, remedy)


def _option(parameter: str, place: str) -> str:
    return OPTIONS.get((place, parameter)) or OPTIONS.get(parameter) or parameter


def _in_words(remedy: str, place: str) -> str:
    """Return a remedy with options in place of the parameters that it names."""

    def passed(found: re.Match[str]) -> str:
        """Return "pass NAME=VALUE" as an option, or as it is where NAME is no option."""
        option, value = _option(found[1], place), found[2].strip("'")
        if option == found[1]:
            return found[0]
        return f"{option} {value}".strip() if option.startswith("-") else f"{option}={value}"

    return _LEFT_OUT.sub(lambda found: f"leave {_option(found[1], place)} out", _PASSED.sub(passed, remedy))
