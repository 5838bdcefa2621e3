"""Zero-shot scores against transformers, fair-esm, and a slow loop of one pass a mutant (field notes 14, 15)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, EsmConfig, EsmForMaskedLM

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.models.masked_lm import MaskedLm, build_masked_lm
from plmft.models.spec import OneHotCnnSpec
from plmft.models.weights import Located, locate, save_network
from plmft.models.zero_shot import (
    LikelihoodReader,
    marginals,
    masked_log_likelihoods,
    mutated,
    residue_log_likelihoods,
    window_begin,
)
from tests.conftest import random_sequence
from tests.unit import small_models, test_model_fair_esm
from tests.unit.networks import TOKENIZERS

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FAMILIES = ("esm2", "esm1b", "bert")


def published(family: str, folder: Path):
    """A small language model saved as published ones are; returns it and its spec."""
    torch.manual_seed(1)
    spec = small_models.small(family)
    sizes = {
        "vocab_size": spec.vocabulary, "hidden_size": spec.width, "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads, "intermediate_size": spec.feedforward,
        "max_position_embeddings": spec.positions, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    if family == "bert":
        model = BertForMaskedLM(BertConfig(**sizes))
    else:
        rotary = family == "esm2"
        model = EsmForMaskedLM(
            EsmConfig(
                **sizes, position_embedding_type="rotary" if rotary else "absolute", token_dropout=True,
                emb_layer_norm_before=not rotary, pad_token_id=1, mask_token_id=32,
            )
        )  # fmt: skip
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(0.3 * torch.randn_like(weights))
    model.eval()
    folder.mkdir()
    state = {k: v.clone() for k, v in model.state_dict().items() if "decoder.weight" not in k}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(model.config.to_json_string())
    return model, small_models.small(family, path=str(folder))


def ours(spec) -> MaskedLm:
    return build_masked_lm(spec, locate(spec))


def batch_of(family: str, sequences: list[str]):
    records = [Record(str(i), s, None, "test") for i, s in enumerate(sequences)]
    return EncodedSplit(records, TOKENIZERS[family], "masked_lm").pack(np.arange(len(sequences)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_scores_equal_those_of_transformers(
    family: str, masked: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    theirs, spec = published(family, tmp_path / "lm")
    batch = batch_of(family, [random_sequence(rng, n) for n in (20, 3, 11)])
    if masked:  # a third of the second sequence alone: token dropout is by sequence
        batch.tokens[24], batch.tokens[4] = TOKENIZERS[family].mask, TOKENIZERS[family].mask
    tokens, mask = batch.padded(TOKENIZERS[family].pad)
    expected = theirs(input_ids=tokens, attention_mask=mask.long()).logits[mask]
    torch.testing.assert_close(ours(spec)(batch), expected, **CLOSE)


@pytest.mark.parametrize("family", ["esm2", "esm1b"])
def test_scores_equal_those_of_fair_esm(family: str, tmp_path: Path, rng: np.random.Generator) -> None:
    network = test_model_fair_esm.fair(family)
    test_model_fair_esm.checkpoint(network, tmp_path / "m.pt")
    batch = batch_of(family, [random_sequence(rng, 17)])
    batch.tokens[5] = 32
    expected = network(batch.tokens[None])["logits"][0]
    torch.testing.assert_close(ours(test_model_fair_esm.small(family, tmp_path / "m.pt"))(batch), expected, **CLOSE)


def slow_row(theirs, tokenizer, sequence: str, position: int, masked: bool) -> np.ndarray:
    """Log-probabilities at one position, from one pass of transformers over one sequence."""
    tokens = torch.from_numpy(tokenizer.encode(sequence))[None]
    if masked:
        tokens[0, position + 1] = tokenizer.mask
    with torch.no_grad():
        return theirs(input_ids=tokens).logits[0, position + 1].log_softmax(-1).numpy()


def mutants_of(wild_type: str, rng: np.random.Generator, n: int) -> list[str]:
    found = [wild_type]
    for _ in range(n):
        letters = list(wild_type)
        for p in rng.permutation(len(letters))[: rng.integers(1, 4)]:
            letters[p] = str(rng.choice(list("ACDEFGHIKLMNPQRSTVWY")))
        found.append("".join(letters))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_marginals_equal_a_slow_loop(family: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Each mutant by itself, each position in a pass of its own, through transformers."""
    theirs, spec = published(family, tmp_path / "lm")
    tokenizer, wild_type = TOKENIZERS[family], random_sequence(rng, 30)
    mutants = mutants_of(wild_type, rng, 25)
    reader = LikelihoodReader(ours(spec), tokenizer, 40, tokens_per_batch=100)
    for masked in (True, False):
        expected = []
        for mutant in mutants:
            score = 0.0
            for p, (a, b) in enumerate(zip(wild_type, mutant, strict=True)):
                if a != b:
                    row = slow_row(theirs, tokenizer, wild_type, p, masked)
                    score += float(row[tokenizer.vocabulary.index(b)]) - float(row[tokenizer.vocabulary.index(a)])
            expected.append(score)
        np.testing.assert_allclose(marginals(reader, wild_type, mutants, masked=masked), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [1, 10_000])
def test_pseudo_log_likelihood_equals_a_slow_loop(
    family: str, budget: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    theirs, spec = published(family, tmp_path / "lm")
    tokenizer, sequence = TOKENIZERS[family], random_sequence(rng, 12)
    reader = LikelihoodReader(ours(spec), tokenizer, 40, tokens_per_batch=budget)
    rows = [slow_row(theirs, tokenizer, sequence, p, masked=True) for p in range(12)]
    expected = [row[tokenizer.vocabulary.index(letter)] for row, letter in zip(rows, sequence, strict=True)]
    np.testing.assert_allclose(residue_log_likelihoods(reader, sequence), expected, rtol=1e-5, atol=1e-5)


def test_long_proteins_are_read_in_the_window_around_each_position(tmp_path: Path, rng: np.random.Generator) -> None:
    theirs, spec = published("esm2", tmp_path / "lm")
    tokenizer, wild_type = TOKENIZERS["esm2"], random_sequence(rng, 50)
    reader = LikelihoodReader(ours(spec), tokenizer, 20, tokens_per_batch=70)
    mutant = "".join("W" if p in (0, 9, 10, 25, 49) and c != "W" else c for p, c in enumerate(wild_type))
    expected = 0.0
    for p in mutated(wild_type, mutant):
        begin = min(max(p - 10, 0), 30)
        row = slow_row(theirs, tokenizer, wild_type[begin : begin + 20], p - begin, masked=True)
        expected += row[tokenizer.vocabulary.index("W")] - row[tokenizer.vocabulary.index(wild_type[p])]
    assert marginals(reader, wild_type, [mutant], masked=True)[0] == pytest.approx(expected, rel=1e-5)
    assert [window_begin(p, 50, 20) for p in (0, 10, 11, 39, 40, 49)] == [0, 0, 1, 29, 30, 30]
    assert window_begin(5, 12, 20) == 0


def test_a_share_is_masked_in_one_pass(tmp_path: Path, rng: np.random.Generator) -> None:
    theirs, spec = published("esm1b", tmp_path / "lm")
    tokenizer, sequence = TOKENIZERS["esm1b"], random_sequence(rng, 40)
    passes = []
    reader = LikelihoodReader(ours(spec), tokenizer, 60, 1000, tell=lambda *counts: passes.append(counts))
    found = masked_log_likelihoods(reader, sequence, 0.15, np.random.default_rng(3))
    assert passes == [(40, 1)] and (~np.isnan(found)).sum() == 6
    again = masked_log_likelihoods(reader, sequence, 0.15, np.random.default_rng(3))
    np.testing.assert_array_equal(found, again)
    tokens = torch.from_numpy(tokenizer.encode(sequence))[None]
    chosen = np.flatnonzero(~np.isnan(found))
    truth = tokens[0, chosen + 1].clone()
    tokens[0, chosen + 1] = tokenizer.mask  # masks reach the input (field note 20)
    with torch.no_grad():
        rows = theirs(input_ids=tokens).logits[0].log_softmax(-1)
    np.testing.assert_allclose(found[chosen], rows[chosen + 1, truth], rtol=1e-5, atol=1e-5)


def test_a_checkpoint_without_the_head_is_refused(tmp_path: Path) -> None:
    save_network(small_models.build(small_models.small("esm2")), tmp_path)
    spec = small_models.small("esm2", path=str(tmp_path))
    with pytest.raises(InputError, match=r"no weights for the token head of small: bias, dense\.bias.* missing"):
        ours(spec)
    with pytest.raises(InputError, match="it is no language model"):
        build_masked_lm(OneHotCnnSpec("cnn", 4, 3, 1, 256, "", ""), Located("random"))
