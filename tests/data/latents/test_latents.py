"""Latents are read as training projects write them, and the name of the data set states their normalisation."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tolerances import assert_close

from oracle_engine import DataFileError, InputError, OracleDataset, OracleEngine, load_dataset
from oracle_engine.data.latents.files import latent_format, read_latents
from oracle_engine.data.latents.latents import Normalisation, load_latents

SHAPE = (3, 4, 4)


def save_lightningdit(folder: Path, generator: torch.Generator, sizes: tuple[int, ...] = (5, 4)) -> torch.Tensor:
    """Write shards and statistics; return all latents, then all mirrored ones."""
    latents, flips = torch.randn(2, sum(sizes), *SHAPE, generator=generator)
    labels, start = torch.arange(sum(sizes)) % 3, 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        shard = {"latents": latents[part], "latents_flip": flips[part], "labels": labels[part]}
        name = f"latents_rank00_shard{number:03d}.safetensors"
        save_file({key: value.contiguous() for key, value in shard.items()}, folder / name)
        start += size
    return torch.cat([latents, flips])


def save_stats(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.5, 2.0, 4.0])
    torch.save({"mean": mean[None, :, None, None], "std": std[None, :, None, None]}, folder / "latents_stats.pt")
    return mean, std


def save_mean_std(folder: Path, generator: torch.Generator, width: float = 0.25) -> torch.Tensor:
    """Write five images in two folders and dataset.json, in an order of its own; return the means in that order."""
    means, listed = torch.randn(5, *SHAPE, generator=generator), []
    for number in (3, 0, 4, 1, 2):
        file = folder / f"0000{number // 3}" / f"img-mean-std-{number:08d}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, torch.cat([means[number], torch.full(SHAPE, width)]).numpy())
        listed.append([file.relative_to(folder).as_posix(), number % 2])
    (folder / "dataset.json").write_text(json.dumps({"labels": listed}))
    return means[[3, 0, 4, 1, 2]]


def save_zip(folder: Path, generator: torch.Generator) -> tuple[Path, torch.Tensor]:
    means = save_mean_std(folder / "unpacked", generator)
    with zipfile.ZipFile(folder / "latents.zip", "w") as archive:
        for file in sorted((folder / "unpacked").rglob("*")):
            archive.write(file, file.relative_to(folder / "unpacked").as_posix())
    return folder / "latents.zip", means


def save_fast_dit(folder: Path, generator: torch.Generator) -> torch.Tensor:
    """Write twelve pairs, so that 10 comes before 2 in the order of names."""
    points = torch.randn(12, *SHAPE, generator=generator)
    for kind in ("features", "labels"):
        (folder / f"imagenet256_{kind}").mkdir()
    for number in range(12):
        np.save(folder / f"imagenet256_features/{number}.npy", points[number : number + 1].numpy())
        np.save(folder / f"imagenet256_labels/{number}.npy", np.array([number % 5]))
    return points


def labels_of(data: OracleDataset) -> list[int]:
    assert data.labels is not None
    return data.labels.tolist()


def test_lightningdit_shards_with_flips_and_without(tmp_path: Path, generator: torch.Generator) -> None:
    points = save_lightningdit(tmp_path, generator)
    assert latent_format(tmp_path) == "lightningdit"
    both = load_latents(tmp_path, None)
    assert torch.equal(both[:], points)
    assert labels_of(both) == [0, 1, 2] * 6
    one = load_latents(tmp_path, None, flips=False)
    assert torch.equal(one[:], points[:9])
    assert labels_of(one) == [0, 1, 2] * 3
    shard = next(tmp_path.glob("*000.safetensors"))
    assert torch.equal(load_latents(shard, None, flips=False)[:], points[:5])


def test_one_shard_stays_in_the_file(tmp_path: Path, generator: torch.Generator) -> None:
    save_lightningdit(tmp_path, generator, sizes=(6,))
    read = read_latents(tmp_path, flips=False)
    assert read.points.shape == (6, *SHAPE)
    assert read.flips is False
    assert read_latents(tmp_path).flips is True


def test_statistics_of_the_channels_are_applied_and_named(tmp_path: Path, generator: torch.Generator) -> None:
    points, (mean, std) = save_lightningdit(tmp_path, generator), save_stats(tmp_path)
    data = load_latents(tmp_path, "stats")
    expected = (points.double() - mean[:, None, None]) / std[:, None, None]
    assert_close(data[:], expected, "float32 output")
    assert data.storage == torch.float32
    assert "per channel, mean -0.2..0.3, std 0.5..4" in data.name
    scaled = load_latents(tmp_path, Normalisation(mean, std, multiplier=2.0), storage=torch.float16)
    assert scaled.storage == torch.float16
    assert_close(scaled[:], 2 * expected, "float16 output")
    data.save(tmp_path / "prepared.safetensors")
    assert load_dataset(tmp_path / "prepared.safetensors").name == data.name


def test_one_scale_is_a_value_map_and_leaves_the_numbers(tmp_path: Path, generator: torch.Generator) -> None:
    points = save_fast_dit(tmp_path, generator)
    data = load_latents(tmp_path, Normalisation(0.5, 2.0, 0.18215))
    assert torch.equal(data.rows.stored[data.row_of(torch.arange(12))].reshape(points.shape), points)
    assert_close(data[:], (points.double() - 0.5) / 2.0 * 0.18215, "float32 output")
    assert "(x - 0.5) / 2 * 0.18215" in data.name
    assert load_latents(tmp_path, None).name.endswith(": as stored")
    assert load_latents(tmp_path, None, storage=torch.float16).storage == torch.float16


def test_what_the_normalisation_decides(tmp_path: Path, generator: torch.Generator) -> None:
    save_fast_dit(tmp_path, generator)
    raw, scaled = (load_latents(tmp_path, Normalisation(multiplier=factor)) for factor in (1.0, 0.18215))
    assert scaled.variance_per_dim == pytest.approx(0.18215**2 * raw.variance_per_dim)
    x = torch.zeros(1, *SHAPE)
    assert OracleEngine(scaled).posterior(x, 0.5).ess > OracleEngine(raw).posterior(x, 0.5).ess


def test_fast_dit_pairs_in_the_order_of_their_numbers(tmp_path: Path, generator: torch.Generator) -> None:
    points = save_fast_dit(tmp_path, generator)
    assert latent_format(tmp_path) == "fast-dit"
    data = load_latents(tmp_path, None)
    assert torch.equal(data[:], points)
    assert labels_of(data) == [number % 5 for number in range(12)]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_means_are_taken_in_the_order_of_dataset_json(kind: str, tmp_path: Path, generator: torch.Generator) -> None:
    if kind == "folder":
        path, means = tmp_path, save_mean_std(tmp_path, generator)
    else:
        path, means = save_zip(tmp_path, generator)
    assert latent_format(path) == "mean-std"
    read = read_latents(path)
    assert torch.equal(read.points, means)
    assert read.labels is not None
    assert read.labels.tolist() == [1, 0, 0, 1, 0]
    assert read.point_std == pytest.approx(0.25)
    with pytest.warns(UserWarning, match=r"holds a Gaussian for each image.*point_std=0\.0455\)"):
        data = load_latents(path, Normalisation(multiplier=0.18215))
    assert_close(data[:], 0.18215 * means.double(), "float32 output")


def test_means_without_labels_come_in_the_order_of_their_names(tmp_path: Path, generator: torch.Generator) -> None:
    means = save_mean_std(tmp_path, generator, width=0.0)
    for content in (None, {"labels": None}):
        (tmp_path / "dataset.json").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "dataset.json").write_text(json.dumps(content))
        # no width, no warning
        data = load_latents(tmp_path, None)
        assert data.labels is None
        assert torch.equal(data[:], means[[1, 3, 4, 0, 2]])


def test_the_front_door_reads_latents_and_asks_for_their_normalisation(
    tmp_path: Path, generator: torch.Generator
) -> None:
    points = save_lightningdit(tmp_path, generator)
    # nothing to be asked where there are no statistics
    assert torch.equal(load_dataset(tmp_path)[:], points)
    assert torch.equal(load_dataset(tmp_path, key="latents")[:], points[:9])
    save_stats(tmp_path)
    with pytest.warns(UserWarning, match="is read as it is stored, but training loops normalise"):
        assert len(load_dataset(tmp_path, count=7)) == 7
    assert load_dataset(tmp_path, value_map=Normalisation(multiplier=2.0).value_map).value_map.scale == 2.0


def test_other_folders_are_left_to_other_readers(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 2), np.float32))
    assert latent_format(tmp_path) is None
    assert latent_format(tmp_path / "a.npy") is None
    assert len(load_dataset(tmp_path)) == 3
    with pytest.raises(DataFileError, match=r"expected latents.*Remedy: read other files with oracle_engine\.load"):
        read_latents(tmp_path)
    with pytest.raises(DataFileError, match="found nothing"):
        read_latents(tmp_path / "none")


def break_json(folder: Path) -> None:
    (folder / "dataset.json").write_text("{")


def drop_file(folder: Path) -> None:
    next(folder.rglob("img-mean-std-00000004.npy")).unlink()


def odd_channels(folder: Path) -> None:
    np.save(next(folder.rglob("img-mean-std-00000003.npy")), np.zeros((5, 4, 4), np.float32))


def other_shape(folder: Path) -> None:
    np.save(next(folder.rglob("img-mean-std-00000004.npy")), np.zeros((8, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_json, r"dataset\.json: expected the labels of the latents; found damaged"),
        (drop_file, r"expected every file that dataset\.json lists; found no 00001/img-mean-std-00000004\.npy"),
        (
            odd_channels,
            r"img-mean-std-00000003\.npy: expected mean and std, \[2 C, H, W\], floating; found .*32 \[5, 4, 4\]",
        ),
        (other_shape, r"img-mean-std-00000004\.npy: expected torch\.float32 \[3, 4, 4\] as in img-mean-std-00000003"),
    ],
)
def test_damaged_means_are_named(damage: Any, message: str, tmp_path: Path, generator: torch.Generator) -> None:
    save_mean_std(tmp_path, generator)
    damage(tmp_path)
    with pytest.raises(DataFileError, match=message):
        read_latents(tmp_path)


def test_damaged_shards_and_pairs_are_named(tmp_path: Path, generator: torch.Generator) -> None:
    save_fast_dit(tmp_path, generator)
    (tmp_path / "imagenet256_labels/3.npy").unlink()
    with pytest.raises(DataFileError, match="expected one label file for each file of features"):
        read_latents(tmp_path)
    shards = tmp_path / "shards"
    shards.mkdir()
    save_lightningdit(shards, generator)
    both = {"latents": torch.zeros(2, *SHAPE), "latents_flip": torch.zeros(2, *SHAPE)}
    save_file(both, shards / "z.safetensors")
    with pytest.raises(DataFileError, match=r"z\.safetensors: expected labels, as other shards have"):
        read_latents(shards)
    odd = {name: torch.zeros(2, 7) for name in both}
    save_file(odd | {"labels": torch.zeros(2).long()}, shards / "z.safetensors")
    with pytest.raises(DataFileError, match=r"z\.safetensors: expected latents \[N, C, H, W\], floating"):
        read_latents(shards)
    (shards / "z.safetensors").write_bytes(b"no header")
    with pytest.raises(DataFileError, match=r"z\.safetensors: expected a \.safetensors file; found damaged"):
        read_latents(shards)
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(DataFileError, match=r"x\.zip: expected a zip archive; found damaged"):
        read_latents(tmp_path / "x.zip")


class Pickled:
    """Something only pickle could load."""


def test_statistics_are_never_unpickled(tmp_path: Path, generator: torch.Generator) -> None:
    save_lightningdit(tmp_path, generator)
    for content in (Pickled(), {"mean": torch.zeros(3)}):
        torch.save(content, tmp_path / "latents_stats.pt")
        with pytest.raises(DataFileError, match=r"latents_stats\.pt: expected mean and std of the channels"):
            read_latents(tmp_path)


@pytest.mark.parametrize(
    ("normalisation", "message"),
    [
        ("stats", r"`normalisation` needs latents_stats\.pt; received none in .*Remedy: put latents_stats\.pt beside"),
        ("mean", "`normalisation` must be a Normalisation, 'stats' or None; received 'mean'"),
        (Normalisation([0.0, 1.0], 1.0), "must have one number, or one for each of 3 channels; received 2"),
    ],
)
def test_normalisations_that_do_not_fit(
    normalisation: Any, message: str, tmp_path: Path, generator: torch.Generator
) -> None:
    save_lightningdit(tmp_path, generator)
    with pytest.raises(InputError, match=message):
        load_latents(tmp_path, normalisation)
    with pytest.raises(InputError, match="`storage` must be a floating dtype"):
        read_latents(tmp_path, storage=torch.uint8)


@pytest.mark.parametrize("options", [{"std": 0.0}, {"std": [1.0, -1.0]}, {"multiplier": 0.0}, {"mean": float("nan")}])
def test_normalisations_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="`normalisation` must have"):
        Normalisation(**options)
