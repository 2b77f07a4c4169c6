from __future__ import annotations

from pathlib import Path

import pytest

from openslip import recipes
from openslip.ablation.grid import load, parse, shipped, shipped_text
from openslip.cli import main
from openslip.errors import ConfigError

HEAD = 'recipe = "scenes-tiny"\nseeds = [0, 7]\n'
CLIP = '[variants.clip]\nobjective.loss = "clip"\n'
SLIP = "[variants.slip]\n"


def grid(text: str):
    return parse(text, Path("mine.toml"))


def test_variants_change_the_base_and_the_seed() -> None:
    found = grid(HEAD + '[shared]\ntraining.epochs = 2\n"data.train" = "x.csv"\n' + SLIP + CLIP)
    base = recipes.get("scenes-tiny")
    assert [run.name for run in found.runs] == ["slip-seed0", "clip-seed0", "slip-seed7", "clip-seed7"]
    assert found.out == Path("runs/mine")
    clip = found.runs[3].config
    assert (clip.training.epochs, clip.training.seed, clip.data.train) == (2, 7, "x.csv")
    assert clip.objective.loss == "clip"
    assert clip.objective.options == {}  # those of SimCLR, which is not part of it
    assert clip.model == base.model
    assert found.runs[0].config.objective == base.objective


def test_products() -> None:
    found = grid(
        HEAD + SLIP + '[variants.soft]\nobjective.loss = "clip + 0.5 * simclr"\n'
        "[variants.soft.grid]\nobjective.simclr.temperature = [0.1, 0.2]\n"
        "[grid]\ntraining.batch = [32, 64]\n"
    )
    names = [variant.name for variant in found.variants]
    assert names[:2] == ["slip-batch-32", "slip-batch-64"]
    assert names[2:] == [f"soft-batch-{b}-temperature-{t}" for b in (32, 64) for t in (0.1, 0.2)]
    last = found.variants[-1].config
    assert (last.training.batch, last.objective.options["simclr"]["temperature"]) == (64, 0.2)
    alone = grid(HEAD + "[grid]\noptimizer.image.lr = [1e-3]\noptimizer.text.lr = [1e-3, 1e-4]\n")
    assert [v.name for v in alone.variants] == [
        "image.lr-0.001-text.lr-0.001",
        "image.lr-0.001-text.lr-0.0001",
    ]


def test_tasks_and_recipes_of_variants() -> None:
    found = parse(
        'tasks = ["knn:x"]\n[shared]\ndata.train = "a"\n[variants.b]\nrecipe = "clip-vit-b16-yfcc15m"\n',
        Path("a.toml"),
        "elsewhere",
    )
    (variant,) = found.variants
    assert variant.config.evaluation.tasks == ("knn:x",)
    assert variant.config.optimizer.lr == 5e-4
    assert (found.out, found.seeds) == (Path("elsewhere"), (0,))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD, "has no variants"),
        (HEAD + "[varaints.a]\n", "no key 'varaints'. Did you mean 'variants'"),
        (HEAD + "[training]\nepochs = 2\n" + SLIP, r"Put a value of all runs under \[shared\]"),
        (HEAD + "[shared]\ntraining.epoch = 3\n" + SLIP, "variant slip: .*Did you mean 'epochs'"),
        (HEAD + CLIP + "objective.clip.blok = 3\n", "variant clip: .*Did you mean 'block'"),
        (HEAD + SLIP + "training.seed = 3\n", "Put seeds at the top"),
        (HEAD + SLIP + '[variants."a/b"]\ntraining.epochs = 1\n', "cannot be that of a folder"),
        (HEAD + SLIP + "[variants.Slip]\ntraining.epochs = 1\n", "have the name Slip"),
        (HEAD + SLIP + "[variants.same]\ntraining.epochs = 6\n", "slip and same are the same configuration"),
        (HEAD + SLIP + CLIP + 'equal_compute = "slup"\n', "no other variant. Did you mean 'slip'"),
        (
            HEAD + SLIP + CLIP + 'equal_compute = "slip"\ntraining.epochs = 3\n',
            "length of clip is given twice",
        ),
        (HEAD + "[grid]\ntraining.batch = 32\n", "takes a list of values"),
        (HEAD + '[shared]\ntasks = ["a"]\n' + SLIP, "'tasks' has no meaning"),
        (HEAD + SLIP + "optimizer.lr = -1.0\n", "must be at least 0"),
        ("seeds = [0, 0]\nrecipe = 'scenes-tiny'\n" + SLIP, "a list of different ones"),
        ("recipe = 'scenes-tinny'\n" + SLIP, "Did you mean 'scenes-tiny'"),
        ("seeds = [-1]\nrecipe = 'scenes-tiny'\n" + SLIP, "different ones from 0 on"),
        (f"seeds = [{2**63}]\nrecipe = 'scenes-tiny'\n" + SLIP, "different ones from 0 on"),
        ('tasks = ["kn:x"]\n' + HEAD + SLIP, "variant slip: .*Did you mean"),
        ('out = "a\\u0000b"\n' + HEAD + SLIP, "'out' is the folder"),
        (HEAD + SLIP + 'equal_compute = "slip"\n', "which is no other variant\\.$"),
        (
            HEAD + "[grid]\n" + "".join(f"training.b{i} = {[*range(99)]}\n" for i in range(6)),
            "The grid has 941,480,149,401 runs, and 10,000 are the most",
        ),
        (SLIP, "has no configuration to change"),
        ("recipe = 'small-data'\n" + SLIP, "No training data"),
        ("recipe = ", "not valid TOML"),
    ],
)
def test_what_cannot_be_is_said(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        grid(text)


def test_shipped_grids_are_grids(capsys) -> None:
    for name in shipped():
        assert len(parse(shipped_text(name), Path(name)).variants) > 2
    assert main(["ablate", "show"]) == 0
    assert "paper-ssl" in capsys.readouterr().out
    assert main(["ablate", "show", "paper-ssl"]) == 0
    assert capsys.readouterr().out == shipped_text("paper-ssl")
    assert main(["ablate", "show", "paper-sls"]) == 1
    assert "Did you mean 'paper-ssl'" in capsys.readouterr().err
    ssl = {v.name: v.config for v in parse(shipped_text("paper-ssl"), Path("a")).variants}
    assert ssl["slip-decoupled"].data.ssl
    for name in ("simclr", "mocov3", "byol", "ibot"):
        assert ssl[f"slip-{name}"].objective.loss == f"clip + 1.0 * {name}"
    assert ssl["clip-crop-flip"].views.image.flip == 0.5


def test_errors_name_the_file(tmp_path) -> None:
    (tmp_path / "g.toml").write_text("x = 1")
    with pytest.raises(ConfigError, match=r"In .*g.toml: A grid has no key 'x'"):
        load(tmp_path / "g.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
