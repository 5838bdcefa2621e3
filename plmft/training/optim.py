"""How the weights move: AdamW (Loshchilov & Hutter 2019) with warm-up and decay, counted in optimizer steps."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Optim:
    """Options of the optimizer and of when to stop.

    Args:
        lr: the highest learning rate, reached after warm-up.
        epochs: passes over the training split. max_steps: stops earlier, after that many optimizer steps.
        warmup_fraction: share of all steps in which the rate rises from 0. decay: how it falls to 0 afterwards.
        clip_norm: the gradient's largest norm.
        patience: validations without improvement after which training stops; None: never.
    """

    lr: Annotated[float, Gt(0)]
    epochs: Annotated[int, Gt(0)]
    max_steps: Annotated[int, Gt(0)] | None
    weight_decay: Annotated[float, Ge(0)]
    warmup_fraction: Annotated[float, Ge(0), Le(1)]
    decay: Literal["cosine", "linear", "constant"]
    clip_norm: Annotated[float, Gt(0)]
    patience: Annotated[int, Gt(0)] | None

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run, early stopping aside."""
        return min(self.epochs * steps_per_epoch, self.max_steps or self.epochs * steps_per_epoch)

    def rate(self, step: int, total: int) -> float:
        """The learning rate's factor in [0, 1] at optimizer step `step` of `total`, from 0."""
        warmup = round(self.warmup_fraction * total)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total - warmup)
        if self.decay == "constant":
            return 1.0
        return 1 - progress if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

    def build(
        self, model: "torch.nn.Module", total: int
    ) -> tuple["torch.optim.Optimizer", "torch.optim.lr_scheduler.LambdaLR"]:
        """Optimizer and schedule over the weights that learn; norms and biases are not decayed."""
        import torch

        learning = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learning if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step, total))
