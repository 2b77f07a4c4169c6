from __future__ import annotations

import pytest
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from openslip.errors import ConfigError
from openslip.models import Model
from openslip.models.blank import fill
from openslip.models.positions import IMAGE, TEXT, fitted

TINY = ImageTowerConfig(patch=8, width=24, depth=1, heads=3)


def _model(image: ImageTowerConfig = TINY, size: int = 32, **text: object) -> Model:
    config = TextTowerConfig(**{"width": 16, "depth": 1, "heads": 2, "context": 12, **text})  # type: ignore[arg-type]
    torch.manual_seed(0)
    return Model(ModelConfig(image=image, text=config, embed_dim=10), size, text=True, shared=True)


def test_position_embeddings_get_the_models_grid() -> None:
    weights = _model().state_dict()
    new, notes = fitted(_model(size=64), weights)
    assert notes == ["position embeddings 4x4 to 8x8"]
    name = f"{IMAGE}pos_embed"
    torch.testing.assert_close(new[name], resample_abs_pos_embed(weights[name], [8, 8]))
    assert torch.equal(new[name][:, :1], weights[name][:, :1])
    assert all(new[key] is weights[key] for key in weights if key != name)
    model = _model(size=64)
    model.load_state_dict(new)
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


def test_what_fits_stays_as_it_is() -> None:
    weights = _model().state_dict()
    new, notes = fitted(_model(), weights)
    assert not notes
    assert all(new[name] is weights[name] for name in weights)


@pytest.mark.parametrize(
    ("name", "old", "size", "note"),
    [
        ("test_vit", 160, 96, "position embeddings 10x10 to 6x6"),
        ("vit_base_patch16_siglip_224", 224, 64, "position embeddings 14x14 to 4x4"),
        ("swin_tiny_patch4_window7_224", 224, 96, "relative positions of windows 7x7 to 3x3"),
        ("beit_base_patch16_224", 224, 96, "relative positions of windows 14x14 to 6x6"),
    ],
)
def test_timms_towers(name: str, old: int, size: int, note: str) -> None:
    with torch.device("meta"):
        shapes = Model(ModelConfig(image=ImageTowerConfig(name=name)), old).state_dict()
        model = Model(ModelConfig(image=ImageTowerConfig(name=name)), size)
    weights = {key: torch.zeros(shape.shape, dtype=shape.dtype) for key, shape in shapes.items()}
    new, notes = fitted(model, weights)
    assert note in notes
    fill(model, new)
    assert model.image_tower.eval()(torch.zeros(1, 3, size, size)).isfinite().all()


def test_a_shorter_context_keeps_the_first_positions() -> None:
    weights = _model().state_dict()
    new, notes = fitted(_model(context=5), weights)
    assert torch.equal(new[TEXT], weights[TEXT][:5])
    assert notes == ["text positions 12 to 5: the first ones"]


def test_the_last_position_stays_the_last_where_the_feature_is_there() -> None:
    weights = _model(pool="last").state_dict()
    new, _ = fitted(_model(context=5, pool="last"), weights)
    assert torch.equal(new[TEXT], weights[TEXT][[0, 1, 2, 3, 11]])


def test_a_longer_context_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--model\.text\.context 12 or less"):
        fitted(_model(context=20), _model().state_dict())


def test_what_is_of_another_width_comes_back_as_it_is() -> None:
    wide = ImageTowerConfig(patch=8, width=48, depth=1, heads=3)
    weights = _model().state_dict()
    new, notes = fitted(_model(wide, size=64), weights)
    assert not notes
    assert all(new[name] is weights[name] for name in weights)
