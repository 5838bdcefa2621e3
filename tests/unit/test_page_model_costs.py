"""Cost per model: each cell is one measured row, the best of its kind, and names its conditions and its run."""

from plmft.page.model_costs import cost_per_model
from tests.unit.page_runs import benchmark


def cells(*runs: object) -> dict[tuple[str, str], object]:
    """Model and column to its cell."""
    table = cost_per_model(runs)
    return {(row[0], head): cell for row in table.rows for head, cell in zip(table.heads, row, strict=True)}


def test_the_best_row_at_512_residues_stands_for_a_model() -> None:
    row = {"model": "esm2_8m", "batch": 1.0, "length": 512.0, "precision": "fp32", "step_time_ms_p50": 30.0}
    rows = (
        row,
        row | {"precision": "bf16", "step_time_ms_p50": 20.0},
        row | {"length": 128.0, "step_time_ms_p50": 5.0},
    )
    found = cells(benchmark("latency", *rows, row | {"batch": 8.0, "step_time_ms_p50": 1.0}, run_id="lat"))
    cell = found["esm2_8m", "one prediction"]
    assert (cell.text, cell.runs) == ("20 ms (L 512, bf16)", ("lat",))


def test_the_highest_rate_is_the_best_and_models_have_rows_of_their_own() -> None:
    rows = [{"model": m, "precision": "bf16", "sequences_per_s": r} for m, r in (("a", 1.0), ("a", 9.0), ("b", 4.0))]
    found = cells(benchmark("throughput", *rows))
    assert found["a", "throughput"].text == "9 seq/s (bf16)" and found["b", "throughput"].text == "4 seq/s (bf16)"


def test_inference_and_training_are_not_mixed_and_what_no_one_measured_is_left_out() -> None:
    rows = [
        {"model": "a", "mode": "training", "peak_memory_gb": 1.0},
        {"model": "a", "mode": "inference", "peak_memory_gb": 2.0},
        {"model": "b", "mode": "inference", "note": "too large"},
        {"model": "c", "mode": "inference", "peak_above_libraries_gb": 0.5},
    ]
    table = cost_per_model([benchmark("memory", *rows)])
    assert table.heads == ("model", "device", "memory, inference", "memory, training")
    found = cells(benchmark("memory", *rows))
    assert found["a", "memory, inference"].text == "2 GB" and found["a", "memory, training"].text == "1 GB"
    assert found["c", "memory, training"].text == "–" and ("b", "memory, inference") not in found


def test_hours_of_fine_tuning_are_of_all_weights_and_of_one_amount_of_data() -> None:
    known = (("a", "full", 8.0), ("a", "frozen", 1.0), ("a", "lora", 2.0), ("c", "frozen", 1.0))
    row = {"length": 512.0, "for_sequences": 50_000.0, "for_epochs": 1.0}
    rows = [row | {"model": model, "tuning": tuning, "hours_projected": hours} for model, tuning, hours in known]
    less = {"for_sequences": 1000.0, "for_epochs": 5.0}
    rows.append(row | {"model": "b", "tuning": "full", "hours_projected": 1.0} | less)
    found = cells(benchmark("training", *rows))
    head = "full fine-tuning on 50,000, projected"
    assert found["a", head].text == "8 h (L 512)" and found["b", head].text == "10 h (L 512)"
    assert ("c", head) not in found


def test_without_benchmarks_there_is_no_table() -> None:
    assert cost_per_model([]) is None
    assert cost_per_model([benchmark("latency", {"model": "a", "note": "refused"})]) is None
