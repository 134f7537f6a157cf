"""What stored numbers mean: the affine map from them to values, in words, and ranges that look like pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from ..base.errors import invalid
from .pictures import CHANNELS

# larger denominators are no round numbers that somebody chose
LARGEST_DENOMINATOR = 65_535
# grids with smaller sides are no pictures
SMALLEST_SIDE = 4


@dataclass(frozen=True)
class ValueMap:
    """The affine map from stored numbers to values: value = scale * stored + offset.

    scale: finite and > 0. offset: finite. Raises InputError for others.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (self.scale > 0.0 and self.scale < float("inf") and abs(self.offset) < float("inf")):
            raise invalid(
                "value_map", "must have a positive finite scale and a finite offset", self, "pass ValueMap(2 / 255, -1)"
            )

    @classmethod
    def default(cls, dtype: torch.dtype) -> ValueMap:
        """Return the map that numbers of `dtype` usually have: uint8 to [-1, 1], int8 / 127, floats unchanged."""
        return {torch.uint8: cls(2 / 255, -1.0), torch.int8: cls(1 / 127)}.get(dtype, cls())

    def onto(self, low: int | float, high: int | float) -> ValueMap:
        """Return the map that gives `low` where this one gives -1, and `high` where this one gives 1.

        low, high: finite, low < high. Raises InputError for others.

        >>> import torch
        >>> from oracle_engine import ValueMap
        >>> ValueMap.default(torch.uint8).onto(0, 1).describe(torch.uint8)
        'uint8 -> x/255'
        """
        if not (low < high and high - low < float("inf")):
            requirement = "must be two finite numbers, the lower one first"
            raise invalid("value_map", requirement, (low, high), "pass (-1, 1) or (0, 1)")
        half = 0.5 * (high - low)
        return ValueMap(half * self.scale, half * (self.offset + 1.0) + low)

    def describe(self, dtype: torch.dtype) -> str:
        """Return the map from stored numbers x of `dtype` in words, such as "uint8 -> 2 x/255 - 1"."""
        name = str(dtype).removeprefix("torch.")
        if self == ValueMap():
            return f"{name} as stored"
        offset = "" if self.offset == 0.0 else f" {'-' if self.offset < 0 else '+'} {abs(self.offset):.6g}"
        return f"{name} -> {_times_x(self.scale)}{offset}"


def picture_layout(shape: Sequence[int]) -> str | None:
    """Return how samples of `shape` are shown as images, "HW", "CHW" or "HWC", or None where they are not.

    shape: of one sample. Sides are of 4 and more. Channels come last where there are 1, 3 or 4 of them in the last
    place and another number in the first, as in arrays of TensorFlow, JAX and ADM.
    """
    if len(shape) == 3 and shape[2] in CHANNELS and shape[0] not in CHANNELS and min(shape[:2]) >= SMALLEST_SIDE:
        return "HWC"
    return "CHW"[3 - len(shape) :] if len(shape) in (2, 3) and min(shape[-2:]) >= SMALLEST_SIDE else None


def is_picture(shape: Sequence[int]) -> bool:
    """Return whether samples of `shape` are shown as images, in one of the layouts of :func:`picture_layout`."""
    return picture_layout(shape) is not None


def picture_range(shape: Sequence[int], low: float, high: float) -> tuple[int, int] | None:
    """Return the range, (0, 1) or (0, 255), of floats that look like pictures which no training loop has scaled.

    shape: of one sample. low, high: the smallest and the largest number.
    None where samples are no pictures, where there are negative numbers, or where the range is another.
    """
    if not is_picture(shape) or low < 0.0:
        return None
    if low <= 0.1 and 0.8 <= high <= 1.0:
        return 0, 1
    return (0, 255) if low <= 25.0 and 200.0 <= high <= 255.0 else None


def range_note(shape: Sequence[int], low: float, high: float) -> str | None:
    """Return what to look at where floats look like pictures that nobody scaled to [-1, 1], else None.

    shape: of one sample. low, high: the smallest and the largest number.
    """
    found = picture_range(shape, low, high)
    if found is None:
        return None
    return (
        f"the values look like pictures in [{found[0]}, {found[1]}]; most models are trained on [-1, 1], which "
        "moves the transition (value_map=(-1, 1) in Python, --range -1,1 on the command line)"
    )


def layout_note(shape: Sequence[int]) -> str | None:
    """Return what to look at where the channels of pictures come last, else None; shape: of one sample."""
    if picture_layout(shape) != "HWC":
        return None
    height, width, channels = shape
    return f"pictures [H, W, C] of {height} x {width} with {channels} channels: queries have this layout too"


def float_map(low: float, high: float) -> ValueMap:
    """Return the map onto [-1, 1] of floats that were stored in [0, 1], [-1, 1] or [0, 255].

    low, high: the smallest and the largest number; the first of these ranges that holds both is meant.
    Raises InputError where none does.
    """
    if low >= 0.0 and high <= 1.0:
        return ValueMap(2.0, -1.0)
    if low >= -1.0 and high <= 1.0:
        return ValueMap()
    if low >= 0.0 and high <= 255.0:
        return ValueMap(2 / 255, -1.0)
    requirement = "can be a range where floats are stored in [0, 1], [-1, 1] or [0, 255]"
    remedy = "pass a ValueMap, which maps any numbers"
    raise invalid("value_map", requirement, f"numbers in [{low:.6g}, {high:.6g}]", remedy)


def _times_x(scale: float) -> str:
    """Return scale * x as a fraction of whole numbers where it is one, else as a decimal number."""
    near = Fraction(scale).limit_denominator(LARGEST_DENOMINATOR)
    if near.numerator in range(1, 10) and near.denominator > 1 and abs(float(near) / scale - 1.0) < 1e-12:
        return f"{'' if near.numerator == 1 else f'{near.numerator} '}x/{near.denominator}"
    return "x" if scale == 1.0 else f"{scale:.6g} x"
