import pytest
import torch

from openslip.errors import ConfigError
from openslip.objectives import REGISTRY, Byol
from toys import make_student, make_tiny_config, with_loss


def test_a_teachers_heads_are_modules(monkeypatch) -> None:
    class Misspelt(Byol):
        name = "misspelt"
        teacher_heads = ("projektor",)

    monkeypatch.setitem(REGISTRY, "misspelt", Misspelt)
    config = with_loss(make_tiny_config(), "misspelt")
    with pytest.raises(ConfigError, match="misspelt has no head .*no module projektor"):
        make_student(config, torch.float32)
