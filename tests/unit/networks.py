"""Small networks of every family, with random weights, and records to feed them."""

import numpy as np
import torch
from transformers import BertConfig, BertModel, EsmConfig, EsmModel

from plmft.data.packing import EncodedSplit, PackedBatch
from plmft.data.records import Record
from plmft.models.backbone import BertBackbone, EsmBackbone, OneHotCnn
from plmft.models.scratch import OneHotBiLstm, OneHotResNet
from plmft.models.tokenizer import ESM, ONEHOT, PROTBERT, Tokenizer
from tests.conftest import random_sequence

FAMILIES = ("esm2", "esm1b", "bert", "onehot_cnn", "onehot_resnet", "onehot_bilstm")
TOKENIZERS: dict[str, Tokenizer] = {"esm2": ESM, "esm1b": ESM, "bert": PROTBERT} | dict.fromkeys(FAMILIES[3:], ONEHOT)
CONTEXT = 60  # residues that the small models with a position table can take


def backbone(family: str) -> torch.nn.Module:
    """A small backbone with weights large enough that an error in attention shows."""
    torch.manual_seed(0)
    if family == "onehot_cnn":
        return OneHotCnn(21, channels=16, kernel=5, layers=2)
    if family == "onehot_resnet":
        return OneHotResNet(21, channels=16, kernel=3, layers=2, dilation=2)
    if family == "onehot_bilstm":
        return OneHotBiLstm(21, hidden=8, layers=2)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    wide = {"initializer_range": 0.2}
    if family == "bert":
        config = BertConfig(
            vocab_size=30,
            max_position_embeddings=CONTEXT + 2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **sizes,
            **wide,
        )
        return BertBackbone(BertModel(config, add_pooling_layer=False))
    config = EsmConfig(
        vocab_size=33, max_position_embeddings=CONTEXT + 4, pad_token_id=1, mask_token_id=32,
        position_embedding_type="rotary" if family == "esm2" else "absolute", token_dropout=True,
        emb_layer_norm_before=family == "esm1b", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        **sizes, **wide,
    )  # fmt: skip
    return EsmBackbone(EsmModel(config, add_pooling_layer=False))


def records(rng: np.random.Generator, lengths: list[int], kind: str) -> list[Record]:
    """Random records with targets that fit the kind (3 classes, some without a label)."""
    draw = {
        "sequence_regression": lambda length: float(rng.normal()),
        "sequence_classification": lambda length: int(rng.choice([-100, 0, 1, 2])),
        "sequence_multilabel": lambda length: rng.integers(0, 2, 3).astype(np.int8),
        "residue_classification": lambda length: rng.choice([-100, 0, 1, 2], length),
        "pair_classification": lambda length: int(rng.choice([-100, 0, 1, 2])),
    }[kind]
    made = []
    for i, length in enumerate(lengths):
        partner = random_sequence(rng, lengths[-1 - i]) if kind == "pair_classification" else ""
        made.append(Record(f"r{i}", random_sequence(rng, length), draw(length), "train", f"row {i}", partner))
    return made


def packed(
    rng: np.random.Generator, family: str, lengths: list[int], kind: str = "sequence_regression"
) -> tuple[EncodedSplit, PackedBatch]:
    """An encoded split of random records, and all of it as one batch."""
    split = EncodedSplit(records(rng, lengths, kind), TOKENIZERS[family], kind)
    return split, split.pack(np.arange(len(lengths)))
