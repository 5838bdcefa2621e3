"""What the bench computes on: proteins of real lengths, or of one length. Costs reading one FASTA, 0.1 s."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plmft.models.spec import Spec, TransformerSpec

if TYPE_CHECKING:
    from plmft.data.packing import EncodedSplit

UNIREF = Path("sequences") / "uniref90_10k.fasta.gz"
AMINO_ACIDS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype=np.uint8)
LOG_LENGTH = (5.550, 0.716)  # mean and deviation of the logarithm of the lengths of 10,000 UniRef90 clusters
DRAWN, SHORTEST = 10_000, 12


def real_sequences(data: Path | None) -> tuple[list[str], str]:
    """Ten thousand UniRef90 clusters where the data folder has them, else as many of random residues; and which.

    Args: data: the folder that data.dir or PLMFT_DATA names.
    Raises: InputError: the file is damaged.
    """
    if data is not None and (data / UNIREF).is_file():
        from plmft.data.fasta import read_fasta
        from plmft.data.source import read_text

        entries = read_fasta(read_text(data / UNIREF), UNIREF.name)
        return [entry.text for entry in entries], f"UniRef90, {UNIREF.name}"
    rng = np.random.default_rng(0)
    mean, deviation = LOG_LENGTH
    lengths = np.exp(rng.normal(mean, deviation, DRAWN)).astype(int).clip(SHORTEST)
    told = f"random residues, log-normal lengths (mean and deviation of the logarithm {mean}, {deviation})"
    return [random_sequence(rng, length) for length in lengths], told


def random_sequence(rng: np.random.Generator, length: int) -> str:
    """Amino acids, all equally likely."""
    return AMINO_ACIDS[rng.integers(0, len(AMINO_ACIDS), length)].tobytes().decode()


def fixed_sequences(count: int, length: int, seed: int) -> list[str]:
    """`count` sequences of `length` random residues."""
    rng = np.random.default_rng([seed, length])
    return [random_sequence(rng, length) for _ in range(count)]


def draw(pool: Sequence[str], count: int, seed: int, longest: int | None) -> list[str]:
    """`count` of the pool in a seeded order, again from the start when they are through; cropped to `longest`."""
    order = np.random.default_rng(seed).permutation(len(pool))
    return [pool[order[i % len(pool)]][:longest] for i in range(count)]


def encoded(spec: Spec, sequences: Sequence[str]) -> "EncodedSplit":
    """Sequences as a split without targets: record n is sequence n."""
    from plmft.data.packing import EncodedSplit
    from plmft.data.records import Record

    records = [Record(str(number), sequence, None, "test") for number, sequence in enumerate(sequences)]
    return EncodedSplit(records, spec.tokenizer, "masked_lm")


def longest_possible(spec: Spec) -> int | None:
    """Residues that the network can take at all; None: any number. ESM-2 goes on beyond what it was trained with."""
    if not isinstance(spec, TransformerSpec) or spec.family == "esm2":
        return None
    if spec.family == "esm1b":
        return spec.context
    return spec.positions - len(spec.tokenizer.prefix) - len(spec.tokenizer.suffix)
