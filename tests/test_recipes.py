from dataclasses import replace

import pytest

from openslip import objectives, recipes
from openslip.errors import ConfigError

PAPER = {  # REFERENCE: lr, weight decay, loss
    "slip": (3e-3, 0.1, "clip + 1.0 * simclr"),
    "clip": (5e-4, 0.5, "clip"),
    "simclr": (3.2e-3, 0.1, "simclr"),
}
TOWERS = {"s": (384, 12, 12), "b": (768, 12, 12), "l": (1024, 24, 16)}


@pytest.mark.parametrize("size", TOWERS)
@pytest.mark.parametrize("method", PAPER)
def test_the_papers_nine(method: str, size: str) -> None:
    config = recipes.get(f"{method}-vit-{size}16-yfcc15m")
    lr, weight_decay, loss = PAPER[method]
    optimizer, training, image, text = (
        config.optimizer,
        config.training,
        config.model.image,
        config.model.text,
    )
    assert (optimizer.lr, optimizer.weight_decay, config.objective.loss) == (lr, weight_decay, loss)
    assert (optimizer.betas, optimizer.eps, optimizer.clip_grad) == ((0.9, 0.98), 1e-8, 0)
    assert (optimizer.warmup_epochs, optimizer.lr_start, optimizer.lr_end) == (1, 1e-6, 1e-5)
    assert (training.epochs, training.batch) == (25, 4096)
    assert (image.name, image.patch, image.width, image.depth, image.heads) == ("vit", 16, *TOWERS[size])
    assert (text.width, text.depth, text.heads, text.context, config.model.embed_dim) == (512, 12, 8, 77, 512)
    options = objectives.complete(config.objective).options
    if "simclr" in loss:
        simclr = options["simclr"]
        assert (simclr["width"], simclr["dim"], simclr["temperature"]) == (4096, 256, 0.1)
    views = config.views
    assert (views.size, views.image.scale, views.image.flip, views.image.jitter_probability) == (
        224,
        (0.5, 1),
        0,
        0,
    )
    ssl = views.ssl
    assert (ssl.scale, ssl.jitter, ssl.jitter_probability) == ((0.08, 1), (0.4, 0.4, 0.4, 0.1), 0.8)
    assert (ssl.grayscale, ssl.blur, ssl.blur_sigma, ssl.flip) == (0.2, 0.5, (0.1, 2.0), 0.5)


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'smal-data'.*Did you mean 'small-data'"):
        recipes.get("smal-data")


@pytest.mark.parametrize(
    ("fast", "base"),
    [("small-data-fast", "small-data")]
    + [(f"slip-fast-vit-{s}16-yfcc15m", f"slip-vit-{s}16-yfcc15m") for s in TOWERS],
)
def test_fast_recipes_differ_in_the_views_alone(fast: str, base: str) -> None:
    quick, slow = recipes.get(fast), recipes.get(base)
    image, ssl = quick.views.image, quick.views.ssl
    assert (quick.name, image.drop_tokens, ssl.drop_tokens) == (fast, 0.5, 0.0)
    assert ssl.size % quick.model.image.patch == 0
    assert ssl.size / slow.views.size == pytest.approx(5 / 8, abs=0.02)
    image = replace(image, drop_tokens=0.0)
    ssl = replace(ssl, size=0, blur_sigma=slow.views.ssl.blur_sigma)
    assert replace(quick, name=base, views=replace(quick.views, image=image, ssl=ssl)) == slow
