"""Shards: what goes in comes out, whole or not at all, the same for any number of processes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from convert_fakes import Listed, of_two_sizes, png
from openslip.data.encode import Encoding
from openslip.data.record import Record
from openslip.data.sources.mixture import Mixture
from openslip.data.sources.webdataset import TarShards
from openslip.data.subset import Subset
from openslip.errors import ConfigError, DataError
from openslip.scenes import Scenes
from openslip.tools.convert import shard_size_for, write_shards


def members(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def test_scenes_come_back(tmp_path) -> None:
    scenes = Scenes("test", 5, size=32)
    paths = write_shards(scenes, tmp_path / "new" / "folder", 2, encoding="png", prefix="scenes-").paths
    assert [p.name for p in paths] == ["scenes-000000.tar", "scenes-000001.tar", "scenes-000002.tar"]
    content = members(paths[1])
    assert sorted(content) == [f"{k:09d}.{e}" for k in (2, 3) for e in ("json", "png", "txt")]
    for k in (2, 3):
        record = scenes[k]
        about = json.loads(content[f"{k:09d}.json"])
        assert about == {
            "key": record.key,
            "captions": list(record.captions),
            "label": scenes.label(k),
            "class": scenes.class_names[scenes.label(k)],
        }
        assert content[f"{k:09d}.txt"].decode() == record.captions[0]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content[f"{k:09d}.png"]))), record.image)


def test_jpeg_is_close(tmp_path) -> None:
    scenes = Scenes("test", 1, size=48)
    (path,) = write_shards(scenes, tmp_path).paths
    image = np.asarray(Image.open(io.BytesIO(members(path)["000000000.jpg"])), dtype=float)
    assert np.abs(image - scenes[0].image).mean() < 6


def test_processes_do_not_matter(tmp_path) -> None:
    scenes = Scenes("train", 4, size=16)
    digests = [
        [
            hashlib.sha256(p.read_bytes()).hexdigest()
            for p in write_shards(scenes, tmp_path / str(n), 2, processes=n).paths
        ]
        for n in (1, 2)
    ]
    assert digests[0] == digests[1]


def test_bytes_pass_unchanged_and_bad_records_are_left_out(tmp_path) -> None:
    source = Listed(
        [
            Record(png(1), ("one", "eins"), "a", "listed"),
            DataError("gone"),
            Record(b"no image", ("x",), "c", "listed"),
            Record(png(3), (), "d", "listed"),
        ]
    )
    done = write_shards(source, tmp_path)
    (path,) = done.paths
    content = members(path)
    assert sorted(content) == [
        "000000000.json",
        "000000000.png",
        "000000000.txt",
        "000000003.json",
        "000000003.png",
    ]
    assert content["000000003.png"] == png(3)
    assert json.loads(content["000000000.json"]) == {"key": "a", "captions": ["one", "eins"]}
    assert (done.records, done.written) == (4, 2)
    assert [(entry.index, entry.key) for entry in done.skipped] == [(1, "#1"), (2, "c")]
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(entry["index"], entry["reason"]) for entry in listed] == [
        (1, "gone."),
        (2, done.skipped[1].reason),
    ]
    assert "not an image" in done.skipped[1].reason
    manifest = json.loads((tmp_path / "convert.json").read_text())
    assert (manifest["records"], manifest["written"], manifest["skipped"]) == (4, 2, 2)


def test_nothing_half_written(tmp_path) -> None:
    fine = Record(png(1), ("one",), "a", "listed")
    with pytest.raises(RuntimeError):
        write_shards(Listed([*[fine] * 5, RuntimeError("power cut")]), tmp_path, 2)
    assert sorted(os.listdir(tmp_path)) == [".openslip-index", "000000.tar", "000001.tar", "convert.json"]
    assert sorted(os.listdir(tmp_path / ".openslip-index")) == ["000000.tar.index", "000001.tar.index"]


def test_goes_on_where_it_stopped(tmp_path) -> None:
    records: list[Record | Exception] = [Record(png(i), (f"number {i}",), str(i), "listed") for i in range(9)]
    records[1] = DataError("gone")
    whole = write_shards(Listed(records), tmp_path / "whole", 2)
    with pytest.raises(RuntimeError):
        write_shards(Listed([*records[:5], RuntimeError("power cut"), *records[6:]]), tmp_path / "part", 2)
    shards = sorted((tmp_path / "part").glob("*.tar"))
    kept = [(path.name, path.stat().st_mtime_ns) for path in shards]
    assert [name for name, _ in kept] == ["000000.tar", "000001.tar"]
    done = write_shards(Listed(records), tmp_path / "part", 2)
    assert [(path.name, path.stat().st_mtime_ns) for path in done.paths[:2]] == kept
    assert [path.read_bytes() for path in done.paths] == [path.read_bytes() for path in whole.paths]
    assert (done.written, done.skipped) == (whole.written, whole.skipped) == (8, done.skipped)
    again = write_shards(Listed(records), tmp_path / "part", 2)
    assert [(path.name, path.stat().st_mtime_ns) for path in again.paths[:2]] == kept
    assert again == done


def test_a_shard_that_is_damaged_or_lacks_a_readable_record_is_made_anew(tmp_path) -> None:
    records: list[Record | Exception] = [Record(png(i), (f"number {i}",), str(i), "listed") for i in range(6)]
    whole = [path.read_bytes() for path in write_shards(Listed(records), tmp_path / "whole", 2).paths]
    gone = [*records[:3], DataError("the network is down"), *records[4:]]
    first = write_shards(Listed(gone), tmp_path / "later", 2)
    assert (first.written, (tmp_path / "later" / "skipped.jsonl").exists()) == (5, True)
    first.paths[0].write_bytes(whole[0][:700])
    again = write_shards(Listed(records), tmp_path / "later", 2)
    assert [path.read_bytes() for path in again.paths] == whole
    assert (again.written, (tmp_path / "later" / "skipped.jsonl").exists()) == (6, False)


def test_other_settings_are_refused(tmp_path) -> None:
    scenes = Scenes("test", 6, size=16)
    write_shards(scenes, tmp_path, 2)
    with pytest.raises(DataError, match="shard_size was 2 and is 3"):
        write_shards(scenes, tmp_path, 3)
    with pytest.raises(DataError, match="quality was 92 and is 50"):
        write_shards(scenes, tmp_path, 2, quality=50)
    with pytest.raises(DataError, match="records was 6 and is 5"):
        write_shards(Scenes("test", 5, size=16), tmp_path, 2)
    with pytest.raises(DataError, match="Record 0 has changed"):
        write_shards(Scenes("test", 6, seed=1, size=16), tmp_path, 2)
    (tmp_path / "convert.json").write_text("{")
    with pytest.raises(DataError, match=r"convert\.json"):
        write_shards(scenes, tmp_path, 2)
    (tmp_path / "convert.json").unlink()
    with pytest.raises(DataError, match=r"3 shards of another origin.*000000\.tar"):
        write_shards(scenes, tmp_path, 2)
    assert len(write_shards(scenes, tmp_path, 2, prefix="b-").paths) == 3


def test_other_records_left_out_are_refused(tmp_path) -> None:
    records: list[Record | Exception] = [Record(png(i), (str(i),), str(i), "listed") for i in range(100)]
    write_shards(Subset(Listed(records), [90]), tmp_path, 50)
    # Of these, too, there are 99, and the records probed, 0, 24, 49 and 74, are the same.
    with pytest.raises(DataError, match="Other records were left out"):
        write_shards(Subset(Listed(records), [95]), tmp_path, 50)
    with pytest.raises(DataError, match="Other records were left out"):
        write_shards(Listed(records[:99]), tmp_path, 50)
    assert write_shards(Subset(Listed(records), [90, 90]), tmp_path, 50).written == 99


def test_weights_are_refused(tmp_path) -> None:
    parts = [Scenes("test", 3, size=16), Scenes("test", 2, seed=1, size=16)]
    weighted = Mixture(parts, [1, 0.5], name="a + 0.5 * b")
    for source in (weighted, Subset(weighted, [0])):
        with pytest.raises(ConfigError, match=r"every record once.*a \+ 0\.5 \* b.*'A \+ B'"):
            write_shards(source, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert write_shards(Mixture(parts, [1, 1]), tmp_path).written == 5


def test_what_a_killed_process_left_is_swept_away(tmp_path) -> None:
    for name in (".writing-0123-000000.tar", ".writing-0123-000007.tar", ".writing-4-b-000000.tar"):
        (tmp_path / name).write_text("half")
    write_shards(Scenes("test", 2, size=16), tmp_path)
    left = sorted(path.name for path in tmp_path.glob(".writing-*"))
    assert left == [".writing-0123-000007.tar", ".writing-4-b-000000.tar"]


def test_shrunk_shards_come_back_through_their_source(tmp_path) -> None:
    records: list[Record | Exception] = [Record(png(i), (f"number {i}",), str(i), "listed") for i in range(3)]
    done = write_shards(Listed(records), tmp_path, short_side=2)
    source = TarShards(done.paths)
    assert [source[i].captions for i in range(3)] == [(f"number {i}",) for i in range(3)]
    images = [Image.open(io.BytesIO(source[i].image)) for i in range(3)]  # type: ignore[arg-type]
    assert [(image.format, image.size) for image in images] == [("JPEG", (2, 2))] * 3


def test_shards_of_a_size_in_megabytes(tmp_path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (60, 60, 3), np.uint8) for _ in range(40)]
    records: list[Record | Exception] = [Record(image, ("noise",), "n", "listed") for image in noise]
    records[0] = DataError("gone")
    size = shard_size_for(Listed(records), 0.1, Encoding("png"))
    first = write_shards(Listed(records), tmp_path, size, encoding="png").paths[0]
    assert 0.085e6 < first.stat().st_size < 0.125e6
    assert shard_size_for(Listed(records), 1e-9, Encoding("png")) == 1
    with pytest.raises(ConfigError):
        shard_size_for(Listed(records), 0, Encoding())
    with pytest.raises(DataError, match="gone"):
        shard_size_for(Listed(records[:1]), 1, Encoding())


def test_a_size_in_megabytes_stays_when_a_conversion_goes_on(tmp_path) -> None:
    well, ill = of_two_sizes()
    begun = write_shards(well, tmp_path, shard_mb=0.02, encoding="png")
    assert json.loads((tmp_path / "convert.json").read_text())["shard_mb"] == 0.02
    again = write_shards(ill, tmp_path, shard_mb=0.02, encoding="png")
    assert again.paths == begun.paths
    assert write_shards(well, tmp_path, 3, encoding="png") == begun
    with pytest.raises(DataError, match="shard_size was 3 and is 6"):
        write_shards(well, tmp_path, shard_mb=0.04, encoding="png")


def test_full_disk(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_shards(Scenes("test", 1, size=16), tmp_path)
    assert [name for name in os.listdir(tmp_path) if "tar" in name] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 0}, "at least 1, or -1"),
        ({"prefix": "a/b"}, "cannot name a folder"),
        ({"shard_mb": -1}, "above 0 MB"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_shards(Scenes("test", 1), tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_bad_arguments(tmp_path) -> None:
    with pytest.raises(ConfigError):
        write_shards(Scenes("test", 1), tmp_path, 0)
    with pytest.raises(ConfigError):
        write_shards(Scenes("test", 1), tmp_path, encoding="tiff")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        write_shards(Scenes("test", 1), tmp_path / "file")
    with pytest.raises(DataError):
        write_shards(Scenes("test", 1), tmp_path / "file", shard_mb=1)
