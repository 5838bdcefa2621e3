"""Backbone and head together: a PackedBatch in; loss and predictions in the task's own unit out."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from plmft import InputError
from plmft.data.packing import PackedBatch, StepBatch
from plmft.data.records import Kind
from plmft.models.objectives import OBJECTIVES
from plmft.models.windows import Windows


class Predictor(nn.Module):
    """Predicts a number or class probabilities for each sequence, pair or residue, or contacts between residues.

    Regression targets are standardised by mean and deviation of the training split (`fit_scale`), so that the learning
    rate does not depend on the unit; predictions are given in the unit of the data.

    Args:
        windows: how sequences beyond the model's context are read; None: there are none.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, kind: Kind, windows: Windows | None = None) -> None:
        super().__init__()
        self.backbone, self.head, self.kind, self.windows = backbone, head, kind, windows
        self.objective = OBJECTIVES.get(kind)
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_deviation", torch.ones(()))
        self.register_buffer("class_weights", None, persistent=False)  # (C,), or None: all count the same

    @property
    def frozen(self) -> bool:
        """True if no weight of the backbone learns."""
        return not any(p.requires_grad for p in self.backbone.parameters())

    def fit_scale(self, targets: Sequence[float]) -> None:
        """Take mean and deviation from the training targets; a constant target keeps deviation 1."""
        values = np.asarray(targets, dtype=np.float64)
        self.target_mean.fill_(float(values.mean()))
        self.target_deviation.fill_(float(values.std()) or 1.0)

    def train(self, mode: bool = True) -> "Predictor":
        """As usual, but a frozen backbone stays in evaluation mode: dropout in it would only add noise."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, batch: PackedBatch) -> Tensor:
        """(R, outputs) standardised values or scores, or (T, C) scores."""
        vectors = self._vectors(batch)
        # a mean over hundreds of residues differs between variants in its last bits: bf16 would round that away
        with torch.autocast(vectors.device.type, enabled=False):
            return self.head(vectors.float(), batch)

    def _vectors(self, batch: PackedBatch) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.windows is not None:
                return self.windows.read(self.backbone, batch)
            return self.backbone(batch)

    def loss_sum(self, batch: PackedBatch) -> Tensor:
        """Squared errors (of standardised targets) or cross-entropies, summed over the batch's targets, in float32."""
        if self.kind == "contacts":  # pairs of residues are too many to hold: this head adds its loss up by blocks
            vectors = self._vectors(batch)
            with torch.autocast(vectors.device.type, enabled=False):
                return self.head.loss_sum(vectors.float(), batch)
        return self._loss_sum(self(batch), batch.targets)

    def _loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.kind == "sequence_regression":
            targets = (targets - self.target_mean) / self.target_deviation
        return self.objective.loss(outputs.float(), targets, self.class_weights)

    def backward_step(self, step: StepBatch, backward: Callable[[Tensor], None]) -> Tensor:
        """Gradients of one optimizer step's mean loss a target, the same however the step was cut.

        Args:
            backward: called with each scalar whose gradients are to be added.
        Returns: the mean loss, without a graph.
        """
        targets = max(1, step.targets)
        if len(step.micro) > 1 and getattr(self.head, "normalize", False):
            return self._backward_whole(step, targets, backward)
        losses = []
        for batch in step.micro:
            loss = self.loss_sum(batch) / targets
            backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _backward_whole(self, step: StepBatch, targets: int, backward: Callable[[Tensor], None]) -> Tensor:
        """Normalisation needs all pooled vectors of the step, memory holds the graph of one micro-step: so each is
        pooled without a graph, the head gives its gradients, and each is pooled again to pass them on (Gao et al.
        2021, gradient caching). The random state is the same in both passes, so dropout is, too.
        """
        with torch.no_grad(), torch.random.fork_rng():
            pooled = torch.cat([self._pooled(batch) for batch in step.micro])
        pooled.requires_grad_()
        with torch.autocast(pooled.device.type, enabled=False), torch.random.fork_rng():
            outputs = self.head.from_pooled(pooled)
            loss = self._loss_sum(outputs, torch.cat([batch.targets for batch in step.micro])) / targets
        backward(loss)
        if any(p.requires_grad for p in self.backbone.parameters()) or self.head.score is not None:
            for batch, gradient in zip(
                step.micro, pooled.grad.split([len(b.lengths) for b in step.micro]), strict=True
            ):
                backward((self._pooled(batch) * gradient).sum())
        return loss.detach()

    def _pooled(self, batch: PackedBatch) -> Tensor:
        vectors = self._vectors(batch)
        with torch.autocast(vectors.device.type, enabled=False):
            return self.head.pool(vectors.float(), batch)

    @torch.no_grad()
    def predict(self, batch: PackedBatch) -> list[np.ndarray]:
        """For each record in the batch's order: a float64 of shape (), (C,) or (L, C) float32 probabilities, or (L, L)
        float32 contact probabilities.

        Raises: InputError: an output is not finite.
        """
        if self.kind == "contacts":
            vectors = self._vectors(batch)
            _check_finite(vectors[batch.is_residue])
            with torch.autocast(vectors.device.type, enabled=False):
                maps = self.head.predict(vectors.float(), batch)
            for scores in maps:
                _check_finite(torch.from_numpy(scores))
            return maps
        outputs = self(batch).float()
        _check_finite(outputs)
        if self.kind == "sequence_regression":
            return list((outputs[:, 0].double() * self.target_deviation + self.target_mean).cpu().numpy())
        probabilities = self.objective.probabilities(outputs).cpu().numpy()
        if self.kind != "residue_classification":
            return list(probabilities)
        residue, ends = batch.is_residue.cpu().numpy(), np.cumsum(batch.lengths)
        starts = ends - np.array(batch.lengths)
        return [probabilities[a:b][residue[a:b]] for a, b in zip(starts, ends, strict=True)]


def _check_finite(values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise InputError(
            "The model predicts NaN or infinity: training diverged. Lower optim.lr, or set hardware.precision=fp32."
        )


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Numbers of weights: `total` and `trainable`."""
    return {
        "total": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
