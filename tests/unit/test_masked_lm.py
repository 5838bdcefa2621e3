"""Where the token head's weights come from, under which names, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from plmft import InputError
from plmft.models.masked_lm import build_masked_lm
from plmft.models.weights import Located, load, locate
from tests.conftest import random_sequence
from tests.unit import small_models, test_model_fair_esm
from tests.unit.test_zero_shot import CLOSE, FAMILIES, batch_of, ours, published

HEAD = {
    "esm2": "lm_head.dense.weight",
    "esm1b": "lm_head.dense.weight",
    "bert": "cls.predictions.transform.dense.weight",
}


@pytest.fixture
def batch(rng: np.random.Generator):
    return lambda family: batch_of(family, [random_sequence(rng, n) for n in (9, 4)])


def rewrite(folder: Path, change) -> None:
    """Change the saved weights in place."""
    state = change(load_file(folder / "model.safetensors"))
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_is_the_embedding_table_unless_it_is_saved(family: str, tmp_path: Path, batch) -> None:
    _, spec = published(family, tmp_path / "lm")
    tied = ours(spec)
    table = tied.backbone.network.embeddings.word_embeddings.weight
    assert torch.equal(tied.head.decoder, table)
    own = torch.randn_like(table)
    name = "lm_head.decoder.weight" if family != "bert" else "cls.predictions.decoder.weight"
    rewrite(tmp_path / "lm", lambda state: state | {name: own})
    untied = ours(spec)
    assert torch.equal(untied.head.decoder, own)
    assert torch.equal(untied.backbone.network.embeddings.word_embeddings.weight, table)


def test_names_of_old_bert_checkpoints_are_known(tmp_path: Path, batch) -> None:
    """ProtBERT's files say gamma and beta, name the bias twice, and hold a head for next sentences."""
    _, spec = published("bert", tmp_path / "lm")
    given = batch("bert")
    wanted = ours(spec)(given)

    def old(state: dict) -> dict:
        renamed = {
            k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
            for k, v in state.items()
        }
        assert any("cls.predictions.transform.LayerNorm.gamma" in k for k in renamed)
        further = {"cls.seq_relationship.weight": torch.ones(2, 32), "cls.seq_relationship.bias": torch.ones(2)}
        return renamed | further | {"cls.predictions.decoder.bias": renamed["cls.predictions.bias"].clone()}

    rewrite(tmp_path / "lm", old)
    assert torch.equal(ours(spec)(given), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_pickled_and_half_weights_give_the_same(family: str, tmp_path: Path, batch) -> None:
    _, spec = published(family, tmp_path / "lm")
    given = batch(family)
    wanted = ours(spec)(given)
    state = load_file(tmp_path / "lm" / "model.safetensors")
    torch.save(state, tmp_path / "lm" / "pytorch_model.bin")
    (tmp_path / "lm" / "model.safetensors").unlink()
    assert torch.equal(ours(spec)(given), wanted)
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "lm" / "pytorch_model.bin")
    half = ours(spec)
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    torch.testing.assert_close(half(given), wanted, rtol=0.1, atol=0.3)  # weights of three digits


@pytest.mark.parametrize("family", ["esm2", "esm1b"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_packed_scores_equal_those_of_fair_esm_alone(family: str, masked: bool, tmp_path: Path, batch) -> None:
    network = test_model_fair_esm.fair(family)
    test_model_fair_esm.checkpoint(network, tmp_path / "m.pt")
    packed = batch(family)
    if masked:
        packed.tokens[3] = 32  # in the first sequence alone: the second's embeddings must not be scaled by it
    with torch.no_grad():
        alone = [network(part[None])["logits"][0] for part in packed.tokens.split([11, 6])]
    found = ours(test_model_fair_esm.small(family, tmp_path / "m.pt"))(packed)
    torch.testing.assert_close(found, torch.cat(alone), **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_the_scores(family: str, tmp_path: Path, batch) -> None:
    """Over the whole vocabulary, in float32 whatever the backbone computes in."""
    _, spec = published(family, tmp_path / "lm")
    model, given, places = ours(spec), batch(family), torch.tensor([1, 12, 5])
    found = model.log_probabilities(given, places)
    torch.testing.assert_close(found, model(given).log_softmax(-1)[places], **CLOSE)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3), **CLOSE)
    assert not found.requires_grad and not model.training
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.log_probabilities(given, places)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.exp().sum(-1), torch.ones(3), **CLOSE)  # no rounding after the backbone


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_are_seeded(family: str, batch) -> None:
    spec, given, found = small_models.small(family, init="random"), batch(family), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(build_masked_lm(spec, Located("random"))(given))
    assert found[0].shape == (17, spec.vocabulary)
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_one_missing_weight_of_the_head_is_told(family: str, tmp_path: Path) -> None:
    _, spec = published(family, tmp_path / "lm")
    rewrite(tmp_path / "lm", lambda state: {k: v for k, v in state.items() if k != HEAD[family]})
    with pytest.raises(InputError) as raised:
        ours(spec)
    assert str(raised.value) == (
        f"{tmp_path / 'lm'} has no weights for the token head of small: dense.weight missing. Scoring without training "
        "needs a checkpoint of the whole language model, as it was published."
    )
    assert isinstance(load(spec, locate(spec)), torch.nn.Module)  # the backbone alone has all that it needs


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_another_shape_are_told(family: str, tmp_path: Path) -> None:
    _, spec = published(family, tmp_path / "lm")
    rewrite(tmp_path / "lm", lambda state: state | {HEAD[family]: torch.zeros(8, 8)})
    with pytest.raises(InputError, match=r"does not fit small\. Weights of other shape: dense\.weight \(8, 8\)"):
        ours(spec)


def test_a_fair_esm_file_without_its_head_is_told(tmp_path: Path) -> None:
    network = test_model_fair_esm.fair("esm2")
    test_model_fair_esm.checkpoint(network, tmp_path / "m.pt")
    saved = torch.load(tmp_path / "m.pt", weights_only=False)
    saved["model"] = {k: v for k, v in saved["model"].items() if "lm_head" not in k}
    torch.save(saved, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"m\.pt has no weights for the token head of small: bias, dense\.bias"):
        ours(test_model_fair_esm.small("esm2", tmp_path / "m.pt"))
