"""Rows about plmft alone: what the framework adds, the share of the machine's bound, and starting up."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.compare import Goal, Row, entry, interleave, rate, rates
from benchmarks.setting import NAMES, TOKENS, WARMUP, Setting
from benchmarks.workers import LIMIT_S, ROOT, Workers, environment

OVERHEAD = Goal(0.03, False, "%")
LOOPS = {"esm2_tiny": (120, 3), "esm2_8m": (12, 3)}  # steps and rounds
BOUND = {"esm2_8m": Goal(0.5, True, "%"), "esm2_35m": Goal(0.7, True, "%")}
FIRST_BATCH, CHECKED = Goal(8.0, False, "s"), Goal(1.0, False, "s")


def framework(setting: Setting) -> Row:
    """A whole run's steps beside a bare PyTorch loop over the same packed batches."""
    row = Row("framework")
    models = ("esm2_tiny",) if setting.quick else ("esm2_tiny", "esm2_8m")
    with setting.workers("framework") as workers:
        found = {model: _loops(setting, workers, model) for model in models}
    extra_s = statistics.median(a - b for a, b in zip(*found["esm2_tiny"].values(), strict=True))
    for model, steps_s in found.items():
        slower = [a / b - 1 for a, b in zip(steps_s["whole"], steps_s["bare"], strict=True)]
        whole, bare = (f"{1e3 * statistics.median(seconds):.1f} ms a step" for seconds in steps_s.values())
        if model == "esm2_tiny":
            line = entry("whole framework, slower than a bare loop", "near-empty", slower, None, plmft=whole, peer=bare)
            line.unit = "%"
        else:
            line = entry(
                "whole framework, slower than a bare loop", NAMES[model], slower, OVERHEAD, plmft=whole, peer=bare
            )
            share = [extra_s / seconds for seconds in steps_s["bare"]]
            added = f"{1e3 * extra_s:.2f} ms more"
            row.entries.append(
                entry(
                    "what it adds to a near-empty step, in parts of an 8M step",
                    NAMES[model],
                    share,
                    OVERHEAD,
                    plmft=added,
                    peer=bare,
                )
            )
        row.entries.append(line)
    row.text.append(
        "Near-empty: 2 layers of width 64, where the addition shows; the noise of an 8M step hides it. Both loops run "
        "in one process in turns, with plmft's model, batches, optimizer and clipping; the whole run adds Lightning, "
        "meters, MLflow and the progress bar. Medians of steps."
    )
    return row


def _loops(setting: Setting, workers: Workers, model: str) -> dict[str, list[float]]:
    """Median seconds of a step in each round, of the whole run and of the bare loop."""
    steps, rounds = LOOPS[model] if not setting.quick else (8, 1)
    material = setting.structure_steps(f"framework-{model}", steps + WARMUP)
    words = setting.overrides(model, setting.checkpoint(model, workers), material, tuning="full")
    ask = workers["plmft"].ask
    jobs = {"whole": "train", "bare": "bare"}
    sides = {side: partial(ask, job, overrides=words, warmup=WARMUP) for side, job in jobs.items()}
    answers = interleave(sides, rounds)
    return {side: [statistics.median(a["step_s"]) for a in found] for side, found in answers.items()}


def bound(setting: Setting) -> Row:
    """Training speed in parts of what the step's matrix products alone would allow."""
    row = Row("bound")
    steps = {"esm2_8m": 6, "esm2_35m": 3, "esm2_tiny": 2, "esm2_650m": 6}
    repeats = 3 if setting.quick else 9
    for model in setting.models:
        name, batch_size = NAMES[model], 16
        rounds = 1 if setting.quick else 2
        with setting.workers(f"bound-{model}") as workers:
            material = setting.structure_steps(f"bound-{model}", steps[model] + WARMUP, batch_size)
            weights = setting.checkpoint(model, workers)
            more = [f"batch_size={batch_size}", f"hardware.tokens_per_batch={TOKENS}"]
            words = setting.overrides(model, weights, material, tuning="full", more=more)
            length = round(material.residues / len(material.train)) + 2
            sides = {
                "train": partial(workers["plmft"].ask, "train", overrides=words, warmup=WARMUP),
                "gemm": partial(
                    workers["plmft"].ask, "gemm", model=model, tokens=TOKENS, length=length, repeats=repeats
                ),
            }
            answers = interleave(sides, rounds)
        residues = TOKENS * (length - 2) / length
        linear = [residues / answer["linear_s"] for answer in answers["gemm"]]
        products = [residues / (a["linear_s"] + a["attention_s"]) for a in answers["gemm"]]
        for measure, limit, goal in (
            ("share of the bound: products with weights", linear, BOUND.get(model)),
            ("share of the bound: attention's products, too", products, None),
        ):
            values = [rate(a) / b for a, b in zip(answers["train"], limit, strict=True)]
            peer = f"{statistics.median(limit):,.0f} residues/s"
            row.entries.append(entry(measure, name, values, goal, plmft=rates(answers["train"]), peer=peer))
            row.entries[-1].unit = "%"
    row.text.append(
        "The bound is all of a step's products (forward, gradient of the input, gradient of the weight) at the model's "
        "own shapes and 4,096 tokens in bf16, each alone and warm. Training: SS3 lengths, steps of 16 sequences cut at "
        "4,096 tokens. Goals are held against products with weights alone, the stricter of the two."
    )
    return row


FIRST = """
import os, sys, runpy
from plmft.efficiency.steps import StepMeter
def first(meter):
    os.write(1, b"first batch\\n")
    os._exit(0)
StepMeter.step_begin = first
sys.argv = ["plmft.train", *sys.argv[1:]]
runpy.run_module("plmft.train", run_name="__main__", alter_sys=True)
"""


def startup(setting: Setting) -> Row:
    """Seconds until the first batch is there, with data and imports cached; of --help; of a config error."""
    row, repeats = Row("startup"), 1 if setting.quick else 5
    model = setting.models[0]
    words, said = _data_words(setting)
    words = [f"model={model}", "model.init=random", "tuning=full", "batch_size=8", "hardware=cpu", *words]
    command = [sys.executable, "-m", "plmft.train"]
    with tempfile.TemporaryDirectory(dir=setting.folder) as runs:
        cases = {
            "python -m plmft.train to the first batch": (
                [sys.executable, "-c", FIRST, *words],
                "first batch",
                FIRST_BATCH,
            ),
            "python -m plmft.train --help": ([*command, "--help"], "Configuration groups", CHECKED),
            "a config error": ([*command, "tuning=lora", "tuning.ranks=16"], "'rank'", CHECKED),
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(repeats + 1):
            for name, (typed, announced, _) in cases.items():
                seconds = _seconds(typed, announced, environment(setting.threads, Path(runs)))
                if number:  # the first fills caches
                    times[name].append(seconds)
    for name, (_, _, goal) in cases.items():
        median = f"{statistics.median(times[name]):.2f} s"
        row.entries.append(
            entry(name, NAMES[model] if "batch" in name else "", times[name], goal, plmft=median, peer="")
        )
    row.text.append(
        f"Wall time of the whole process, medians of {repeats} after one that fills the caches. Data: {said}."
    )
    return row


def _data_words(setting: Setting) -> tuple[list[str], str]:
    folder = os.environ.get("PLMFT_DATA")
    if folder and (Path(folder) / "secondary_structure").is_dir():
        return ["task=secondary_structure", "data.length_policy=window"], "all 11,156 chains of secondary_structure"
    material = setting.structure_steps("startup", 60)
    words = ["task=table", f"task.file='{material.table}'", "task.kind=residue_classes"]
    return words, f"a table of {len(material.train)} proteins"


def _seconds(command: list[str], said: str, variables: dict[str, str]) -> float:
    """Wall time of a process. Raises: RuntimeError: it did not end, or did not say what it should."""
    start = time.perf_counter()
    try:
        ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command[-2:])}: it did not end within {LIMIT_S:.0f} s.") from None
    seconds = time.perf_counter() - start
    if said not in ended.stdout + ended.stderr:
        raise RuntimeError(f"{' '.join(command[-2:])}: {(ended.stderr or ended.stdout).strip()[-200:]}")
    return seconds
