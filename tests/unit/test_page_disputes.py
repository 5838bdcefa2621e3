"""Every dispute has a rule and a command; arithmetic gives the known figures; runs settle what they measure."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from plmft.page import arithmetic
from plmft.page.claims import beside, nearest, same_device
from plmft.page.claims import load as claims
from plmft.page.disputes import NARROWED, OPEN, SETTLED, Verdict, cells, judge, load
from plmft.page.document import document
from plmft.page.runs import Found
from tests.unit.page_runs import benchmark, scored

ROOT = Path(__file__).parents[2]


def verdict(name: str, found: Found) -> Verdict:
    return next(one for one in judge(found) if one.dispute.id == name)


def test_all_disputes_are_there_each_with_a_command_and_a_rule() -> None:
    assert [one.id for one in load()] == [f"C{number:02d}" for number in range(1, 66)]
    for one in load():
        assert one.command.startswith("python -m plmft."), one.id
        assert one.check_settles or one.select or one.id == "C10", f"{one.id}: nothing would settle it"
        assert one.check or one.evidence, one.id


def test_the_document_is_made_from_the_table() -> None:
    assert (ROOT / "docs" / "disputes.md").read_text() == document(), "python -m plmft.page.document > docs/disputes.md"


@pytest.mark.parametrize(
    ("sentence", "figures"),
    [
        (arithmetic.above_peak("esm2_650m a100"), ("680 seq/s (t15) needs 452 TFLOP/s of a card that has 312", "185")),
        (arithmetic.above_peak("esm2_15b"), ("42 seq/s (t15) needs 650",)),
        (arithmetic.rate_times_hours(""), ("195.6", "148.5", "168.4", "86.5", "(10.0x)")),
        (arithmetic.watts(""), ("43.5 kW (109x", "14.4 kW (36x", "14.0 kW (35x")),
        (arithmetic.efficiencies(""), ("36.8 %, written 73.6", "39.2 %, written 78.4", "92.4 %, written 92.4")),
        (arithmetic.token_price(""), ("20.25 USD", "15.6x")),
        (arithmetic.sequences_of_run(""), ("1.19M",)),
        (arithmetic.steps_per_day(""), ("esm2_650m 7,111",)),
        (arithmetic.training_flops(""), ("esm2_650m 3.9e+21", "esm2_15b 9.1e+22")),
        (arithmetic.below_floor("esm2_650m training"), ("10.39 GB", "below the floor: ~7.5 GB (t46, fp32)")),
        (arithmetic.file_size("protbert"), ("1.68 GB",)),
    ],
)
def test_arithmetic_gives_the_known_figures(sentence: str, figures: tuple[str, ...]) -> None:
    assert not [figure for figure in figures if figure not in sentence], sentence


def test_a_dispute_about_a_card_is_settled_on_that_card_alone() -> None:
    rows = [{"model": "esm2_650m", "batch": b, "length": 512.0, "sequences_per_s": 10 * b} for b in (1.0, 8.0)]
    on = {name: Found([], [benchmark("latency", *rows, device=name)]) for name in ("cpu", "NVIDIA A100-SXM4-80GB")}
    assert verdict("C01", Found()).state == NARROWED, "arithmetic rules 680 out"
    elsewhere, here = verdict("C01", on["cpu"]), verdict("C01", on["NVIDIA A100-SXM4-80GB"])
    assert (elsewhere.state, here.state) == (NARROWED, SETTLED)
    assert all(one.elsewhere for one in elsewhere.measured) and not here.missing
    assert "batch 8" in here.measured[1].text and here.measured[1].text.endswith("80")
    some = Found([], [benchmark("latency", rows[0], device="NVIDIA A100-SXM4-80GB")])
    assert verdict("C01", some).state == NARROWED
    assert verdict("C01", some).missing == ("esm2_650m batch 8 L 512 on A100",)


def test_accuracy_of_random_weights_or_of_a_part_of_the_records_settles_nothing() -> None:
    def runs(**changes: object) -> Found:
        return Found([scored(t, 0.6, model="protbert", tuning=t, **changes) for t in ("frozen", "full")])

    assert verdict("C27", Found()).state == OPEN
    assert verdict("C27", runs()).state == SETTLED
    assert verdict("C27", runs(weights="random")).state == OPEN
    assert verdict("C27", runs(subset=True)).state == OPEN


def test_which_of_two_is_settled_by_rows_that_agree_in_all_else() -> None:
    row = {"batch": 1.0, "length": 512.0, "precision": "fp32", "implementation": "packed", "sequences_per_s": 2.0}

    def found(*others: dict[str, object]) -> Found:
        runs = [benchmark("latency", {"model": "esm2_650m"} | row, run_id="first")]
        return Found([], [*runs, *(benchmark("latency", {"model": "protbert"} | row | other) for other in others)])

    unlike = ({"precision": "bf16"}, {"device": "NVIDIA L4"}, {"threads": 1.0}, {"implementation": "sdpa"})
    for other in unlike:
        told = verdict("C07", found(other))
        assert told.state == NARROWED and len(told.measured) == len(told.missing) == 1, other
    told = verdict("C07", found(*unlike, {}))
    assert told.state == SETTLED and {one.text[-3:] for one in told.measured} == {"s 2"} and not told.missing
    which = ("C07", "C12", "C18", "C26", "C41", "C61", "C63", "C64")
    assert all("device" in next(cells(one.select)).same for one in load() if one.id in which)


def test_one_node_against_one_card_needs_both() -> None:
    row = {"model": "esm2_650m", "device": "NVIDIA A100", "mode": "strong", "residues_per_s": 9.0}
    one, eight = ({"devices": n} for n in (1.0, 8.0))
    assert verdict("C12", Found([], [benchmark("scaling", row | one)])).state == NARROWED
    assert verdict("C12", Found([], [benchmark("scaling", row | one, row | eight)])).state == SETTLED


def test_a_selector_asks_for_each_combination_and_takes_any_of_the_alternatives() -> None:
    found = list(cells("rows protocol=latency/throughput model=a,b batch=1,8 length=512 device=L4 show=x"))
    assert [one.text for one in found] == [f"{m} batch {b} L 512 on L4" for m in "ab" for b in "18"]
    assert {one.show for one in found} == {"x"} and dict(found[0].wanted)["protocol"] == ("latency", "throughput")


def test_all_claims_are_there_and_nothing_is_beside_them_without_runs() -> None:
    assert len(claims()) == 604 and len({one.table for one in claims()}) == 47
    assert not [one for one in beside(Found()) if one.ours]


def test_the_ratio_is_claimed_by_ours_and_what_differs_is_named() -> None:
    row = {"model": "esm2_8m", "precision": "bf16", "batch": 256.0, "length": 275.0, "sequences_per_s": 100.0}
    other = row | {"batch": 1.0, "sequences_per_s": 5.0}
    found = Found([], [benchmark("throughput", other, row)])
    (one,) = [b for b in beside(found) if b.claim.model == "esm2_8m" and b.claim.metric == "inference_seqs_per_s"]
    assert one.ratio == 28.5 and one.ours.differs == ("device",)
    on_a100 = dataclasses.replace(found.benchmarks[0], rows=({**row, "device": "NVIDIA A100-SXM4-40GB"},))
    assert nearest(one.claim, Found([], [on_a100])).differs == ()


def test_claims_of_pretrained_models_are_not_held_against_random_weights() -> None:
    def besides(**changes: object) -> list:
        found = Found([scored("r", 0.5, model="protbert_bfd", **changes)])
        return [one for one in beside(found) if one.ours and one.claim.task == "fluorescence"]

    assert besides() and not besides(weights="random")
    frozen = [one for one in besides(tuning="frozen") if one.claim.mode == "fine_tuned"]
    assert not frozen, "a claim of fine-tuning beside a frozen run"


def test_claims_of_fine_tuning_stand_beside_rows_of_full_tuning() -> None:
    about = {"model": "esm2_650m", "device": "NVIDIA A100", "batch": 8.0, "length": 512.0}
    known = {"hours_projected": 3.0, "for_sequences": 25_000.0, "for_epochs": 2.0, "steps_per_day_projected": 1000.0}

    def ours(*rows: dict[str, object]) -> dict[tuple[str, str], object]:
        both = [benchmark("training", *rows), benchmark("memory", about | {"mode": "inference", "peak_memory_gb": 1.0})]
        named = [one for one in beside(Found([], both)) if one.ours and one.claim.mode != "inference"]
        return {(one.claim.table, one.claim.metric): one.ours for one in named}

    assert not ours(about | known | {"tuning": "frozen"}, about | known | {"tuning": "lora"}), "and none of inference"
    found = ours(about | known | {"tuning": "frozen"}, about | known | {"tuning": "full"})
    assert set(found) == {("t15", "train_steps_per_day"), ("t54", "finetune_hours")}
    hours = found["t54", "finetune_hours"]
    assert hours.value == 3.0 and "full" in hours.conditions and "for one epoch" in hours.differs[0]


def test_a_count_that_is_not_known_is_left_out() -> None:
    run = scored("r", 0.5, model="protbert_bfd")
    without = dataclasses.replace(run, metrics={"test/spearman": 0.5})
    for one, expected in ((run, "full, test n 100"), (without, "full")):
        told = {b.ours.conditions for b in beside(Found([one])) if b.ours}
        assert told == {expected}


def test_cards_are_told_apart() -> None:
    assert same_device("rtx_a6000-48gb", "NVIDIA RTX A6000") and same_device("a100-80gb", "NVIDIA A100-SXM4-80GB")
    assert not same_device("v100", "cpu") and not same_device("p4d.24xlarge", "NVIDIA A100-SXM4-80GB")
    assert not same_device("t4", "NVIDIA L40S") and same_device("l4", "NVIDIA L4")


def test_disputes_quote_no_machine() -> None:
    text = (ROOT / "docs" / "disputes.md").read_text()
    assert not re.search(r"/work/|/tmp/|/root|localhost", text)
    assert all(shlex.split(one.command) for one in load())
