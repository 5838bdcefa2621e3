"""How DeepSpeed computes in half precision here: by autocast over float32 weights, as every other strategy."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer


class Autocast(DeepSpeedPrecision):
    """Float32 weights, and autocast around each step: DeepSpeed's own half precision would round the weights.

    Args:
        dtype: of the matrix products; None: float32.
        kind: the device's type in PyTorch.
        keep_casts: of weights, for the next micro-step; where weights are sharded, they would add up to a whole model.
    """

    def __init__(self, dtype: torch.dtype | None, kind: str, *, keep_casts: bool = True) -> None:
        super().__init__("32-true")
        self._dtype, self._kind, self._keep_casts = dtype, kind, keep_casts

    def convert_module(self, module: nn.Module) -> nn.Module:
        """As it is."""
        return module

    def convert_input(self, data: Any) -> Any:
        """As it is."""
        return data

    def forward_context(self) -> AbstractContextManager:
        """Around a training, validation or test step."""
        enabled = self._dtype is not None
        return torch.autocast(self._kind, dtype=self._dtype, enabled=enabled, cache_enabled=self._keep_casts)

    def backward(
        self, tensor: Tensor, model: LightningModule, optimizer: Optimizer | None, *args: Any, **options: Any
    ) -> None:
        """Add the gradients of `tensor`."""
        model.trainer.strategy.add_gradients(tensor)

    def optimizer_step(self, optimizer: Any, model: LightningModule, closure: Callable[[], Any], **_: Any) -> Any:
        """Clip and step."""
        result = closure()
        model.trainer.strategy.deepspeed_engine.step()
        return result
