"""Data sets to time: built-in ones, files, made-up ones; each in its own storage or as float32."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from oracle_engine import OracleDataset, load_dataset
from oracle_engine.base.errors import DataFileError
from oracle_engine.compare.record import FLOAT32

DATA = ("fashion-mnist", "fashion-mnist-fp32", "patches", "patches-fp32")

# class-conditional: 1,000 classes of 50 samples of 1,024 values
CLASSES_DATA = ("classes", "classes-fp32")

# further names that --data takes, beside paths
KNOWN = (*DATA, *CLASSES_DATA, "digits", "digits-fp32")


def load_data(name: str, count: int | None = None) -> OracleDataset:
    """Return a data set by its name in KNOWN or its path; synthetic images replace an absent Fashion-MNIST.

    name: with "-fp32" at its end, the same values are stored as float32. count: samples of a built-in set; files and
    made-up sets give all they have.

    Raises DataFileError where another set is absent.
    """
    base = name.removesuffix(FLOAT32)
    if base != name:
        data = load_data(base, count)
        return OracleDataset(data[:], data.labels, name=f"{data.name}{FLOAT32}")
    if base == "classes":
        return OracleDataset(*classes_shaped(), name=base)
    try:
        return load_dataset(base, count=count if base in KNOWN else None)
    except DataFileError:
        if base != "fashion-mnist":
            raise
        return OracleDataset(fashion_shaped(), name="fashion-shaped")


def is_known(name: str) -> bool:
    """Return whether `name` is in KNOWN or the path of a file or folder, with or without "-fp32"."""
    return name in KNOWN or Path(name.removesuffix(FLOAT32)).exists()


def classes_shaped(count: int = 50, classes: int = 1000, dim: int = 1024) -> tuple[Tensor, Tensor]:
    """Return samples [classes * count, dim] uint8 around a centre for each class, seeded, and labels, shuffled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randperm(classes * count, generator=generator) % classes
    images = (30.0 * torch.randn(classes, dim, generator=generator))[labels]
    images += 40.0 * torch.randn(images.shape, generator=generator)
    return images.add_(127.5).clamp_(0, 255).to(torch.uint8), labels


def fashion_shaped(count: int = 60_000, side: int = 28, rank: int = 24, groups: int = 10) -> Tensor:
    """Return synthetic images [count, side, side] uint8 from a seeded mixture of low-rank Gaussians."""
    generator = torch.Generator().manual_seed(0)
    dim = side * side
    centres = 60.0 * torch.randn(groups, dim, generator=generator)
    factors = 80.0 / rank**0.5 * torch.randn(groups, rank, dim, generator=generator)
    parts = [
        centre + torch.randn(count // groups, rank, generator=generator) @ factor
        for centre, factor in zip(centres, factors, strict=True)
    ]
    images = torch.cat(parts)
    images += 4.0 * torch.randn(images.shape, generator=generator)
    return images.add_(127.5).clamp_(0, 255).to(torch.uint8).reshape(-1, side, side)
