"""What our own tools write, which may come from elsewhere or be damaged."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.pictures import jpeg
from fuzzing.registry import Files, register
from fuzzing.sources import jsonl, with_images
from openslip.data.identity import Identity
from openslip.errors import SlipError


def _list() -> Files:
    from openslip.tools.check.fingerprints import of_image

    lines = [
        {"index": k, "key": f"{k}.jpg", "what": ["damaged"], "image": f"{of_image(jpeg(k)):016x}"}
        for k in range(3)
    ]
    return {"list.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines)}


def _read_list(folder: Path) -> None:
    from openslip.data.record import Record, Source
    from openslip.tools.check.listing import compare, read_list

    class Three(Source):
        name = "three"

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Record:
            return Record(jpeg(index), ("a",), f"{index}.jpg", "three")

    compare(Three(), read_list(folder / "list.jsonl"), processes=1)


def _split_cache() -> Files:
    from openslip.tools.split import _Found, _keep

    with tempfile.TemporaryDirectory() as folder:
        _keep(
            place := Path(folder) / "split", _Found(np.arange(9, dtype=np.uint64), np.arange(9) > 3, ("a",))
        )
        return {"split": place.read_bytes()}


def _read_split_cache(folder: Path) -> None:
    from openslip.tools.split import _load

    found = _load(folder / "split", 9)
    assert found is None or len(found.keys) == len(found.captioned) == 9


def _convert(folder: Path) -> None:
    from openslip.data.sources import open_source
    from openslip.tools.convert import write_shards

    write_shards(open_source(str(folder / "t.jsonl")), folder / "shards", 2)


@cache
def _converted() -> Files:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, data in with_images("t.jsonl", jsonl()).items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
        _convert(folder)
        shards = {
            f"shards/{path.name}": path.read_bytes()
            for path in (folder / "shards").iterdir()
            if path.is_file()
        }
    return with_images("t.jsonl", jsonl()) | shards


def _resume_conversion(folder: Path) -> None:
    manifest = folder / "shards" / "convert.json"
    place = json.dumps(str(folder / "t.jsonl")).encode()
    manifest.write_bytes(re.sub(rb'"[^"]*t\.jsonl"', lambda _: place, manifest.read_bytes()))
    _convert(folder)


def _identity() -> Identity:
    part = {"name": "toy", "records": 3, "share": 3, "block": 1, "samples": {"0": "0" * 64, "2": "1" * 64}}
    return {"train": [part], "held_out": [{"records": 1, "total": 4, "digest": "0" * 16}]}


def _run() -> Files:
    from openslip import toml
    from openslip.config import Config

    lines: list[dict[str, Any]] = [
        {"step": k, "position": 8 * k, "epoch": k / 10, "loss": 3.0 / k} for k in (1, 2, 3)
    ]
    lines.append({"step": 3, "position": 24, "epoch": 0.3, "evaluation": {"zeroshot:scenes/top1": 0.5}})
    result = {"task": "zeroshot:scenes", "metric": "top1", "count": 100, "skipped": 0}
    return {
        "run/config.toml": toml.dumps(Config(name="tiny")).encode(),
        "run/metrics.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines),
        "run/results.json": json.dumps([result | {"value": 0.5, "low": 0.4, "high": 0.6}]).encode(),
        "run/versions.json": json.dumps({"python": "3.12.1", "torch": "2.99"}).encode(),
        "run/skipped.jsonl": json.dumps({"step": 1, "index": 3, "key": "a", "reason": "x"}).encode() + b"\n",
        "run/data.json": json.dumps(_identity()).encode(),
        "run/counts.json": json.dumps({"toy": {"records": 3, "skipped": 1}}).encode(),
    }


def _load_run(folder: Path) -> None:
    from openslip.report.runs import load_run

    run = load_run(folder / "run")
    assert run.method is not None
    assert run.loss.terms > 0
    assert run.done is None or isinstance(run.done, int | float)


def _page(folder: Path) -> None:
    from openslip.report.page import write_report
    from openslip.report.runs import load_run

    write_report(folder / "report.html", [load_run(folder / "run")], title="A report")


def _measured() -> Files:
    """Two runs of ten samples, with what their numbers were computed from."""
    from openslip.evaluation import results
    from openslip.evaluation.classification import Samples, classification, softmax

    labels, found = np.arange(10) % 3, {}
    samples = Samples(np.arange(10), tuple(bytes([k + 1]) * 16 for k in range(10)), ("cat", "dog", "owl"))
    for seed, name in enumerate("ab"):
        scores = np.random.default_rng(seed).normal(size=(10, 3))
        about = {"probabilities": softmax(scores), "samples": samples, "data": "/d", "content": "12ab"}
        with tempfile.TemporaryDirectory() as place:
            results.keep(classification("knn:pets", scores, labels, **about), Path(place) / "results.json")
            for path in Path(place).rglob("*.*"):
                found[f"{name}/{path.relative_to(place)}"] = path.read_bytes()
    return found


def _compare(folder: Path) -> None:
    from openslip.evaluation.compare import sentences, table
    from openslip.evaluation.comparison import compare_models
    from openslip.evaluation.measured import open_models

    (before, after), _ = open_models([str(folder / name) for name in "ab"])
    found = compare_models(before, after, everything=True)
    assert found.rows()
    table(found.differences)
    sentences(found.differences, "a", "b")


def _rewind(folder: Path) -> None:
    from openslip.training.saving.run import RunFolder

    run = RunFolder(folder / "run", inform=lambda text: None)
    run._data(_identity())
    run.rewind(2, measured=False)


def _state() -> Files:
    state = {"step": 3, "position": 24, "rng": [1, 2, 3], "checksums": {"model.safetensors": "0" * 8}}
    return {"checkpoints/step-00000003/state.json": json.dumps(state).encode()}


def _read_state(folder: Path) -> None:
    from openslip.training.saving.checkpoint import list_checkpoints, newest_good, read_state

    for checkpoint in list_checkpoints(folder / "checkpoints"):
        with contextlib.suppress(SlipError):
            read_state(checkpoint)
    with contextlib.suppress(SlipError):  # its weights are not there
        newest_good(folder / "checkpoints", lambda error: None)


def _tensors() -> Files:
    import torch
    from safetensors.torch import save

    return {"model.safetensors": save({"a": torch.zeros(3, 4), "b": torch.ones(2)})}


def _read_tensors(folder: Path) -> None:
    from openslip.training.saving.tensors import read_tensors

    for tensor in read_tensors(folder / "model.safetensors").values():
        tensor.sum()


def _weights() -> Files:
    """A small image tower, with its configuration in the header."""
    from safetensors.torch import save

    from openslip.config import Config, ImageTowerConfig, ModelConfig, ViewsConfig
    from openslip.models import Model
    from openslip.training.saving import metadata

    model = ModelConfig(image=ImageTowerConfig(patch=8, width=8, depth=1, heads=2))
    weights = Model(model, 16).state_dict()
    return {
        "a.safetensors": save(
            weights, metadata.describe(Config(name="tiny", views=ViewsConfig(size=16), model=model))
        )
    }


def _load_weights(folder: Path) -> None:
    import torch

    import openslip

    encoder = openslip.load(folder / "a.safetensors")
    assert not any(module.training for module in encoder.model.modules())
    encoder.encode_image(torch.zeros(1, 3, encoder.size, encoder.size))


register("check-list", _list, _read_list)
register("split-cache", _split_cache, _read_split_cache)
register("convert-resumed", _converted, _resume_conversion, damaged="shards/")
register("run", _run, _load_run)
register("measured", _measured, _compare)
register("report", _run, _page)
register("run-resumed", _run, _rewind, damaged="metrics|skipped|data")
register("checkpoint-state", _state, _read_state)
register("checkpoint-tensors", _tensors, _read_tensors)
register("weights", _weights, _load_weights)
