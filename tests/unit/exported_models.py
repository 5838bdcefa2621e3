"""Small tuned models of every family and kind, saved with random weights; used by the tests of exports."""

from pathlib import Path

import numpy as np
import torch

from plmft.models.build import build_predictor
from plmft.models.head_spec import Head, PairHead, ResidueHead, SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.tuned import Description, Tuned, load, save
from plmft.models.tuning import Full, LoRA, Tuning
from tests.unit.tuned_models import RANDOM, spec

CLASSES = {
    "sequence_regression": (),
    "sequence_classification": ("inside", "outside", "membrane"),
    "sequence_multilabel": ("a", "b", "c", "d"),
    "residue_classification": ("H", "E", "C"),
    "pair_classification": ("no", "yes"),
    "contacts": (),
}
MEAN = SequenceHead("mean", True, 8, 0.0)
HEADS: dict[str, Head] = {
    **dict.fromkeys(CLASSES, MEAN),
    "residue_classification": ResidueHead(0.0),
    "contacts": PairHead(4, 8, 0.0),
}
LORA = LoRA(rank=2, alpha=4, dropout=0.0, targets=("attention",))
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "GSHMLEDPVDAF", "ACDEFGHIKLMNPQRSTVWYXBZUOJJ", "MKV" * 9]
PARTNERS = SEQUENCES[::-1]


def saved_model(
    folder: Path, kind: str, family: str = "esm2", head: Head | None = None, tuning: Tuning | None = None
) -> Tuned:
    """Save a model with weights at random, norms and running values included; returns it as loaded, adapters merged."""
    torch.manual_seed(len(kind))
    head, tuning = head or HEADS[kind], tuning or Full()
    outputs = len(CLASSES[kind]) or 1
    predictor = build_predictor(spec(family), RANDOM, tuning=tuning, head=head, kind=kind, outputs=outputs)
    randomise(predictor)
    description = Description(spec(family), tuning, head, "demo", kind, CLASSES[kind], "°C")
    save(predictor, description, RANDOM, folder)
    return load(folder, merge=True)


@torch.no_grad()
def randomise(predictor: Predictor) -> None:
    for name, weights in predictor.named_parameters():
        if name.startswith("head.") or "lora_" in name:
            weights.normal_(0.0, 0.3)
    for name, buffer in predictor.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.1, 0.5)
    predictor.target_mean.fill_(50.0)
    predictor.target_deviation.fill_(7.0)


def expected(tuned: Tuned) -> list[np.ndarray]:
    """What plmft predicts for SEQUENCES (with PARTNERS, where they are wanted)."""
    pairs = tuned.description.kind == "pair_classification"
    return tuned._predicted(SEQUENCES, PARTNERS if pairs else None, 4096)
