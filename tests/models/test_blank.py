from __future__ import annotations

import pytest
import torch

from openslip.config import ImageTowerConfig, ModelConfig, TextTowerConfig, ViewConfig
from openslip.errors import ConfigError
from openslip.models import Model
from openslip.models.blank import fill

NAMES = [
    "vit",
    "test_vit",  # plain
    "test_efficientnet",  # BatchNorm
    "swin_tiny_patch4_window7_224",  # indices of relative positions, masks of shifted windows
    "swinv2_cr_tiny_ns_224",  # looks at its parameters' device
    "vit_tiny_r_s16_p8_224",  # tries its stem on a picture
    "eva02_tiny_patch14_224",  # tables of rotary positions
]


def _model(name: str, size: int = 224, **options: object) -> Model:
    image = ImageTowerConfig(name=name, width=24, depth=1, heads=3)
    text = TextTowerConfig(width=16, depth=1, heads=2, vocabulary=100)
    return Model(ModelConfig(image=image, text=text, embed_dim=8), size, text=True, shared=True, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_filled_model_computes_what_the_one_with_these_weights_does(name: str) -> None:
    torch.manual_seed(0)
    real = _model(name).eval()
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = _model(name)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    fill(model, real.state_dict())
    images, tokens = torch.randn(1, 3, 224, 224), torch.tensor([[5, 99]])
    assert torch.equal(model.eval().encode_image(images), real.encode_image(images))
    assert torch.equal(model.encode_text(tokens), real.encode_text(tokens))
    assert all(
        mine.requires_grad == own.requires_grad for mine, own in zip(model.parameters(), real.parameters())
    )


def test_weights_of_another_precision_are_cast() -> None:
    real = _model("vit").half()
    with torch.device("meta"):
        model = _model("vit")
    fill(model, real.state_dict())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_lacks_weights_is_not_filled() -> None:
    with torch.device("meta"):
        model = _model("vit")
    with pytest.raises(RuntimeError, match="logit_scale"):
        fill(model, {})


@pytest.mark.parametrize("name", ["test_vit", "mixer_s16_224"])
def test_views_of_other_sizes_are_tried_without_weights_too(name: str) -> None:
    views = {"image": ViewConfig(size=224), "local": ViewConfig(size=96)}
    with torch.device("meta"):
        if name == "test_vit":
            assert _model(name, views=views).image_tower.trunk.dynamic_img_size
        else:
            with pytest.raises(ConfigError, match="does not take views of 96 pixels"):
                _model(name, views=views)
