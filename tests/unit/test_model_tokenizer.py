"""Ids equal those of transformers and fair-esm, one a residue, whatever the letters."""

import dataclasses

import esm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer, EsmTokenizer

from plmft import InputError
from plmft.models.tokenizer import ESM, ONEHOT, PROTBERT

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
sequences = st.text(alphabet=AMINO_ACIDS + "XBUZOJ", min_size=1, max_size=80)
ALL = [ESM, PROTBERT, ONEHOT]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    for tokenizer in (ESM, PROTBERT):
        (folder / tokenizer.name).write_text("\n".join(tokenizer.vocabulary))
    return {
        "esm": EsmTokenizer(str(folder / "esm")),
        "protbert": BertTokenizer(str(folder / "protbert"), do_lower_case=False),
        "fair_esm": esm.data.Alphabet.from_architecture("ESM-1b"),
    }


@given(sequence=sequences)
def test_esm_equals_transformers(theirs, sequence):
    # With spaces, since theirs makes one unknown token of neighbouring letters that it doesn't know (JJ).
    assert ESM.encode(sequence).tolist() == theirs["esm"](" ".join(sequence))["input_ids"]
    if "J" not in sequence:
        assert ESM.encode(sequence).tolist() == theirs["esm"](sequence)["input_ids"]


@given(sequence=sequences.map(lambda s: s.replace("J", "X")))  # fair-esm has no id for J at all
def test_esm_equals_fair_esm(theirs, sequence):
    _, _, tokens = theirs["fair_esm"].get_batch_converter()([("", sequence)])
    assert ESM.encode(sequence).tolist() == tokens[0].tolist()


def test_esm_alphabet_is_fair_esms(theirs):
    assert list(ESM.vocabulary) == theirs["fair_esm"].all_toks
    assert (ESM.mask, ESM.pad, ESM.unknown) == (32, 1, 3)
    assert (theirs["fair_esm"].mask_idx, theirs["fair_esm"].padding_idx, theirs["fair_esm"].unk_idx) == (32, 1, 3)


@given(sequence=sequences)
def test_protbert_equals_transformers(theirs, sequence):
    spaced = " ".join(sequence.translate(str.maketrans("UZOB", "XXXX")))
    assert PROTBERT.encode(sequence).tolist() == theirs["protbert"](spaced)["input_ids"]


def test_protbert_special_ids(theirs):
    tokenizer = theirs["protbert"]
    assert (PROTBERT.mask, PROTBERT.pad, PROTBERT.unknown) == (
        tokenizer.mask_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
    )


@given(sequence=st.text(alphabet=AMINO_ACIDS + "XBUZOJ", max_size=80))
@pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: t.name)
def test_tokens_are_residues_and_specials(tokenizer, sequence):
    ids = tokenizer.encode(sequence)
    assert ids.dtype == np.int64
    assert len(ids) == len(tokenizer.prefix) + len(sequence) + len(tokenizer.suffix)
    assert tuple(ids[: len(tokenizer.prefix)]) == tokenizer.prefix
    assert ids.min(initial=0) >= 0 and ids.max(initial=0) < len(tokenizer.vocabulary)


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda t: t.name)
def test_amino_acids_differ_and_are_known(tokenizer):
    start = len(tokenizer.prefix)
    ids = tokenizer.encode(AMINO_ACIDS)[start : start + 20]
    assert len(set(ids.tolist())) == 20
    assert [tokenizer.vocabulary[id_] for id_ in ids] == list(AMINO_ACIDS)


def test_onehot_has_21_channels_and_x_for_the_rest():
    assert len(ONEHOT.vocabulary) == 21
    assert set(ONEHOT.encode("XBUZOJ").tolist()) == {20}


def test_a_character_outside_ascii_is_named():
    with pytest.raises(InputError, match="'É' at position 3"):
        ESM.encode("MKÉL")


def test_digest_follows_what_changes_the_ids():
    assert len({tokenizer.digest for tokenizer in ALL}) == 3
    assert dataclasses.replace(PROTBERT, substitutions=()).digest != PROTBERT.digest
    assert dataclasses.replace(ESM, prefix=()).digest != ESM.digest
    assert dataclasses.replace(ESM, name="other").digest == ESM.digest
