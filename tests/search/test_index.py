from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import save_file

from openslip import toml
from openslip.encoder import Encoder
from openslip.errors import ConfigError, DataError
from openslip.search.embed import embed
from openslip.search.index import Index, fingerprint
from search.collections import COUNT, make, png, small_model
from toys import make_tiny_config


@pytest.fixture(scope="module")
def model() -> Encoder:
    return small_model()


@pytest.fixture(scope="module")
def made(tmp_path_factory, model) -> Path:
    """An index of pictures in a folder, beside it."""
    root = tmp_path_factory.mktemp("collection")
    embed(model, make("folder", root), root / "index", precision="fp32")
    return root


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """A copy of the index that a test may damage."""
    return Path(shutil.copytree(made / "index", tmp_path / "index"))


def test_it_says_what_it_has(made) -> None:
    index = Index.open(made / "index")
    assert (len(index), index.dim, index.vectors.dtype) == (COUNT - 1, 8, np.float16)
    assert isinstance(index.vectors, np.memmap)
    assert index.columns["caption"] == "string"
    assert f"{COUNT - 1} pictures" in repr(index)


def test_records_come_in_the_order_asked_for(made) -> None:
    whole = pq.read_table(made / "index" / "records.parquet").to_pylist()
    index = Index.open(made / "index")
    for rows in ([], [0], [4, 0, 4], range(len(index)), np.array([7, 2])):
        assert index.records(rows).to_pylist() == [whole[row] for row in rows]
    assert index.records([3], ["caption"]).to_pylist() == [{"caption": whole[3]["caption"]}]


def test_records_of_many_row_groups(made, copied) -> None:
    whole = pq.read_table(copied / "records.parquet")
    pq.write_table(whole, copied / "records.parquet", row_group_size=2)
    index = Index.open(copied)
    rows = [8, 0, 3, 3, 7, 1]
    assert index.records(rows).to_pylist() == whole.take(rows).to_pylist()


def test_a_text_a_picture_a_row_and_a_vector_find_what_they_are(made, model) -> None:
    index = Index.open(made / "index", model=model)
    row = 5
    path = index.records([row]).to_pylist()[0]["path"]
    picture = Image.open(path)
    for query in (row, Path(path), path, picture, png(6), index.vectors[row], [(2, row), (1, Path(path))]):
        assert index.search(query, top=3).rows[0] == row
    texts = model.encode_text("a picture", numpy=True)[0]
    expected = np.argsort(-(index.vectors.astype(np.float64) @ texts), kind="stable")[:4]
    assert index.search("a picture", top=4).rows.tolist() == expected.tolist()


def test_many_threads_get_what_one_gets(made, model) -> None:
    index = Index.open(made / "index", model=model)
    expected = [index.search(row, top=4)[:] for row in range(len(index))]
    fresh = Index.open(made / "index", model=model)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: fresh.search(row, top=4)[:], [*range(len(index))] * 4))
    assert found == expected * 4


def test_pictures_that_changed_or_vanished_are_said(made, model, tmp_path) -> None:
    root = tmp_path / "other"
    shutil.copytree(made / "pictures", root / "pictures")
    embed(model, str(root / "pictures"), root / "index", precision="fp32")
    index = Index.open(root / "index")
    (root / "pictures" / "00.png").write_bytes(png(50))
    (root / "pictures" / "01.png").unlink()
    with pytest.raises(DataError, match=r"not the one that was embedded.*slip embed"):
        index.picture(0)
    with pytest.raises(DataError, match="does not exist"):
        index.picture(1)
    assert index.picture(2) == png(2)


def test_the_model_is_found_where_it_was_and_compared(made, model, tmp_path) -> None:
    with pytest.raises(DataError, match="does not say where its model is"):
        Index.open(made / "index").search("text")
    with pytest.raises(DataError, match="made with another model"):
        Index.open(made / "index", model=small_model(1))
    assert Index.open(made / "index", model=small_model()).model.size == 16


def test_a_model_that_went_or_changed_is_said(made, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()

    def write(seed: int) -> None:
        save_file(small_model(seed).model.state_dict(), folder / "model.safetensors")
        (folder / "config.toml").write_text(toml.dumps(make_tiny_config()))

    write(0)
    embed(folder, str(made / "pictures"), tmp_path / "index", precision="fp32")
    assert len(Index.open(tmp_path / "index").search("text", top=2)) == 2
    write(1)
    with pytest.raises(DataError, match="made with another model"):
        Index.open(tmp_path / "index").search("text")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"cannot be loaded.*--model"):
        Index.open(tmp_path / "index").search("text")
    assert len(Index.open(tmp_path / "index").search(3, top=2)) == 2  # a row needs no model


def test_fingerprints_tell_weights_and_preprocessing(model) -> None:
    same = small_model()
    assert fingerprint(model) == fingerprint(same)
    other = Encoder(same.model, replace(same.config, views=replace(same.config.views, mean=(0.5, 0.5, 0.5))))
    assert len({fingerprint(one) for one in (model, small_model(1), other)}) == 3
    renamed = Encoder(same.model, replace(same.config, name="another"))
    assert fingerprint(renamed) == fingerprint(model)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("index.json", b"", "index.json of the index is damaged"),
        ("index.json", b"[]", "index.json of the index is damaged"),
        ("index.json", b'{"format": 1}', "index.json of the index is damaged"),
        ("index.json", {"model": {}}, "index.json of the index is damaged"),
        ("index.json", {"rows": True}, "index.json of the index is damaged"),
        (
            "index.json",
            {"source": {"spec": "", "name": "", "options": []}},
            "index.json of the index is damaged",
        ),
        ("index.json", None, "not finished"),
        ("vectors.npy", b"nothing", "vectors.npy of the index is damaged"),
        ("vectors.npy", None, "vectors.npy of the index is damaged"),
        ("records.parquet", b"nothing", "records.parquet of the index is damaged"),
        ("records.parquet", None, "records.parquet of the index is damaged"),
    ],
)
def test_damage_is_said(copied, name, damage, message) -> None:
    if isinstance(damage, dict):
        (copied / name).write_text(json.dumps(json.loads((copied / name).read_text()) | damage))
    elif damage is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(damage)
    with pytest.raises(DataError, match=message):
        Index.open(copied)


def test_records_that_are_damaged_within_are_an_error_in_words(copied) -> None:
    content = (copied / "records.parquet").read_bytes()
    end = (
        len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    )  # of the values; then the file describes them
    (copied / "records.parquet").write_bytes(content[:4] + bytes([255]) * (end - 4) + content[end:])
    index = Index.open(copied)
    for read in (lambda: index.records([0]), lambda: index.column("key"), lambda: index.picture(0)):
        with pytest.raises(DataError, match=r"records\.parquet of the index is damaged"):
            read()


def test_files_that_do_not_belong_together_are_refused(copied) -> None:
    np.save(copied / "vectors.npy", np.zeros((3, 8), np.float16))
    with pytest.raises(DataError, match="damaged"):
        Index.open(copied)


def test_vectors_are_never_unpickled(copied) -> None:
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    with open(copied / "vectors.npy", "wb") as file:
        np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
    assert pickle.dumps(Evil())
    with pytest.raises(DataError, match="damaged"):
        Index.open(copied)


def test_a_later_format_is_said(copied) -> None:
    about = json.loads((copied / "index.json").read_text())
    (copied / "index.json").write_text(json.dumps(about | {"format": 2}))
    with pytest.raises(DataError, match="later version"):
        Index.open(copied)


def test_no_index_is_said(tmp_path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Index.open(tmp_path / "none")
    with pytest.raises(DataError, match=r"no index here.*slip embed"):
        Index.open(tmp_path)


def test_a_search_finds_at_least_one(made) -> None:
    with pytest.raises(ConfigError, match="1 picture or more"):
        Index.open(made / "index").search(0, top=0)
