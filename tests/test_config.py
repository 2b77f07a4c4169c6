"""How views are drawn, by their kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openslip import toml
from openslip.config import Config, ViewsConfig
from openslip.errors import ConfigError


@pytest.mark.parametrize(
    ("size", "local"), [(224, 96), (256, 112), (288, 128), (384, 160), (96, 48), (64, 32), (32, 16), (8, 16)]
)
def test_sizes_follow_from_that_of_the_images(size: int, local: int) -> None:
    views = ViewsConfig(size=size)
    assert {kind: views.of(kind).size for kind in views.kinds} == {"image": size, "ssl": size, "local": local}
    own = replace(views, local=replace(views.local, size=40))
    assert (own.of("local").size, own.of("ssl").size) == (40, size)


def test_a_kind_that_is_none() -> None:
    with pytest.raises(ConfigError, match="no such kind of view.*lokal.*Did you mean 'local'"):
        ViewsConfig().of("lokal")
    with pytest.raises(ConfigError, match="no such kind"):
        ViewsConfig().of("size")


def test_configurations_without_local_views_are_read_as_before() -> None:
    saved = toml.to_dict(Config())
    del saved["views"]["local"]
    assert toml.from_dict(saved) == Config()
