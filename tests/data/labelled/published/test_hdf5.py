"""PatchCamelyon: with h5py, where it is installed, else with a stand-in that has its calls."""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from torchvision import datasets

import published_arrays as sets
from openslip.data.labelled import open_labelled
from openslip.errors import DataError
from published_sets import same


@pytest.fixture(params=["library", "stand-in"])
def folder(request, tmp_path, monkeypatch):
    folder, files = sets.pcam(tmp_path)
    if request.param == "library":
        h5py = pytest.importorskip("h5py")
        for name, arrays in files.items():
            with h5py.File(folder / name, "w") as file:
                for key, array in arrays.items():
                    file.create_dataset(key, data=array, chunks=(1, *array.shape[1:]), compression="gzip")
        return folder
    for name in files:
        (folder / name).write_bytes(b"\x89HDF")

    class File(dict):
        def __init__(self, path, mode="r"):
            super().__init__(files[str(path).rpartition("/")[2]])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=File))
    return folder


def test_pcam(folder):
    found = open_labelled(str(folder))
    assert {split: part.labels.tolist() for split, part in found.splits.items()} == {
        "train": [0, 1, 0, 1, 0, 1],
        "val": [0, 1, 0, 1],
        "test": [0, 1, 0, 1, 0],
    }
    assert found.named
    for number, split in enumerate(("train", "val", "test")):
        images = pickle.loads(pickle.dumps(found.splits[split].images))
        expected = sets.pixels(len(images), 96, 96, 3, seed=number)
        assert np.array_equal(np.stack(list(images)), expected)
    for split in ("train", "val", "test"):
        assert same(found.splits[split], datasets.PCAM(str(folder.parent), split=split, download=False))


def test_without_the_library_its_extra_is_named(tmp_path, monkeypatch):
    folder, files = sets.pcam(tmp_path)
    for name in files:
        (folder / name).write_bytes(b"\x89HDF")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"h5py, which is not installed.*openslip\[hdf5\]"):
        open_labelled(str(folder))
