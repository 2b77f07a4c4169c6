"""A library in the place of mteb, with what the adapter calls of it."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Task:
    """Has what the adapter asks of a task: 4 pictures, each to be found among the classes."""

    is_aggregate = False
    hf_subsets = ("default",)
    eval_splits = ("test",)
    found = 3

    def __init__(
        self, name: str, kind: str = "ZeroShotClassification", modalities=("image", "text"), **source
    ):
        self.metadata = SimpleNamespace(
            name=name,
            type=kind,
            main_score="accuracy",
            modalities=list(modalities),
            dataset={"path": "owner/name", "revision": "1", **source},
        )
        self.data_loaded = False
        self.dataset: dict[str, range] | None = None

    def load_data(self):
        if self.metadata.name == "Gone":
            raise OSError("no such place\nand what else is said")
        self.dataset, self.data_loaded = {"test": range(4)}, True

    def unload_data(self):
        self.data_loaded = False


class Library(ModuleType):
    __version__ = "2.5"

    def __init__(self, *tasks: Task):
        super().__init__("mteb")
        self.tasks, self.calls, self.score, self.failure = {t.metadata.name: t for t in tasks}, [], 0.75, None

    def get_task(self, name):
        return self.tasks[name]

    def get_tasks(self, modalities):
        return list(self.tasks.values())

    def get_benchmark(self, name):
        assert name == "MIEB(lite)"
        return SimpleNamespace(tasks=list(self.tasks.values()))

    def evaluate(self, model, task, **how):
        self.calls.append(how)
        if self.failure:
            raise self.failure
        return SimpleNamespace(task_results=[SimpleNamespace(get_score=lambda: self.score)])


class Meta:
    model_fields = {"name": SimpleNamespace(is_required=lambda: True)}  # noqa: RUF012

    @staticmethod
    def model_construct(**values):
        return SimpleNamespace(**values)


def put_in_place(made: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Have what imports mteb find `made`."""
    datasets: Any = ModuleType("datasets")
    meta: Any = ModuleType("mteb.models.model_meta")
    datasets.__version__, meta.ModelMeta = "4.1.0", Meta
    modules = {
        "mteb": made,
        "datasets": datasets,
        "mteb.models": ModuleType("mteb.models"),
        meta.__name__: meta,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made
