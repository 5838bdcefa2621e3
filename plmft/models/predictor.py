"""Backbone and head together: a PackedBatch in; loss and predictions in the task's own unit out."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from plmft import InputError
from plmft.data.packing import PackedBatch, StepBatch
from plmft.data.records import Kind
from plmft.data.sampler import Filler
from plmft.models.objectives import OBJECTIVES
from plmft.models.whole_step import Others, backward_whole
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
            if self._are_pooled(batch):
                return self.head.from_pooled(vectors.float())
            return self.head(vectors.float(), batch)

    def _are_pooled(self, batch: PackedBatch) -> bool:
        """True if the batch brings a vector for each sequence; of sequences of one token each, those are the same."""
        return batch.vectors is not None and len(batch.vectors) == len(batch.lengths) and hasattr(self.head, "pool")

    def _vectors(self, batch: PackedBatch) -> Tensor:
        if batch.vectors is not None:  # from the cache: the backbone has done its part
            return batch.vectors
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
        return self.loss_of(self(batch), batch.targets)

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of outputs, in the order of the targets, summed in float32."""
        if self.kind == "sequence_regression":
            targets = (targets - self.target_mean) / self.target_deviation
        return self.objective.loss(outputs.float(), targets, self.class_weights)

    def backward_step(
        self,
        step: StepBatch,
        backward: Callable[[Tensor], None],
        scale: Tensor | float = 1.0,
        ranks: Others | None = None,
    ) -> Tensor:
        """Gradients of one optimizer step's mean loss a target, the same however the step was cut.

        Args:
            backward: called with each scalar whose gradients are to be added, `backward_passes` times.
            scale: what `backward` multiplies each scalar by (fp16's loss scale).
            ranks: those that share the step, if any do: the sum of their gradients is the step's.
        Returns: this rank's part of the mean loss, without a graph.
        """
        targets = max(1, step.targets)
        if self._needs_whole(step, ranks):
            return backward_whole(self, step, targets, backward, scale, ranks)
        losses = [torch.zeros((), device=self.target_mean.device)]
        for batch in step.micro:
            loss = self.loss_sum(batch) / targets
            if isinstance(batch, Filler):
                loss = loss * 0.0
            backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def backward_passes(self, step: StepBatch, ranks: Others | None = None) -> int:
        """How often `backward_step` will call `backward`."""
        if not self._needs_whole(step, ranks):
            return len(step.micro)
        return 1 + (len(step.micro) if self.learns_before_pooling else 0)

    def _needs_whole(self, step: StepBatch, ranks: Others | None) -> bool:
        """A head that normalises needs all pooled vectors of a step at once."""
        apart = len(step.micro) > 1 or (ranks is not None and ranks.world > 1)
        return apart and getattr(self.head, "normalize", False)

    @property
    def learns_before_pooling(self) -> bool:
        """True if gradients of pooled vectors lead on to weights that learn."""
        return not self.frozen or self.head.score is not None

    def pooled(self, batch: PackedBatch) -> Tensor:
        """(N, D) float32 vectors of the sequences, before normalisation."""
        vectors = self._vectors(batch)
        with torch.autocast(vectors.device.type, enabled=False):
            return vectors.float() if self._are_pooled(batch) else self.head.pool(vectors.float(), batch)

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
    """Numbers of weights: `total` and `trainable`. A byte of a layer in four bits holds two."""
    return {
        "total": sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
