"""Out of memory once: cut the step finer, do it again, and go on so. Out of memory twice: say what to do.

A step's gradients do not depend on how it is cut, so the run's result is that of a smaller hardware.tokens_per_batch.
Costs a copy of the random state and of the head's running values each step, which is microseconds. On Linux a CPU's
memory usually ends with the kernel killing the process, which nothing can catch: hardware.tokens_per_batch=auto plans
instead.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plmft import InputError
from plmft.data.packing import PackedBatch, StepBatch
from plmft.data.recutting import recut
from plmft.efficiency.out_of_memory import is_out_of_memory
from plmft.models.predictor import Predictor


class BackOff:
    """Runs optimizer steps for one Predictor.

    Args:
        processes: with more than one, a step can't be redone by one of them alone: the others wait in its middle.
    """

    def __init__(self, predictor: Predictor, processes: int = 1) -> None:
        self._predictor, self._processes = predictor, processes
        self._budget: int | None = None
        self.notes: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """The cut that training went on with, for another process."""
        return {"tokens": self._budget, "notes": list(self.notes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same cut."""
        self._budget, self.notes = state["tokens"], list(state["notes"])

    def gradients(self, step: StepBatch, compute: Callable[[StepBatch], Tensor]) -> Tensor:
        """`compute(step)`, which adds up gradients; after an out-of-memory error in finer micro-steps, from zero.

        Raises: InputError: the finer step ran out of memory, too, or can't be cut.
        """
        if self._budget is not None:
            step = recut(step, self._budget)
        before = _State(self._predictor) if self._processes == 1 else None
        try:
            return compute(step)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            told = str(error).partition("\n")[0]
        # outside of the handler: the error's traceback holds the activations
        self._shrink(step, told)
        before.restore()
        return self.gradients(step, compute)

    def _shrink(self, step: StepBatch, told: str) -> None:
        largest = max(step.micro, key=lambda batch: sum(batch.lengths))
        tokens = sum(largest.lengths)
        if self._budget is not None or len(largest.index) == 1 or self._processes > 1:
            where = f"in a training step of {tokens:,} tokens"
            raise InputError(f"Out of memory {where} ({told}). {self._way_out(largest)}")
        self._budget = tokens // 2
        self.notes.append(
            f"Out of memory at {tokens:,} tokens: the step was done again, and training went on, with at most "
            f"{self._budget:,} tokens at once. Set hardware.tokens_per_batch={self._budget} for the next run."
        )

    def _way_out(self, largest: PackedBatch) -> str:
        smaller = (
            f"The longest sequence has {max(largest.lengths):,} tokens and fits alone no longer: set "
            "data.length_policy=crop, "
            if len(largest.index) == 1
            else f"Set hardware.tokens_per_batch={sum(largest.lengths) // 2}, "
        )
        return (
            f"{smaller}hardware.gradient_checkpointing=true, or tuning=lora or frozen instead of full. "
            "python -m plmft.doctor with the same options tells what each would save."
        )


class _State:
    """What a step that fails may have changed: random states, gradients (zero before it), running values."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._random = torch.get_rng_state()
        on_gpu = next(predictor.parameters()).is_cuda
        self._random_gpu = torch.cuda.get_rng_state() if on_gpu else None
        self._running = {name: value.clone() for name, value in predictor.head.named_buffers()}

    def restore(self) -> None:
        torch.set_rng_state(self._random)
        self._predictor.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, value in self._predictor.head.named_buffers():
                value.copy_(self._running[name])
        if self._random_gpu is not None:
            torch.cuda.set_rng_state(self._random_gpu)
            torch.cuda.empty_cache()
