"""A plugin of pytest for Triton's interpreter: it leaves out work of which nothing comes.

A launch replaces the functions of the language once. The interpreter replaces them at every call of a function that a
kernel calls, for milliseconds each, and takes that back when the launch ends.

Whether whole numbers overflow is not computed, since the interpreter drops the assertion about it. What NumPy calls a
type, and what a module sees of the language, is looked up once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

replace_functions = interpreter._patch_lang
launch = interpreter.GridExecutor.__call__
numpy_type = functools.cache(interpreter._get_np_dtype)

# modules of the language whose functions the launch in progress has replaced
replaced: set[int] = set()


@functools.cache
def seen_by(function: Callable[..., Any]) -> frozenset[int]:
    """Return which modules of the language a function sees."""
    return frozenset(id(value) for value in function.__globals__.values() if value is tl or value is tl.core)


def replace_once(function: Callable[..., Any]) -> interpreter._LangPatchScope:
    """Replace the functions that a kernel sees where the launch in progress has not."""
    seen = seen_by(function)
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


def numpy_type_of(value: tl.dtype) -> np.dtype[Any]:
    """Return the type of an element in memory, of which pointers are all alike."""
    element = value.scalar
    return np.dtype(np.uint64) if element.is_ptr() else numpy_type(element)


interpreter._patch_lang = replace_once
interpreter._get_np_dtype = numpy_type_of
interpreter.GridExecutor.__call__ = launch_afresh

options = interpreter.interpreter_builder.options
if not options.debug:
    interpreter.interpreter_builder.options = replace(options, sanitize_overflow=False)
