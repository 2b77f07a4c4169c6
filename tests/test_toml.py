from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openslip import recipes, toml
from openslip.config import Config, ModelConfig, ObjectiveConfig, TrainingConfig
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


def test_sections_that_others_know_are_kept_as_they_are() -> None:
    config = toml.loads("[objective]\nloss = 'mine'\n[objective.mine]\nwidths = [1, 2]\nkind = 'a'\n")
    assert config.objective == ObjectiveConfig(loss="mine", options={"mine": {"widths": [1, 2], "kind": "a"}})
    assert toml.loads(toml.dumps(config)) == config
    assert toml.flat(config)["objective.mine.widths"] == [1, 2]
    changed = toml.loads("[objective.mine]\nkind = 'b'\n[objective.other]\nx = 1\n", config)
    assert changed.objective.options == {"mine": {"widths": [1, 2], "kind": "b"}, "other": {"x": 1}}
    assert toml.loads("[training]\nbatch = 3\n", config).objective == config.objective


def test_a_section_cannot_pass_for_a_field() -> None:
    config = Config(objective=ObjectiveConfig(options={"loss": {"x": 1}}))
    with pytest.raises(ConfigError, match=r"'objective\.loss' takes a value of type str"):
        toml.from_dict(toml.to_dict(config))
    with pytest.raises(ConfigError, match=r"Unknown configuration key 'objective\.simclr'"):
        toml.loads("[objective]\nsimclr = 3\n")
    with pytest.raises(ConfigError, match=r"Unknown configuration key 'objective\.temprature'"):
        toml.loads("[objective]\ntemprature = 3\n")


OLD = """
[objective]
loss = "clip + 1.0 * simclr"
temperature = 0.2
block = 7
gradient = "reference"
[model]
embed_dim = 5
[model.ssl]
width = 32
dim = 16
"""


def test_options_of_objectives_have_sections_of_their_own(tmp_path, caplog) -> None:
    (tmp_path / "old.toml").write_text(OLD)
    for _ in range(2):
        config = toml.load(tmp_path / "old.toml")
    assert config == toml.loads(OLD)
    assert config.model == ModelConfig(embed_dim=5)
    assert config.objective.options == {
        "clip": {"block": 7, "gradient": "reference"},
        "simclr": {"temperature": 0.2, "block": 7, "width": 32, "dim": 16},
    }
    (told,) = caplog.messages
    assert "old.toml was written by an earlier version" in told
    assert "objective.block is objective.clip.block and objective.simclr.block" in told
    assert toml.load(tmp_path / "old.toml") == toml.loads(toml.dumps(config))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "[objective]\ntemperature = 1\n[objective.simclr]\ntemperature = 2\n",
            {"simclr": {"temperature": 2}},
        ),
        ("[objective.temperature]\nx = 1\n", {"temperature": {"x": 1}}),
        ("[objective]\nsimclr = 3\ntemperature = 1\n", None),
        ("objective = 3\n[model.ssl]\ndim = 4\n", None),
        ("model = 3\n", None),
        ("[model]\nssl = 3\n", None),
        ("[model.ssl]\ndim = 4\ndepth = 3\n", None),
    ],
)
def test_odd_files_of_an_earlier_version(text, options) -> None:
    if options is None:
        with pytest.raises(ConfigError, match=r"section|Unknown"):
            toml.loads(text)
    else:
        assert toml.loads(text).objective.options == options


def test_keys_of_earlier_versions_are_found_where_they_are_now() -> None:
    config = toml.loads("[training]\ntensorboard = true\nbatch = 5\n")
    assert (config.tracking.tensorboard, config.training.batch) == (True, 5)
    config = toml.loads("[training]\ntensorboard = true\n[tracking]\nwandb = 'mine'\n")
    assert (config.tracking.tensorboard, config.tracking.wandb) == (True, "mine")
