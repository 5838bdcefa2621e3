"""Contact precision counted by hand, scores that are no numbers, and real chains against their stated counts."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.esm.modeling_esm import EsmContactPredictionHead

from plmft import InputError
from plmft.data.contacts import in_contact, known_pairs, read_contacts
from plmft.data.records import Record
from plmft.metrics.contacts import contact_metrics, precisions
from plmft.models.attention_regression import ContactRegression, corrected_maps, fit_contact_regression
from tests.conftest import random_sequence
from tests.unit.networks import TOKENIZERS, backbone

DATA = os.environ.get("PLMFT_DATA")
FOLDER = Path(DATA).resolve() / "contacts" if DATA else None


def test_a_protein_counted_by_hand() -> None:
    """Ten residues on a line, 100 Å apart but for residue 9 beside 0; residue 2 is unresolved.

    Known pairs 6 or more apart: (0,6) (0,7) (0,8) (0,9) (1,7) (1,8) (1,9) (3,9). Only (0,9) is a contact. L/5 = 2.
    """
    cb = np.zeros((10, 3), np.float32)
    cb[:, 0] = 100 * np.arange(10)
    cb[9, 0] = 7.99
    cb[2] = np.nan
    scores = np.zeros((10, 10))
    scores[2, 8] = scores[4, 7] = 9  # unresolved; too near each other along the chain
    scores[9, 0] = 8  # the other triangle
    scores[1, 7], scores[0, 9], scores[3, 9] = 3, 2, 1
    found = contact_metrics([scores], [cb])
    assert found["precision_at_l5"] == 1 / 2  # (1,7) and (0,9)
    assert found["precision_at_l2"] == 1 / 5
    assert found["precision_at_l"] == 1 / 8  # L = 10, but there are 8 pairs
    assert found["precision_at_l_short"] == found["precision_at_l"] and "precision_at_l_medium" not in found
    cb[9, 0] = 8  # 8 Å is no contact
    assert contact_metrics([scores], [cb])["precision_at_l"] == 0


def test_a_score_that_is_no_number_is_refused() -> None:
    cb, scores = np.zeros((10, 3), np.float32), np.ones((10, 10))
    scores[0, 1] = np.nan  # not asked for
    assert not np.isnan(precisions([scores], [cb])).all()
    scores[0, 9] = np.nan
    with pytest.raises(ValueError, match="1 of 10 scores of a protein are not finite"):
        precisions([scores], [cb])


def test_regression_on_maps_equals_the_contact_head_of_transformers(rng: np.random.Generator) -> None:
    model = backbone("esm2").eval()
    record = Record("a", random_sequence(rng, 30), np.zeros((30, 3), np.float32), "test")
    head = EsmContactPredictionHead(in_features=12, eos_idx=2)
    torch.nn.init.normal_(head.regression.weight)
    model.network.set_attn_implementation("eager")
    tokens = torch.from_numpy(TOKENIZERS["esm2"].encode(record.sequence))[None]
    with torch.no_grad():
        attention = torch.stack(model.network(tokens, output_attentions=True).attentions, dim=1)
        wanted = head(tokens, attention)[0].numpy()
    weights = head.regression.weight.detach().double().numpy()[0]
    found = ContactRegression(weights, head.regression.bias.item()).predict(
        corrected_maps(model, record, TOKENIZERS["esm2"])
    )
    at = np.arange(30)
    apart = np.abs(at[:, None] - at[None, :]) >= 6
    np.testing.assert_allclose(found[apart], wanted[apart], rtol=1e-4, atol=1e-5)
    assert (found[~apart] == 0).all() and found.dtype == np.float32


def test_the_penalty_leaves_maps_out(rng: np.random.Generator) -> None:
    cb = (rng.normal(size=(60, 3)) * 8).astype(np.float32)
    near = (np.linalg.norm(cb[:, None] - cb[None], axis=2) < 8).astype(np.float32)
    maps = np.concatenate([near[None], 0.01 * rng.normal(size=(20, 60, 60)).astype(np.float32)])
    weights = fit_contact_regression([maps], [cb], strength=0.15, seed=0).weights
    assert weights[0] > 1 and (weights[1:] == 0).all()


@pytest.mark.skipif(FOLDER is None or not FOLDER.is_dir(), reason="PLMFT_DATA names no folder with contacts")
def test_real_chains_have_the_contacts_that_are_stated() -> None:
    counts = {}
    for split in ("train", "valid", "test"):
        records = list(read_contacts(FOLDER / f"contacts_{split}.jsonl.gz", split))
        hits = np.zeros(2, int)
        for record in records:
            first, second = known_pairs(record.target)
            contact = in_contact(record.target, first, second)
            hits += [contact.sum(), (contact & (second - first >= 24)).sum()]
        counts[split] = (len(records), sum(len(r.sequence) for r in records), *map(int, hits))
    assert counts == {
        "train": (153, 28_091, 63_411, 42_215),
        "valid": (30, 4_764, 10_827, 6_522),
        "test": (44, 7_615, 16_398, 10_793),
    }


def test_an_infinite_coordinate_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"id": 7, "sequence": "GA", "cb": [[0, 1, Infinity], null]}\n')
    with pytest.raises(InputError, match=r"c.jsonl, line 1: .*a coordinate is infinite"):
        list(read_contacts(file, "train"))
