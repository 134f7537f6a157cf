"""Labels of latents are kept however dataset.json writes names; what does not fit is an error that names the file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from oracle_engine import DataFileError, InputError, Normalisation, load_dataset, load_latents
from oracle_engine.data.latents.files import read_latents

LABELS: list[int | None] = [4, 7, 0, 7, 2]


def save(folder: Path, name: Callable[[int], str], labels: list[Any] = LABELS, where: str = "dataset.json") -> None:
    """Write five latents, whose values are their numbers, and dataset.json, which lists them from the last on."""
    for number in range(5):
        file = folder / f"{number // 3:05d}" / f"img-mean-std-{number:08d}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.full((4, 2, 2), number, np.float32))
    listed = [[name(number), labels[number]] for number in reversed(range(5))]
    (folder / where).write_text(json.dumps({"labels": listed}))


NAMES: dict[str, Callable[[int], str]] = {
    "latents": lambda number: f"{number // 3:05d}/img-mean-std-{number:08d}.npy",
    "backslashes": lambda number: f"{number // 3:05d}\\img-mean-std-{number:08d}.npy",
    "dots": lambda number: f"./{number // 3:05d}/img-mean-std-{number:08d}.npy",
    "images": lambda number: f"{number // 3:05d}/img{number:08d}.png",
    "images with backslashes": lambda number: f"{number // 3:05d}\\img{number:08d}.png",
    "with the top folder": lambda number: f"top/{number // 3:05d}/img-mean-std-{number:08d}.npy",
}


def zipped(folder: Path, top: str = "") -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, f"{top}{file.relative_to(folder).as_posix()}")
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("kind", ["folder", "zip", "zip with a top folder", "folder with a top folder"])
@pytest.mark.parametrize("names", NAMES)
def test_labels_are_kept_however_names_are_written(names: str, kind: str, tmp_path: Path) -> None:
    if names == "with the top folder" and "top" not in kind:
        pytest.skip("there is none")
    folder = tmp_path / ("set/top" if kind == "folder with a top folder" else "set")
    save(folder, NAMES[names])
    path = tmp_path / "set" if kind.startswith("folder") else zipped(folder, "top/" if "top" in kind else "")
    read = read_latents(path)
    assert read.points[:, 0, 0, 0].tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert read.labels is not None
    assert read.labels.tolist() == LABELS[::-1]


def test_a_list_beside_the_top_folder_is_found(tmp_path: Path) -> None:
    save(tmp_path / "set" / "top", NAMES["latents"])
    (tmp_path / "set" / "top" / "dataset.json").rename(tmp_path / "set" / "dataset.json")
    labels = read_latents(tmp_path / "set").labels
    assert labels is not None
    assert labels.tolist() == LABELS[::-1]


def test_null_is_no_class_and_drops_no_other_label(tmp_path: Path) -> None:
    save(tmp_path, NAMES["latents"], [4, None, 0, None, 2])
    labels = read_latents(tmp_path).labels
    assert labels is not None
    assert labels.tolist() == [2, -1, 0, -1, 4]
    with pytest.warns(UserWarning, match="training loops normalise"):
        data = load_dataset(tmp_path)
    assert sorted(data.segments) == [0, 2, 4]


def test_nothing_but_null_is_no_labels(tmp_path: Path) -> None:
    save(tmp_path, NAMES["latents"], [None] * 5)
    assert read_latents(tmp_path).labels is None


def listed(*entries: Any) -> dict[str, Any]:
    return {"labels": list(entries)}


SOUND = [[NAMES["latents"](number), number] for number in range(5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"expected an object with `labels`; found a list\. Remedy: write \{"),
        ("words", "found a str"),
        (listed(1), "expected pairs of a name and a label in `labels`; found 1"),
        (listed(*SOUND, ["a.npy"]), "found \\['a.npy'\\]"),
        ({"labels": {"a": 1}}, "expected a list of pairs in `labels`; found a dict"),
        (listed(*SOUND[:4]), r"expected a label for every file of latents; found none for 00001/img-mean-std-00000004"),
        (listed(*SOUND, SOUND[0]), r"expected each file of latents once; found 00000/img-mean-std-00000000\.npy twice"),
        (listed(["other.png", 3]), r"expected every file that dataset\.json lists; found no other\.png"),
        (listed(*SOUND[:4], [SOUND[4][0], "cat"]), "expected integer labels; found labels of dtype"),
        (listed(*SOUND[:4], [SOUND[4][0], [1, 2]]), r"expected 5 labels, one a sample"),
        (listed(*([name, [0, 1]] for name, _ in SOUND)), r"labels of shape \[5, 2\]"),
    ],
)
def test_what_does_not_fit_is_named(content: Any, message: str, tmp_path: Path) -> None:
    save(tmp_path, NAMES["latents"])
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataFileError, match=rf"dataset\.json: .*{message}.*"):
        read_latents(tmp_path)


def save_shard(folder: Path, number: int, flips: tuple[int, ...] | None) -> None:
    shard = {"latents": torch.full((3, 2, 4, 4), float(number)), "labels": torch.arange(3)}
    if flips is not None:
        shard["latents_flip"] = torch.full(flips, -1.0 - number)
    save_file(shard, folder / f"shard{number}.safetensors")


@pytest.mark.parametrize(
    ("flips", "found"),
    [(None, "latents_flip, as other shards have; found none"), ((2, 2, 4, 4), r"found \[2, 2, 4, 4\]")],
)
def test_a_shard_without_all_of_its_mirrored_latents_is_named(
    flips: tuple[int, ...] | None, found: str, tmp_path: Path
) -> None:
    for number, shape in enumerate(((3, 2, 4, 4), flips, (3, 2, 4, 4))):
        save_shard(tmp_path, number, shape)
    with pytest.raises(DataFileError, match=rf"shard1\.safetensors: expected .*{found}.*encode that shard again"):
        read_latents(tmp_path)
    with pytest.raises(DataFileError, match=r"shard1\.safetensors"):
        load_dataset(tmp_path)
    assert len(read_latents(tmp_path, flips=False).points) == 9


def test_a_pair_with_two_labels_is_named(tmp_path: Path) -> None:
    for kind in ("features", "labels"):
        (tmp_path / f"a_{kind}").mkdir()
    for number, labels in enumerate(([1, 2], [])):
        np.save(tmp_path / f"a_features/{number}.npy", np.zeros((1, 2, 4, 4), np.float32))
        np.save(tmp_path / f"a_labels/{number}.npy", np.array(labels, np.int64))
    with pytest.raises(DataFileError, match=r"0\.npy: expected one label; found 2 of them"):
        read_latents(tmp_path)


@pytest.mark.parametrize("mean", [0.5, [0.5, 0.25], (0.5, 0.25), torch.tensor([0.5, 0.25]), torch.tensor(0.5)])
def test_statistics_are_numbers_lists_or_tensors(mean: Any, tmp_path: Path) -> None:
    save_shard(tmp_path, 1, None)
    torch.save({"mean": mean, "std": 2.0}, tmp_path / "latents_stats.pt")
    wanted = (1.0 - torch.as_tensor(mean).reshape(-1).double().expand(2)) / 2.0
    for data in (load_latents(tmp_path, "stats"), load_latents(tmp_path, Normalisation(mean, 2.0))):
        assert torch.allclose(data[0][:, 0, 0].double(), wanted)


@pytest.mark.parametrize("mean", [np.array([0.5, 0.25]), np.float32(0.5), 1, np.array([[0.5], [0.25]], ">f4")])
def test_a_normalisation_takes_arrays(mean: Any, tmp_path: Path) -> None:
    save_shard(tmp_path, 1, None)
    wanted = (1.0 - torch.from_numpy(np.array(mean, np.float64).reshape(-1)).expand(2)) / 2.0
    assert torch.allclose(load_latents(tmp_path, Normalisation(mean, np.array(2.0)))[0][:, 0, 0].double(), wanted)


@pytest.mark.parametrize("options", [{"mean": "a"}, {"std": None}, {"mean": []}, {"std": [[1.0], [2.0, 3.0]]}])
def test_statistics_that_are_no_numbers_are_refused(options: dict[str, Any], unchecked: None) -> None:
    with pytest.raises(InputError, match="`normalisation` must have numbers as mean and std"):
        Normalisation(**options)


@pytest.mark.parametrize("content", [{"mean": "a", "std": 1.0}, {"mean": [[1.0], [2.0, 3.0]], "std": 1.0}, [1.0, 2.0]])
def test_statistics_on_disk_that_are_no_numbers_name_the_file(content: Any, tmp_path: Path) -> None:
    save_shard(tmp_path, 1, None)
    torch.save(content, tmp_path / "latents_stats.pt")
    with pytest.raises(DataFileError, match=r"latents_stats\.pt: expected mean and std of the channels"):
        read_latents(tmp_path)
