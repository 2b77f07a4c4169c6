"""`make test-oldest` tests the versions that pyproject.toml promises."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NOT_TESTED = {"trackio", "zensical", "mkdocstrings-python"}
"""No release of trackio installs beside the lowest Pillow. The others build the site, and no test needs them."""


def test_the_oldest_versions_tested_are_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    bounds = {
        canonicalize_name(required.name): Version(bound.version)
        for required in map(Requirement, [*project["dependencies"], *extras])
        for bound in required.specifier
        if bound.operator == ">="
    }
    lines = (ROOT / "constraints-oldest.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    tested = {name: Version(version) for name, version in pins.items() if name in bounds}
    assert tested == {name: bound for name, bound in bounds.items() if name not in NOT_TESTED}
