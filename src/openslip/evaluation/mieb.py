"""MIEB, the Massive Image Embedding Benchmark (Xiao et al. 2025, arXiv 2504.10471): its tasks as `mteb` measures them.

Data, prompts, classifiers and metrics are mteb's; only the model is ours. So the numbers are comparable with MIEB's
tables, and not with those of the paper (docs/protocols.md names the differences). mteb downloads a task's data
from the hub into the cache of the hub's own library. mteb's cache of results stays off: results are kept like all
others.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from openslip.errors import ConfigError, DataError, EvaluationError, SlipError, did_you_mean
from openslip.evaluation import Result
from openslip.evaluation.features import (
    BATCH,
    counting,
    encode_texts,
    evaluating,
    features_of,
    require_text,
)
from openslip.evaluation.metrics import wilson
from openslip.pictures import chunks_ahead

if TYPE_CHECKING:
    from openslip.encoder import Encoder

BENCHMARKS = {
    "lite": "MIEB(lite)",
    "eng": "MIEB(eng)",
    "multilingual": "MIEB(Multilingual)",
    "img": "MIEB(Img)",
}
"""The names of sets of tasks, here and in mteb."""
_INSTALL = "pip install 'openslip[mteb]'"


def tasks_of(names: str) -> list[str]:
    """Return the names of tasks, each once. names: `lite`, `CIFAR10ZeroShot`, or several such names with commas.

    Raises ConfigError for a name that mteb does not know, and if mteb is not installed.
    """
    mteb, found = _library(), []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if whole := BENCHMARKS.get(name.lower()):
            with _kept_generators():
                found += [task.metadata.name for task in mteb.get_benchmark(whole).tasks]
        else:
            found.append(_task(name).metadata.name)
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Mieb:
    """One task of mteb. dataset: the task's name. task: an instance of a user's own task, which mteb does not know."""

    dataset: str
    task: Any = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"mieb:{self.dataset}"

    @property
    def needs_text(self) -> bool:
        """Whether the task has texts, or classes that prompts name. Raises ConfigError as `check` does."""
        return "text" in self._found().metadata.modalities

    def about(self) -> dict[str, str]:
        """Return the fields that tell this measurement from others. Raises ConfigError as `check` does."""
        task = self._found()
        version = getattr(_library(), "__version__", "")
        source = task.metadata.dataset
        return {
            "data": "" if task.is_aggregate else f"hf:{source['path']}",
            "split": ", ".join(task.eval_splits),
            "settings": f"mteb={version}" if version else "",
            "content": "" if task.is_aggregate else str(source.get("revision") or ""),
        }

    def check(self) -> None:
        """Check that mteb has the task, and can measure it without running foreign code. Nothing is loaded.

        Raises ConfigError for a name that mteb does not know, for several tasks at once, for a task with sound or film,
        for a task whose data come with code of their own, and if mteb is not installed.
        """
        if self.task is None and ("," in self.dataset or self.dataset.lower() in BENCHMARKS):
            raise ConfigError(
                "One evaluator measures one task of MIEB, and this name stands for several tasks",
                got=self.name,
                fix="Call openslip.evaluation.suite.each for the names of the tasks",
            )
        task = self._found()
        if {*task.metadata.modalities} - {"image", "text"}:
            raise ConfigError(
                "The task is not one of pictures and texts",
                got=f"{self.name}, of {' and '.join(task.metadata.modalities)}",
                fix=f"Name a task of MIEB, or a whole set of tasks: {', '.join(BENCHMARKS)}",
            )
        for part in _parts(task):
            if part.metadata.dataset.get("trust_remote_code"):
                raise ConfigError(
                    f"The data of {part.metadata.name} come with code of their own, which is not run here",
                    got=f"trust_remote_code, for {part.metadata.dataset.get('path')}",
                    fix="Leave the task out",
                )

    def evaluate(self, encoder: Encoder) -> list[Result]:
        """Have mteb measure `encoder`. Return one result: mteb's main score of the task, over its splits and languages.

        The result has an interval only if mteb's number is the share of pictures whose class was found. Other numbers
        are not means over samples drawn one by one, or mteb keeps no number for each sample.

        Raises EvaluationError for a model without the text tower that the task needs, or if mteb fails; DataError if
        the task's data are not on this machine and cannot be downloaded; ConfigError as `check` does.
        """
        self.check()
        if self.needs_text:
            require_text(encoder, self.name)
        mteb = _library()
        with _kept_generators():
            # A new instance, with mteb's own seed: the numbers do not depend on earlier measurements.
            task = self._found()
            parts = _parts(task)
            _load(parts)
            try:
                count = sum(map(_samples, parts))
                with _failures(self.name), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # scikit-learn's warnings about mteb's own classifiers
                    found = mteb.evaluate(
                        MtebModel(encoder, self.dataset, _meta()),
                        task,
                        encode_kwargs={"batch_size": BATCH},
                        cache=None,
                        co2_tracker=False,
                        show_progress_bar=False,
                    )
                    value = float(found.task_results[0].get_score())
            finally:
                for part in parts:
                    if part.data_loaded:
                        part.unload_data()
        if not math.isfinite(value):
            raise EvaluationError(f"mteb has found no number for {self.name}", got=str(value))
        interval = (math.nan, math.nan)
        if _is_share(task, count, value):
            interval = wilson(value * count, count)
        about: dict[str, Any] = {**self.about()}
        return [Result(self.name, task.metadata.main_score, value, count, *interval, **about)]

    def _found(self) -> Any:
        return _task(self.dataset) if self.task is None else self.task


class MtebModel:
    """A model as the evaluators of mteb 2 call it (its `EncoderProtocol`)."""

    def __init__(self, encoder: Encoder, label: str, meta: Any = None) -> None:
        self.encoder = encoder
        self.label = label
        self.mteb_model_meta = meta

    def encode(self, inputs: Iterable[Mapping[str, Any]], **how: Any) -> Tensor:
        """Return the embeddings (N, E) of N rows that come in batches: `image` pictures, `text` texts, or both.

        Embeddings are not normalised. If a row has both, its two embeddings are added. mteb does the same for CLIP's
        models, so the numbers can be compared. A row without a picture has only its text. Pictures go through the
        model's own preprocessing, and through its image tower in the precision of the session.

        how: the task and further facts from mteb, which our models do not need.
        """
        texts: list[str] = []

        def pictures() -> Iterator[Any]:
            for batch in inputs:
                texts.extend(map(str, batch.get("text", ())))
                yield from batch.get("image", ())

        def pixels(picture: Any) -> Tensor | None:
            return None if picture is None else self.encoder.preprocess.pixels(picture)

        rows, values, label, start = [], [], f"pictures of {self.label}", 0
        total = len(getattr(inputs, "dataset", ()))
        with (
            counting(total, label) as advance,
            evaluating(self.encoder),
            chunks_ahead(pixels, pictures(), BATCH) as chunks,
        ):
            for chunk in chunks:
                there = [(start + i, one) for i, one in enumerate(chunk) if one is not None]
                start += len(chunk)
                if there:
                    features = features_of(self.encoder, torch.stack([one for _, one in there]), label)
                    rows += [row for row, _ in there]
                    at = torch.from_numpy(features).to(self.encoder.device)
                    values.append(self.encoder.project(at, normalize=False).cpu().numpy())
                advance(len(chunk))
        found = encode_texts(self.encoder, texts, normalize=False) if texts else None
        if found is not None and start not in (0, len(found)):
            raise EvaluationError(f"{self.label} has {len(found):,} texts for {start:,} pictures")
        if values:
            images = np.concatenate(values)
            found = np.zeros((start, images.shape[1]), np.float32) if found is None else found
            found[rows] += images
        if found is None:
            raise EvaluationError(f"{self.label} has neither pictures nor texts to embed")
        return torch.from_numpy(found)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine similarities (N, M) of embeddings (N, E) and (M, E)."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return the cosine similarity (N,) of each row of embeddings (N, E) and the same row of the other (N, E)."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)


def _unit(values: Any) -> Tensor:
    rows = torch.as_tensor(np.asarray(values) if isinstance(values, list) else values, dtype=torch.float32)
    return torch.nn.functional.normalize(torch.atleast_2d(rows), dim=-1)


def _library() -> Any:
    """Return mteb. Raises ConfigError if mteb is not installed, or would run code that comes with data."""
    try:
        with _kept_generators():
            datasets, mteb = import_module("datasets"), import_module("mteb")
    except ImportError as error:
        raise ConfigError(
            "The library mteb measures MIEB's tasks, and it is not installed", cause=str(error), fix=_INSTALL
        ) from None
    if not hasattr(mteb, "evaluate"):
        raise ConfigError("MIEB's tasks need mteb 2.0 or later", got=_version(mteb), fix=_INSTALL)
    if not _version(datasets).partition(".")[0].isdigit() or int(_version(datasets).partition(".")[0]) < 4:
        raise ConfigError(
            "Below version 4, the library datasets runs code that comes with data sets",
            got=_version(datasets),
            fix=_INSTALL,
        )
    return mteb


def _meta() -> Any:
    """Return the description of the model for mteb: that it takes pictures and texts."""
    ModelMeta = import_module("mteb.models.model_meta").ModelMeta
    unknown = {name: None for name, field in ModelMeta.model_fields.items() if field.is_required()}
    known = {"name": "openslip/model", "revision": "none", "modalities": ["image", "text"], "framework": []}
    return ModelMeta.model_construct(**unknown | known)


def _version(library: Any) -> str:
    return str(getattr(library, "__version__", ""))


def _task(name: str) -> Any:
    """Return a new instance of a task of mteb. Raises ConfigError for a name that mteb does not know."""
    mteb = _library()
    with _kept_generators():
        try:
            return mteb.get_task(name)
        except (KeyError, ValueError):
            known = [task.metadata.name for task in mteb.get_tasks(modalities=["image"])]
    close = did_you_mean(name, [*BENCHMARKS, *known])
    raise ConfigError(
        "mteb knows no such task",
        got=f"mieb:{name}",
        fix=close
        if close.startswith("Did")
        else f"Write {', '.join(BENCHMARKS)}, or a task such as CIFAR10ZeroShot",
    )


def _parts(task: Any) -> list[Any]:
    """Return the tasks whose mean is a task's number: mostly the task itself."""
    return list(task.metadata.tasks) if task.is_aggregate else [task]


def _load(tasks: Iterable[Any]) -> None:
    """Load the data of tasks. Raises DataError for any error of mteb or of the libraries below it."""
    for task in tasks:
        try:
            task.load_data()
        except Exception as error:  # of the network, of the hub's library, of Arrow, of the task's own code
            raise DataError(
                f"The data of MIEB's task {task.metadata.name} cannot be loaded",
                got=f"hf:{task.metadata.dataset.get('path')}",
                cause=_in_a_line(error),
                fix="Connect to a network once, or set HF_HOME to the folder where the hub's library keeps the data",
            ) from error


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """Raise EvaluationError if foreign code fails. Our own errors, and a lack of memory, pass through."""
    try:
        yield
    except (SlipError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise EvaluationError(f"mteb cannot measure {name}", cause=_in_a_line(error)) from error


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _samples(task: Any) -> int:
    """Return how many samples, or queries, a task's number is computed from; 0 if its data do not tell."""
    total = 0
    for subset in task.hf_subsets or ["default"]:
        for split in task.eval_splits:
            try:
                data = task.dataset.get(subset, task.dataset)[split]
                total += len(data["queries"] if isinstance(data, Mapping) else data)
            except (AttributeError, LookupError, TypeError):
                return 0
    return total


def _is_share(task: Any, count: int, value: float) -> bool:
    """Whether a task's number is the share of `count` pictures whose class was found."""
    return (
        task.metadata.type == "ZeroShotClassification"
        and task.metadata.main_score == "accuracy"
        and len(task.hf_subsets) == len(task.eval_splits) == 1
        and count > 0
        and math.isclose(value * count, round(value * count), abs_tol=1e-6 * count)
    )


@contextmanager
def _kept_generators() -> Iterator[None]:
    """Restore the state of the global generators, which mteb seeds whenever it makes a task: a run may be training."""
    kept = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
