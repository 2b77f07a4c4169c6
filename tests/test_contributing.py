"""What the files for contributors name exists: make targets, paths, and the versions of the pinned tools."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_make_target_that_the_docs_name_exists() -> None:
    for name in ("CONTRIBUTING.md", "README.md", ".ci/run"):
        named = re.findall(r"^make ((?:[a-z-]+ ?)+)|`make ((?:[a-z-]+ ?)+)", (ROOT / name).read_text(), re.M)
        words = {word for groups in named for group in groups for word in group.split()}
        assert words <= targets(), name


def test_every_make_target_that_is_phony_has_a_line_of_help_or_is_a_file() -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", text, re.MULTILINE)
    assert (
        set(phony.replace("\\\n", " ").split())
        == targets()
        == set(re.findall(r"^([a-z-]+):.*## ", text, re.M))
    )


def test_every_path_that_contributing_names_exists() -> None:
    for path in re.findall(
        r"`((?:src|tests|benchmarks|\.ci)/[\w./-]+)`", (ROOT / "CONTRIBUTING.md").read_text()
    ):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path


def test_the_hooks_have_the_versions_that_are_pinned() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    needed = [one for hook in hooks for one in hook.get("additional_dependencies", [])]
    assert needed
    assert set(needed) <= set(pinned)


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_the_forms_and_workflows_are_yaml(path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_workflow_runs_every_python_that_is_promised() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["run"]
    promised = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert job["strategy"]["matrix"]["python"] == promised
    assert job["steps"][-1] == {"run": "bash .ci/run"}
