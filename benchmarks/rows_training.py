"""Rows that train: plmft beside Hugging Face's Trainer, with the same weights, batches, learning rate and steps."""

import statistics
from collections.abc import Callable
from functools import partial

from benchmarks.compare import Answers, Entry, Goal, Row, entry, faster, interleave, peaks, rates
from benchmarks.material import Material, small, typical, write
from benchmarks.setting import BATCH_SIZE, NAMES, WARMUP, Setting
from benchmarks.workers import Workers

FULL, GROUPED, LORA = Goal(4.0, True), Goal(2.3, True), Goal(4.0, True)
FIXED, MEMORY = Goal(1.5, True), Goal(0.6, False)
MEGA_BATCH = 50 * BATCH_SIZE  # what group_by_length sorts at a time
ACCURACY_STEPS, ACCURACY_LENGTH, SEEDS = 60, 100, (0, 1, 2)
ACCURACY_LR = {"full": 1e-4, "lora": 5e-4}  # plmft's own


def full(setting: Setting) -> Row:
    """Full tuning at SS3 lengths, against random order and group_by_length; host memory of the same processes."""
    row = Row("full")
    for model in setting.models:
        amount, name = setting.amount(model), NAMES[model]
        with setting.workers(f"full-{model}") as workers:
            sides = _full_sides(setting, workers, model, amount.steps)
            answers = interleave(sides, amount.rounds)
        _check_same_work(answers, "plmft", "plmft_plain", "Trainer")
        row.entries += [
            _against("full tuning, SS3 lengths", name, answers, "plmft", "Trainer", FULL),
            _against("the same without plmft's compiled kernel", name, answers, "plmft_plain", "Trainer", None),
            _against("full tuning, SS3 lengths, group_by_length", name, answers, "plmft", "grouped", GROUPED),
            _against("the same without the kernel, group_by_length", name, answers, "plmft_plain", "grouped", None),
            _memory(name, answers, "plmft", "Trainer", MEMORY),
            _memory(name, answers, "plmft", "grouped", None),
        ]
        row.text += _attention(name, answers)
    row.text.append(f"Sequences: {setting.structures[1]}; a draw whose batches are as long and uneven as all of it.")
    return row


def _full_sides(setting: Setting, workers: Workers, model: str, steps: int) -> dict[str, Callable[[], dict]]:
    material = setting.structure_steps(f"full-{model}", steps + WARMUP)
    weights = setting.checkpoint(model, workers)
    words = setting.overrides(model, weights, material, tuning="full")
    trainer = setting.trainer(weights, material, lora=False)
    sorted_material, batches = _grouped(setting, workers, model, steps + WARMUP)
    by_length = trainer | {"material": str(sorted_material.lines)}
    return {
        "plmft": partial(workers["plmft"].ask, "train", overrides=words, warmup=WARMUP),
        "Trainer": partial(workers["peers"].ask, "train", **trainer, batches=material.batches(BATCH_SIZE, 0)),
        "plmft_plain": partial(workers["plmft_plain"].ask, "train", overrides=words, warmup=WARMUP),
        "grouped": partial(workers["peers grouped"].ask, "train", **by_length, batches=batches),
    }


def _grouped(setting: Setting, workers: Workers, model: str, steps: int) -> tuple[Material, list[list[str]]]:
    """Batches that group_by_length makes of the whole split, evenly from one of its sorted stretches.

    The second stretch, for the first begins with the longest of all. Warm-up are its longest, once more.
    """
    rows = setting.structures[0]
    lengths = [len(r.sequence) + 2 for r in rows]
    order = workers["peers"].ask("grouped", lengths=lengths, batch_size=BATCH_SIZE, seed=0)["order"]
    stretch = order[MEGA_BATCH : 2 * MEGA_BATCH]
    all_batches = [stretch[i : i + BATCH_SIZE] for i in range(0, MEGA_BATCH, BATCH_SIZE)]
    timed = steps - WARMUP
    spread = [all_batches[int((number + 0.5) * len(all_batches) / timed)] for number in range(timed)]
    picked = [*spread[:WARMUP], *spread]
    few = small(rows, 8)
    splits = {"train": [rows[i] for batch in spread for i in batch], "valid": few[:4], "test": few[4:]}
    material = write(setting.folder / "material", f"grouped-{model}", "residue", splits)
    return material, [[rows[i].id for i in batch] for batch in picked]


def lora(setting: Setting) -> Row:
    """LoRA on all projections at SS3 lengths, against Trainer with PEFT on the same ones."""
    row = Row("lora")
    for model in setting.models:
        amount, name = setting.amount(model), NAMES[model]
        with setting.workers(f"lora-{model}") as workers:
            material = setting.structure_steps(f"lora-{model}", amount.steps + WARMUP)
            answers = _pair(setting, workers, model, material, "lora", amount.rounds)
        row.entries.append(_against("LoRA, SS3 lengths, Trainer + PEFT", name, answers, "plmft", "Trainer", LORA))
        row.entries.append(_memory(name, answers, "plmft", "Trainer", None, "LoRA"))
    row.text.append("Rank 16, alpha 32, no dropout, on every projection of attention and feed-forward, on both sides.")
    return row


def fluorescence(setting: Setting) -> Row:
    """Sequences of one length, so that there is no padding to save."""
    row = Row("fluorescence")
    for model in setting.models:
        amount, name = setting.amount(model), NAMES[model]
        with setting.workers(f"fluorescence-{model}") as workers:
            material = setting.brightness_steps(f"fluorescence-{model}", amount.steps + WARMUP)
            for tuning, said in (("full", "full"), ("lora", "LoRA")):
                answers = _pair(setting, workers, model, material, tuning, amount.rounds)
                measure = f"fluorescence, all of 237 residues, {said}"
                row.entries.append(_against(measure, name, answers, "plmft", "Trainer", FIXED))
    row.text.append(
        f"Sequences: {setting.brightness[1]}. Heads are each side's own for a number: plmft pools the mean and has two "
        "layers with normalisation over the step, transformers' EsmForSequenceClassification takes the first token. So "
        "no metric is compared here."
    )
    return row


def _pair(setting: Setting, workers: Workers, model: str, material: Material, tuning: str, rounds: int) -> Answers:
    weights = setting.checkpoint(model, workers)
    words = setting.overrides(model, weights, material, tuning=tuning)
    trainer = setting.trainer(weights, material, lora=tuning == "lora") | {"batches": material.batches(BATCH_SIZE, 0)}
    sides = {
        "plmft": partial(workers["plmft"].ask, "train", overrides=words, warmup=WARMUP),
        "Trainer": partial(workers["peers"].ask, "train", **trainer),
    }
    answers = interleave(sides, rounds)
    _check_same_work(answers, "plmft", "Trainer")
    return answers


def same_result(setting: Setting) -> Row:
    """The test accuracy that both sides come to from the same weights by the same batches, over three seeds."""
    row, model = Row("same_result"), setting.models[0]
    steps, seeds = (4, (0,)) if setting.quick else (ACCURACY_STEPS, SEEDS)
    rows = [r for r in setting.structures[0] if len(r.sequence) <= ACCURACY_LENGTH and r.target.strip(".")]
    picked = typical(rows, steps, BATCH_SIZE, 0)
    taken = {r.id for r in picked}
    rest = [r for r in rows if r.id not in taken]
    splits = {"train": picked, "valid": rest[:4], "test": rest[4 : 12 if setting.quick else 204]}
    material = write(setting.folder / "material", "same_result", "residue", splits)
    with setting.workers("same_result") as workers:
        weights = setting.checkpoint(model, workers)
        for tuning, lr in ACCURACY_LR.items():
            found: dict[str, list[float]] = {"plmft": [], "Trainer": []}
            for seed in seeds:
                words = setting.overrides(model, weights, material, tuning=tuning, seed=seed, lr=lr)
                trainer = setting.trainer(weights, material, lora=tuning == "lora", seed=seed, lr=lr)
                batches = material.batches(BATCH_SIZE, seed)
                ours = workers["plmft"].ask("train", overrides=words, warmup=WARMUP, metric="test/accuracy")
                theirs = workers["peers"].ask("train", **trainer, batches=batches, score=True)
                found["plmft"].append(ours["metric"])
                found["Trainer"].append(theirs["metric"])
            row.entries.append(_difference(f"test accuracy after {steps} steps, {tuning}", NAMES[model], found))
    row.text.append(
        f"SS3, sequences of at most {ACCURACY_LENGTH} residues, {len(splits['test'])} test proteins, seeds 0 to 2; "
        f"learning rates {', '.join(f'{lr:g} ({tuning})' for tuning, lr in ACCURACY_LR.items())}. Both start "
        "from the same random backbone and see the same batches; heads are drawn by each side itself."
    )
    return row


def _difference(measure: str, model: str, found: dict[str, list[float]]) -> Entry:
    """Within noise: the means differ by less than two standard errors of their difference, or by half a point."""
    ours, theirs = found["plmft"], found["Trainer"]
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    gap = statistics.mean(ours) - statistics.mean(theirs)
    noise = 0.0
    if len(gaps) > 1:
        noise = 2 * ((statistics.variance(ours) + statistics.variance(theirs)) / len(gaps)) ** 0.5
    allowed = max(noise, 0.005)
    return Entry(
        measure,
        model,
        _by_seed(ours),
        _by_seed(theirs),
        gap,
        min(gaps),
        max(gaps),
        "difference",
        f"within noise (±{allowed:.4f})",
        abs(gap) <= allowed,
    )


def _by_seed(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _against(measure: str, model: str, answers: Answers, ours: str, theirs: str, goal: Goal | None) -> Entry:
    values = faster(answers, ours, theirs)
    return entry(measure, model, values, goal, plmft=rates(answers[ours]), peer=rates(answers[theirs]))


def _memory(model: str, answers: Answers, ours: str, theirs: str, goal: Goal | None, what: str = "full") -> Entry:
    """Each side in its own process, which has run nothing else."""
    mine, other = peaks(answers[ours]), peaks(answers[theirs])
    where = "GPU" if "peak_gb" in answers[ours][0] else "host"
    measure = f"peak {where} memory, {what}, {'group_by_length' if theirs == 'grouped' else 'random order'}"
    values = [a / b for a, b in zip(mine, other, strict=True)]
    return entry(measure, model, values, goal, plmft=f"{max(mine):.2f} GB", peer=f"{max(other):.2f} GB")


def _check_same_work(answers: Answers, *sides: str) -> None:
    work = {side: {answer["residues"] for answer in answers[side]} for side in sides}
    if len(set().union(*work.values())) != 1:
        raise RuntimeError(f"The sides did not do the same work; residues: {work}.")


def _attention(model: str, answers: Answers) -> list[str]:
    used = {side: answers[side][-1]["attention"] for side in ("plmft", "plmft_plain")}
    if used["plmft"] != used["plmft_plain"]:
        return [f"{model}: plmft's attention was `{used['plmft']}`; without the kernel `{used['plmft_plain']}`."]
    return [f"{model}: plmft's attention was `{used['plmft']}` on both of its sides: there is no compiled kernel here."]
