"""Training in float64 where the code asks for fp32: what is left of a difference then is no rounding."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Float64(TorchFunctionMode):
    """Make float64 of every fp32 tensor that is asked for by its type, and let it pass for fp32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = {name: _widened(value) for name, value in (kwargs or {}).items()}
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        result = func(*map(_widened, args), **kwargs)
        # Optimizers and gradient clipping take fp32 by its name.
        if func is torch.Tensor.type and isinstance(result, str):
            return result.replace("Double", "Float")
        return result


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
