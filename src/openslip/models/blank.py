"""Build models without weights, on torch's meta device, and fill them with given weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def on_meta() -> bool:
    """Return whether tensors are now made on the meta device, where they take neither memory nor time."""
    return torch.get_default_device().type == "meta"


@contextmanager
def without_initialising() -> Iterator[None]:
    """Within this context, modules are built on the CPU, and their parameters stay uninitialised.

    Buffers get their values. So a model has the buffers that it computes and no checkpoint holds, such as indices of
    relative positions, even if computing them reads values.
    """
    with torch.device("cpu"), _Untouched():
        yield


def forget_weights(module: nn.Module) -> None:
    """Move a module's parameters to the meta device, in place; its buffers stay where they are."""
    moved: dict[nn.Parameter, nn.Parameter] = {}
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None:
                if old not in moved:
                    moved[old] = nn.Parameter(old.detach().to("meta"), requires_grad=old.requires_grad)
                part._parameters[name] = moved[old]


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module that was built under `torch.device("meta")` its weights, in place; on the CPU, in its own dtypes.

    The weights are copied, because tensors of a file may start at any address, and the last bits of a product depend on
    the addresses of its factors. Raises RuntimeError if names or shapes differ from those of the module.
    """
    own = module.state_dict()
    copies = {
        name: torch.empty(tensor.shape, dtype=own.get(name, tensor).dtype).copy_(tensor)
        for name, tensor in weights.items()
    }
    module.load_state_dict(copies, assign=True)


class _Untouched(TorchFunctionMode):
    """Skip functions that write into a parameter, such as all initialisers."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        into = args[0] if args else kwargs.get("tensor")
        writes = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        return into if writes and isinstance(into, nn.Parameter) else func(*args, **kwargs)
