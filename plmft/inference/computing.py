"""The parts of a prediction job: sequences in, a Parquet file out.

The model is loaded when the first part needs it, if not before.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from plmft.inference.described import Described
from plmft.inference.sequences import Given

if TYPE_CHECKING:
    from plmft.inference.answers import Answers
    from plmft.inference.showing import Bar, Watched
    from plmft.models.tuned import Tuned

TOKENS = {"cpu": 4096, "cuda": 16384}  # of a forward pass, where hardware.tokens_per_batch is auto


@dataclass(frozen=True)
class Settings:
    """What changes predictions, besides the model."""

    precision: str
    merge: bool
    length_policy: str


@dataclass(frozen=True)
class Plots:
    """Contact maps of the first `count` sequences of the input, as PNG in a folder."""

    count: int
    folder: Path

    def notes(self, skipped: int) -> tuple[str, ...]:
        """What a user must know, who may miss some. skipped: sequences that were found done."""
        if not (self.count and skipped):
            return ()
        return (
            f"plots={self.count}: of the {skipped:,} sequences that were found done no map was drawn now. Name another "
            "output to have them drawn.",
        )

    def draw(self, given: Given, probabilities: np.ndarray) -> None:
        """If it is one of them."""
        if given.number >= self.count:
            return
        from plmft.inference.maps import draw_map

        self.folder.mkdir(parents=True, exist_ok=True)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in given.id)[:80]
        draw_map(probabilities, given.id, self.folder / f"{given.number:05d}-{name}.png")


@dataclass
class Computer:
    """Computes and writes one part at a time. Args: device: cpu or cuda."""

    model: Described
    settings: Settings
    device: str
    tokens_per_batch: int | Literal["auto"]
    plots: Plots

    def load(self) -> None:
        """The model, now. Raises: InputError: as plmft.models.tuned.load."""
        _ = self._tuned

    @cached_property
    def _tuned(self) -> "Tuned":
        from plmft.efficiency.allocator import keep_freed_memory
        from plmft.training.interrupts import nothing_open

        with nothing_open():  # no part is begun
            from plmft.models.precision import hold_for
            from plmft.models.tuned import load
            from plmft.models.windows import Windows

        if self.device == "cpu":
            keep_freed_memory()
        tuned = load(self.model.folder, self.device, merge=self.settings.merge)
        hold_for(self.settings.precision, tuned.predictor)
        spec = tuned.description.spec
        if self.settings.length_policy == "window" and spec.context is not None:
            tuned.predictor.windows = Windows.of(spec.context, spec.tokenizer)
        return tuned

    @cached_property
    def _answers(self) -> "Answers":
        from plmft.inference.answers import Answers

        return Answers(self._tuned.description, self._tuned.confidence)

    def write(self, given: Sequence[Given], path: Path, watched: "Watched", shown: "Bar") -> None:
        """Raises: InputError: as predict_chunk. OSError: no room."""
        import pyarrow.parquet

        from plmft.inference.predicting import predict_chunk

        tuned, answers = self._tuned, self._answers
        watched.begin()
        rows = predict_chunk(
            tuned,
            [self._cropped(g) for g in given],
            tokens_per_batch=TOKENS[self.device] if self.tokens_per_batch == "auto" else self.tokens_per_batch,
            precision=self.settings.precision,
            answer=self._answer,
            told=shown.batch,
        )
        table = answers.table([g.number for g in given], [g.id for g in given], rows)
        pyarrow.parquet.write_table(table, path)

    def _answer(self, given: Given, prediction: np.ndarray) -> dict[str, Any]:
        self.plots.draw(given, prediction)
        return self._answers.row(prediction)

    def _cropped(self, given: Given) -> Given:
        context = self.model.context
        if self.settings.length_policy != "crop" or context is None:
            return given
        return dataclasses.replace(given, sequence=given.sequence[:context], partner=given.partner[:context])
