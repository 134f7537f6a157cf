"""Folders and archives of small pictures, and the array that they stand for."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

COUNT, CLASSES = 12, 3


def pixels(count: int = COUNT, channels: int = 3, side: int = 8) -> np.ndarray:
    """Return pictures [count, channels, side, side], uint8."""
    return np.random.default_rng(4).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def encoded(picture: np.ndarray, kind: str = "PNG") -> bytes:
    """Return a picture [C, H, W] as the bytes of a file; WebP and PNG lose nothing."""
    image = Image.fromarray(picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0)))
    stream = io.BytesIO()
    image.save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def by_class(array: np.ndarray) -> tuple[list[tuple[str, bytes]], np.ndarray]:
    """Return the names, in order, and the bytes of pictures in folders of classes, and their labels."""
    labels = np.arange(len(array)) * CLASSES // len(array)
    kinds = ("PNG", "WEBP")
    named = [
        (f"class{labels[number]}/{number:03d}.{kinds[number % 2].lower()}", encoded(picture, kinds[number % 2]))
        for number, picture in enumerate(array)
    ]
    return named, labels


def write_folder(folder: Path, named: list[tuple[str, bytes]]) -> Path:
    for name, content in named:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, named: list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in reversed(named):
            archive.writestr(f"photos/{name}", content)
    return path


def write_tar(path: Path, named: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in named:
            part = tarfile.TarInfo(name)
            part.size = len(content)
            archive.addfile(part, io.BytesIO(content))
    return path
