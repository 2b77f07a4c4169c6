"""What of a run is kept, and which views are not drawn for that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openslip.config import Config
from openslip.errors import ConfigError
from openslip.models.tuning import tune
from openslip.needs import IMAGE, SSL_VIEWS, TEXT, Need
from openslip.objectives import Objective
from openslip.objectives.combine import Loss, Term, parse
from openslip.processes import Processes
from openslip.training.fixed import read_fixed
from openslip.training.kept_features import check_epochs, keeping
from openslip.training.student import Student, build_student
from toys import make_tiny_config, toy_model, with_loss


class Patches(Objective):
    """Needs a feature and patch tokens of one view, and a feature of another."""

    name = "patches"
    title = "Patches"
    views = SSL_VIEWS
    needs = (Need("ssl_1"), Need("ssl_1", "tokens"), Need("ssl_2"))


class Hidden(Objective):
    """Needs patches that are masked."""

    name = "hidden"
    title = "Hidden"
    views = (IMAGE,)
    needs = (Need("image", masked=True),)


def run_of(
    loss: str, *kinds: type[Objective], freeze: str = "all", text: str = "none", **options
) -> tuple[Config, Student]:
    """Return the configuration of a run that keeps features, and what the run trains."""
    config = with_loss(make_tiny_config(keep_features=2), loss, **options)
    image = replace(config.model.image, freeze=freeze)
    model = replace(config.model, image=image, text=replace(config.model.text, freeze=text))
    config = replace(config, model=model)
    whole = Loss(
        (*parse(config.objective).terms, *(Term(1.0, kind.name, kind, kind.Config()) for kind in kinds))
    )
    student = build_student(config, whole, fixed=read_fixed(config, whole, Processes(), toy_model))
    tune(student.model, config.model, config.views.size)
    return config, student


def kept_of(config: Config, student: Student, *, ssl: bool = False) -> tuple[set[str], set[str], set[str]]:
    """Return the names of the outputs that are kept, of views that are not drawn, and of those that repeat."""
    found = keeping(config, student, ssl=ssl)
    return {output.name for output in found.outputs}, set(found.kept.undrawn), set(found.kept.repeated)


def test_a_frozen_tower_is_kept_of_every_view() -> None:
    names = {"image.feature", "ssl_1.feature", "ssl_2.feature"}
    views = {"image", "ssl_1", "ssl_2"}
    assert kept_of(*run_of("clip + 1.0 * simclr")) == (names, views, views)


def test_the_outputs_of_pictures_of_their_own_lie_apart() -> None:
    found = keeping(*run_of("clip + 1.0 * simclr", text="all"), ssl=True)
    assert {output.name: output.source for output in found.outputs} == {
        "image.feature": "train",
        "text.feature": TEXT,
        "ssl_1.feature": "ssl",
        "ssl_2.feature": "ssl",
    }


def test_what_a_teacher_that_moves_sees_is_drawn() -> None:
    names, undrawn, repeated = kept_of(*run_of("clip + byol"))
    assert names == {"image.feature", "ssl_1.feature", "ssl_2.feature"}
    assert undrawn == {"image"}
    assert repeated == {"image", "ssl_1", "ssl_2"}


def test_a_fixed_models_own_view_is_not_drawn_and_the_students_repeats_with_it() -> None:
    names, undrawn, repeated = kept_of(*run_of("clip + distil + 1.0 * simclr", freeze="none"))
    assert names == {"distil.image@24.embedding", "distil.text.embedding"}
    assert undrawn == {"image@24"}
    assert repeated == {"image", "image@24"}  # and not the views of simclr


def test_patch_tokens_and_masked_patches_are_computed_at_every_step() -> None:
    config, student = run_of("clip", Patches)
    found = keeping(config, student, ssl=False)
    assert {output.name for output in found.outputs} == {"image.feature", "ssl_2.feature"}
    assert found.kept.undrawn == {"image", "ssl_2"}
    assert found.computed == (
        "ssl_1 is still computed at every step: patch tokens, and outputs of masked patches, are not kept",
    )
    with pytest.raises(
        ConfigError, match=r"no features to keep\. Got.*image is still computed at every step"
    ):
        keeping(*run_of("clip", Hidden), ssl=False)


def test_captions_that_differ_in_every_epoch_are_computed_at_every_step() -> None:
    config, student = run_of("clip + distil", text="all", captions=2)
    found = keeping(config, student, ssl=False)
    assert {output.name for output in found.outputs} == {
        "image.feature",
        "text.feature",  # of the first caption alone, which distil takes
        "distil.image@24.embedding",
        "distil.text.embedding",
    }
    assert TEXT not in found.kept.undrawn
    assert found.computed == (
        "text is still computed at every step: outputs of several captions of a record are not kept",
    )
    config, student = run_of("clip + distil", text="all")
    config = replace(config, data=replace(config.data, drop_words=0.1))
    found = keeping(config, student, ssl=False)
    assert {output.name for output in found.outputs} == {"image.feature", "distil.image@24.embedding"}
    assert found.computed == (
        "text is still computed at every step: with data.drop_words captions differ in every epoch",
    )


def test_nothing_is_kept_where_nothing_is_asked_for_or_nothing_is_frozen() -> None:
    config, student = run_of("clip")
    assert not keeping(
        replace(config, training=replace(config.training, keep_features=0)), student, ssl=False
    )
    with pytest.raises(ConfigError, match="no tower is frozen, and no model is fixed"):
        keeping(*run_of("clip", freeze="1"), ssl=False)


def test_as_many_epochs_of_views_as_are_trained_on_do_no_good() -> None:
    found = keeping(*run_of("clip"), ssl=False)
    assert check_epochs(found, 2.5) == ""
    assert "no view repeats" in check_epochs(found, 2.0)
    texts = keeping(*run_of("clip", freeze="none", text="all"), ssl=False)
    assert check_epochs(texts, 0.5) == ""


def test_widths_are_those_of_the_outputs() -> None:
    config, student = run_of("clip + distil", text="all")
    widths = {output.name: output.width for output in keeping(config, student, ssl=False).outputs}
    assert widths == {
        "image.feature": student.model.image_tower.width,
        "text.feature": 16,
        "distil.image@24.embedding": 8,
        "distil.text.embedding": 8,
    }
