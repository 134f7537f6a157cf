"""A plugin of pytest for Triton's interpreter: a launch replaces the functions of the language once.

The interpreter replaces them at every call of a function that a kernel calls, for milliseconds each, and takes that
back when the launch ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

replace_functions = interpreter._patch_lang
launch = interpreter.GridExecutor.__call__

# modules of the language whose functions the launch in progress has replaced
replaced: set[int] = set()


def replace_once(function: Callable[..., Any]) -> interpreter._LangPatchScope:
    """Replace the functions that a kernel sees where the launch in progress has not."""
    seen = {id(value) for value in function.__globals__.values() if value is tl or value is tl.core}
    if seen <= replaced:
        return interpreter._LangPatchScope()
    replaced.update(seen)
    return replace_functions(function)


def launch_afresh(executor: interpreter.GridExecutor, *values: Any, **options: Any) -> None:
    """Launch a kernel, before and after which nothing is replaced."""
    replaced.clear()
    try:
        launch(executor, *values, **options)
    finally:
        replaced.clear()


interpreter._patch_lang = replace_once
interpreter.GridExecutor.__call__ = launch_afresh
