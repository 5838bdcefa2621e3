"""Rows of inference: embedding beside fair-esm and esm-cpp, and frozen tuning from cached embeddings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.compare import Entry, Goal, Row, entry, faster, interleave, rates
from benchmarks.material import typical
from benchmarks.setting import NAMES, TOKENS, Setting
from benchmarks.workers import Workers
from plmft.config.compose import compose_config

FAIR_ESM, ESM_CPP, FROZEN = Goal(5.0, True), Goal(1.5, True), Goal(100.0, True)
SEQUENCES = {"esm2_8m": 96, "esm2_35m": 48, "esm2_650m": 256, "esm2_tiny": 16}


def embedding(setting: Setting) -> Row:
    """Means over residues, against fair-esm's loop in fp32 and esm-cpp in INT8."""
    row = Row("embedding")
    for model in setting.models:
        folder = setting.folder / f"embedding-{model}"
        with setting.workers(folder.name) as workers:
            sides = _sides(setting, workers, model, folder)
            for side in sides.values():
                side(limit=8)  # the first calls start threads and allocate
            answers = interleave(sides, setting.amount(model).rounds)
        row.entries += _embedding_entries(NAMES[model], answers)
        row.text += _exactness(NAMES[model], folder, list(sides))
    row.text.append(
        "fair-esm: the loop of its esm-extract (4,096 tokens a batch), fp32, means kept in memory. esm-cpp: "
        "forward_scheduled over all sequences on weights that it quantised itself; its batches give logits, so means "
        "are not in its time."
    )
    return row


def _sides(setting: Setting, workers: Workers, model: str, folder: Path) -> dict[str, Callable[..., dict]]:
    sequences = [r.sequence for r in typical(setting.structures[0], SEQUENCES[model] // 8, 8, 1)]
    weights = setting.checkpoint(model, workers)
    material = setting.structure_steps(folder.name, 1)
    ours = {
        "overrides": setting.overrides(model, weights, material, tuning="frozen"),
        "sequences": sequences,
    }
    theirs = {"checkpoint": str(weights), "sequences": sequences}
    loop = {"layer": compose_config([f"model={model}"]).model.layers, "tokens": TOKENS, "device": setting.device}
    sides = {
        "plmft": partial(workers["plmft"].ask, "embed", **ours, keep=f"{folder}/plmft.npy"),
        "fair-esm": partial(workers["fair-esm"].ask, "extract", **theirs, **loop, keep=f"{folder}/fair-esm.npy"),
        "plmft_plain": partial(workers["plmft_plain"].ask, "embed", **ours, keep=f"{folder}/plmft_plain.npy"),
        "esm-cpp": partial(workers["esm-cpp"].ask, "esm_cpp", **theirs, int8=True, keep=f"{folder}/esm-cpp.npy"),
    }
    return sides if setting.device == "cpu" else {name: side for name, side in sides.items() if name != "esm-cpp"}


def _embedding_entries(model: str, answers: dict[str, list[dict]]) -> list[Entry]:
    compared = [
        ("embedding, fair-esm's extract loop", "plmft", "fair-esm", FAIR_ESM),
        ("the same without the kernel, fair-esm", "plmft_plain", "fair-esm", None),
        ("embedding, esm-cpp INT8", "plmft", "esm-cpp", ESM_CPP),
        ("the same without the kernel, esm-cpp", "plmft_plain", "esm-cpp", None),
    ]
    return [
        entry(
            measure,
            model,
            faster(answers, ours, theirs),
            goal,
            plmft=rates(answers[ours]),
            peer=rates(answers[theirs]),
        )
        for measure, ours, theirs, goal in compared
        if theirs in answers
    ]


def _exactness(model: str, folder: Path, sides: list[str]) -> list[str]:
    """How far the means lie from fair-esm's in fp32, relative to how proteins differ from one another."""
    exact = np.load(folder / "fair-esm.npy").astype(np.float64)
    spread = np.sqrt(np.square(exact - exact.mean(0)).sum(1).mean())
    told = []
    for side in sides:
        found = np.load(folder / f"{side}.npy").astype(np.float64)
        error = np.sqrt(np.square(found - exact[: len(found)]).sum(1).mean()) / spread
        if side != "fair-esm":
            told.append(f"{side.replace('_plain', ' without the kernel')} {error:.2%}")
    return [
        f"{model}: root-mean-square distance of the means from fair-esm's in fp32, in parts of what proteins differ "
        f"from their mean: {', '.join(told)}."
    ]


def frozen(setting: Setting) -> Row:
    """An epoch of a frozen run from cached embeddings, against one through the backbone."""
    row = Row("frozen")
    for model in setting.models:
        proteins = {"esm2_8m": 400, "esm2_35m": 64}.get(model, 32)
        with setting.workers(f"frozen-{model}") as workers:
            found = workers["plmft"].ask("frozen", model=model, proteins=proteins)
        ours, theirs = f"{found['cached_s']:.3f} s an epoch", f"{found['backbone_s']:.2f} s an epoch"
        values = [found["speedup"]]
        row.entries.append(
            entry("frozen, cache against backbone", NAMES[model], values, FROZEN, plmft=ours, peer=theirs)
        )
        row.text.append(
            f"{NAMES[model]}: {proteins} proteins, {found['residues']:,} residues; validation and checkpoint of each "
            f"epoch are in its time, optimizer steps take {found['training_steps_s']:.3f} s of the cached one. Filling "
            f"the cache takes {found['fill_s']:.1f} s ({found['cache_mb']:.0f} MB), finding all of it again "
            f"{found['refill_s']:.2f} s. Test accuracy after one epoch: {found['accuracy'][0]:.4f} through the "
            f"backbone, {found['accuracy'][1]:.4f} from the cache, whose vectors are in half precision."
        )
    return row
