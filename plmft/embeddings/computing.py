"""Vectors of a part: each sequence is computed once, whether it comes again in the same part or in another one."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plmft import InputError
from plmft.embeddings.block import Block, Header, starts
from plmft.embeddings.formats import Format, checked
from plmft.embeddings.repeats import Remembered
from plmft.embeddings.vectors import Reader
from plmft.inference.sequences import Given

LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass
class Parts:
    """Computes and writes parts.

    Args:
        header: of a file of this job; its counts are each part's own. remembered: what comes again in other parts.
        crop: residues that are read of a sequence; None: all.
        computed: sequences that the model has read.
    """

    read: Reader
    header: Header
    kind: Format
    remembered: Remembered
    crop: int | None
    computed: int = 0

    def write(self, given: list[Given], path: Path) -> None:
        """Raises: InputError: values that are not finite, or too large for float16. OSError: the disk's fault."""
        texts = self._texts(given)
        rows = self._vectors(texts)
        block = Block(
            np.array([g.number for g in given], np.int64),
            [g.id for g in given],
            np.array([len(text) for text in texts], np.int64),
            self._stored(np.concatenate([rows[text] for text in texts]), given),
        )
        self.remembered.keep(rows)
        del rows
        self.kind.write(path, replace(self.header, sequences=len(given), rows=len(block.vectors)), [block])

    def recall(self, given: list[Given], part: Path) -> None:
        """Hold of a part that was done before what comes again, as if it had been computed now."""
        texts = self._texts(given)
        if self.remembered.wants(texts):
            block = checked(part, lambda path: self.kind.read(path, self.header.layers))
            begins, vectors = starts(block.lengths, self.header.per), block.vectors.astype(np.float32)
            self.remembered.keep({text: vectors[begins[at] : begins[at + 1]] for at, text in enumerate(texts)})

    def _texts(self, given: list[Given]) -> list[str]:
        return [g.sequence[: self.crop] for g in given]

    def _vectors(self, texts: list[str]) -> dict[str, np.ndarray]:
        """(rows, K, D) of each sequence."""
        known = {text: self.remembered.get(text) for text in texts}
        absent = [text for text, rows in known.items() if rows is None]
        self.computed += len(absent)
        return known | dict(zip(absent, self.read(absent) if absent else [], strict=True))

    def _stored(self, vectors: np.ndarray, given: list[Given]) -> np.ndarray:
        if self.header.dtype == "float16" and (largest := float(np.abs(vectors).max())) > LARGEST_HALF:
            raise InputError(
                f"dtype=float16: it holds {LARGEST_HALF:,.0f}, and a value of the sequences from {given[0].id} to "
                f"{given[-1].id} is {largest:,.0f}. Set dtype=float32, and another output."
            )
        return vectors.astype(self.header.dtype, copy=False)
