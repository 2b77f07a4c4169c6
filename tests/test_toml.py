from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip import recipes, toml
from openslip.config import Config, TrainingConfig
from openslip.errors import ConfigError


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_survives_toml(name: str) -> None:
    config = recipes.get(name)
    assert config.name == name
    assert toml.loads(toml.dumps(config)) == config


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    lr=st.floats(1e-9, 1e3),
    scale=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    tasks=st.lists(st.text("abc:/é\"'\\\n", max_size=8), max_size=3),
)
def test_any_values_survive_toml(text, lr, scale, tasks) -> None:
    config = Config(name=text)
    config = replace(config, optimizer=replace(config.optimizer, lr=lr))
    config = replace(config, views=replace(config.views, image=replace(config.views.image, scale=scale)))
    config = replace(config, evaluation=replace(config.evaluation, tasks=tuple(tasks)))
    assert toml.loads(toml.dumps(config)) == config


def test_keys_left_out_keep_the_base() -> None:
    base = Config(training=TrainingConfig(batch=7, epochs=3))
    config = toml.loads("[training]\nepochs = 5\n", base)
    assert (config.training.batch, config.training.epochs) == (7, 5.0)
    assert isinstance(config.training.epochs, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nbach = 3\n", r"'training\.bach'.*Did you mean 'batch'"),
        ("[trainig]\nbatch = 3\n", r"'trainig'.*Did you mean 'training'"),
        ("[views.image]\nflipp = 0.5\n", r"'views\.image\.flipp'.*'flip'"),
        ("[training]\nbatch = 'many'\n", r"'training\.batch' takes a value of type int.*Got: 'many'"),
        ("[training]\nbatch = true\n", r"'training\.batch' takes a value of type int"),
        ("[training]\nprecision = 'bf17'\n", r"no choice 'bf17'.*Did you mean 'bf16'"),
        ("[views.image]\nscale = [1]\n", r"'views\.image\.scale' takes 2 values"),
        ("[views.image]\nscale = 1\n", r"'views\.image\.scale' takes a list"),
        ("[evaluation]\ntasks = [1]\n", r"'evaluation\.tasks' takes a value of type str"),
        ("training = 3\n", r"'training' is a section"),
        ("[training\n", r"not valid TOML"),
    ],
)
def test_wrong_files_teach(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toml.loads(text)


def test_loading_a_missing_or_binary_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*none\.toml"):
        toml.load(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        toml.load(tmp_path / "x.toml")
    (tmp_path / "y.toml").write_text("nme = 'x'\n")
    with pytest.raises(ConfigError, match=r"In .*y\.toml: .*Did you mean 'name'"):
        toml.load(tmp_path / "y.toml")


def test_keys_of_earlier_versions_are_found_where_they_are_now() -> None:
    config = toml.loads("[training]\ntensorboard = true\nbatch = 5\n")
    assert (config.tracking.tensorboard, config.training.batch) == (True, 5)
    config = toml.loads("[training]\ntensorboard = true\n[tracking]\nwandb = 'mine'\n")
    assert (config.tracking.tensorboard, config.tracking.wandb) == (True, "mine")
