"""How the weights move: AdamW (Loshchilov & Hutter 2019) with warm-up and decay, counted in optimizer steps.

With `layer_decay` lower layers, which hold what is general, move more slowly than upper ones.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

if TYPE_CHECKING:
    import torch

LAYER = re.compile(r"\bencoder\.layer\.(\d+)\.")
EMBEDDING = re.compile(r"\bnetwork\.embeddings\.")


@dataclass(frozen=True)
class Optim:
    """Options of the optimizer and of when to stop.

    Args:
        lr: the highest learning rate, reached after warm-up.
        epochs: passes over the training split. max_steps: stops earlier, after that many optimizer steps.
        warmup_fraction: share of all steps in which the rate rises from 0. decay: how it falls to 0 afterwards.
        clip_norm: the gradient's largest norm.
        patience: validations without improvement after which training stops; None: never.
        layer_decay: factor on the learning rate from one layer to the next lower one (Clark et al. 2020, ELECTRA; Bao
            et al. 2022, BEiT); the head and the norm after the last layer learn at `lr`. 1: all do.
    """

    lr: Annotated[float, Gt(0)]
    epochs: Annotated[int, Gt(0)]
    max_steps: Annotated[int, Gt(0)] | None
    weight_decay: Annotated[float, Ge(0)]
    warmup_fraction: Annotated[float, Ge(0), Le(1)]
    decay: Literal["cosine", "linear", "constant"]
    clip_norm: Annotated[float, Gt(0)]
    patience: Annotated[int, Gt(0)] | None
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0

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

        optimizer = torch.optim.AdamW(self._groups(model), lr=self.lr, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step, total))

    def _groups(self, model: "torch.nn.Module") -> list[dict[str, Any]]:
        """Weights that learn, by learning rate and by whether they decay: matrices first."""
        learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if self.layer_decay == 1:
            rates = dict.fromkeys((name for name, _ in learning), self.lr)
        else:
            below = steps_below_head([name for name, _ in model.named_parameters()])
            rates = {name: self.lr * self.layer_decay ** below[name] for name, _ in learning}
        groups = []
        for rate in sorted(set(rates.values()) or {self.lr}, reverse=True):
            for matrices in (True, False):
                chosen = [p for name, p in learning if rates[name] == rate and (p.ndim >= 2) == matrices]
                decay = self.weight_decay if matrices else 0.0
                groups.append({"params": chosen, "weight_decay": decay, "lr": rate})
        return groups


def steps_below_head(names: Sequence[str]) -> dict[str, int]:
    """How far below the head each weight lies: 0 for the head and what follows the last layer, 1 for the last layer,
    layers + 1 for the embedding.

    Args: names: of all weights of a model, those that don't learn included, because they tell how many layers it has.
    """
    numbers = {name: int(found[1]) for name in names if (found := LAYER.search(name))}
    layers = max(numbers.values(), default=-1) + 1
    found = {name: layers - number for name, number in numbers.items()}
    return {name: found.get(name, layers + 1 if EMBEDDING.search(name) else 0) for name in names}
