"""What `import openslip` promises: every name of `__all__` is there, documented, and cheap until it is used."""

import subprocess
import sys

import pytest

import openslip
from openslip.errors import ConfigError
from toys import make_tiny_config


@pytest.mark.parametrize("name", openslip.__all__)
def test_every_name_is_there_and_documented(name) -> None:
    assert name in dir(openslip)
    assert getattr(openslip, name).__doc__


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        openslip.nothing  # noqa: B018


def test_importing_is_cheap() -> None:
    code = "import sys, openslip; print([m for m in ('torch', 'numpy', 'timm', 'PIL') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_evaluate_measures_a_loaded_model() -> None:
    model = openslip.create(make_tiny_config())
    (result, *_) = openslip.evaluate(model, "knn:scenes:test:60", k=3)
    assert result.task == "knn:scenes"
    assert result.low <= result.value <= result.high
    measured = openslip.evaluate(model, "knn:scenes:test:60", k=3)
    assert repr(measured).splitlines()[0].split() == [
        "task",
        "metric",
        "value",
        "95",
        "%",
        "interval",
        "samples",
    ]
    assert f"<td>{result.metric}</td><td>{result.value:.1%}</td>" in measured._repr_html_()
    with pytest.raises(ConfigError, match="no task to measure"):
        openslip.evaluate(model)
