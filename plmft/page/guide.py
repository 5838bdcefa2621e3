"""The decision guide: sentences about each contest that follow from its runs by fixed rules, and what is not answered.

Nothing here is written by hand about a model: a sentence appears because runs made its condition true, and it names
them. What to take is the rule in plmft.page.choice.
"""

from collections.abc import Iterator

from plmft.page.blocks import Sentence
from plmft.page.choice import Choice, Limits, choose, memory_of, on_accelerator
from plmft.page.configurations import Configuration, Contest
from plmft.page.costs import BY_KEY, reads_cache
from plmft.page.figures import duration, figure, interval, memory, probability, score
from plmft.page.runs import UNTRAINED
from plmft.page.significance import LEVEL

TUNINGS = ("frozen", "lora", "full")
CHANCE_IS_ZERO = ("spearman", "pearson", "mcc")
SEEDS = 3  # a standard deviation of fewer says little
LEAST_STEP = 1.25  # a cheaper rung of the ladder costs at most 1 / 1.25 of the one above it


def guide(contest: Contest) -> list[Sentence]:
    """All that the runs of one contest say, then what they do not."""
    choice = choose(contest)
    if choice is None:
        return []
    return [*_answer(contest, choice), *_data(contest), *_ladder(contest, choice), *_gaps(contest, choice)]


def described(one: Configuration) -> str:
    """Its score, interval or deviation over seeds, as text."""
    value = score(one.value)
    if one.sd is not None:
        value += f" ± {score(one.sd)} over {len(one.runs)} seeds"
    return value + (f" (95 % {interval(one.interval)})" if one.interval else "")


def price(one: Configuration) -> str:
    """What training it took, as far as that was measured."""
    parts = []
    seconds, gigabytes, usd = one.cost(BY_KEY["train_s"]), memory_of(one), one.cost(BY_KEY["usd"])
    if seconds is not None:
        parts.append("no training" if seconds == 0 else f"{duration(seconds)} of training")
    if gigabytes is not None:
        where = "accelerator memory" if on_accelerator(one) else "host memory"
        parts.append(f"{memory(gigabytes)} of {where}")
    if usd is not None:
        parts.append(f"{figure(usd)} USD")
    return ", ".join(parts) + f" on {one.first.device}" if parts else "cost not measured"


def _answer(contest: Contest, choice: Choice) -> Iterator[Sentence]:
    sets = contest.configurations
    take, best = sets[choice.take], sets[choice.best]
    sizes = {one.records for one in sets}
    records = f", trained on {take.records:,} records" if len(sizes) > 1 and take.records else ""
    said = f"Take {take.name}{records}: {contest.primary} {described(take)}; {price(take)}."
    yield Sentence(said, take.ids, tone="answer")
    if choice.take != choice.best:
        p = choice.p[choice.take]
        yield Sentence(
            f"{best.name} scored {score(best.value)}, but the test set cannot tell the two apart (p {probability(p)})"
            f"{_slower(best, take)}.",
            (*best.ids, *take.ids),
        )
    yield from _worse(contest, choice)
    yield from _baseline(contest, best)


def _slower(best: Configuration, take: Configuration) -> str:
    first, second = best.cost(BY_KEY["train_s"]), take.cost(BY_KEY["train_s"])
    return f", and it trained {figure(first / second)} times as long" if first and second else ""


def _worse(contest: Contest, choice: Choice) -> Iterator[Sentence]:
    """The best of those that are told apart from the best."""
    behind = [i for i in contest.ordered() if choice.p.get(i, 1.0) < LEVEL]
    if not behind:
        return
    number = behind[0]
    best, other = contest.configurations[choice.best], contest.configurations[number]
    gap = contest.gaps.get((choice.best, number))
    size = f"by {score(abs(best.value - other.value))}"
    if gap:
        ends = sorted(abs(end) for end in gap)
        size += f" (95 % of the paired difference: {score(ends[0])} to {score(ends[1])})"
    subject = "It" if choice.take == choice.best else best.name
    yield Sentence(f"{subject} beats {other.name} {size}.", (*best.ids, *other.ids))


def _baseline(contest: Contest, best: Configuration) -> Iterator[Sentence]:
    metric = best.first.metrics.get(f"baseline/{contest.primary}")
    if metric is not None:
        yield Sentence(f"A predictor that has seen only the training labels reaches {score(metric)}.", best.ids[:1])
    elif contest.primary in CHANCE_IS_ZERO and best.interval and best.interval[0] <= 0:
        yield Sentence("Chance gives 0, and nothing here shows that it does better.", best.ids)
    ceiling = best.first.metrics.get(f"test/{contest.primary}_ceiling")
    if ceiling is not None:
        yield Sentence(f"No predictor can expect more than {score(ceiling)} on these records.", best.ids[:1])


def _data(contest: Contest) -> Iterator[Sentence]:
    """The choice at each size of the training set that was tried."""
    sizes = sorted({one.records for one in contest.configurations if one.records}, reverse=True)
    for size in sizes[1:]:
        choice = choose(contest, Limits(records=size))
        if choice is not None:
            yield _within(contest, choice, f"With {size:,} training records")


def _within(contest: Contest, choice: Choice, limit: str) -> Sentence:
    """What to take within a limit, and the best there where that is another one."""
    take, best = contest.configurations[choice.take], contest.configurations[choice.best]
    text = f"{limit}: {take.name}, {described(take)}"
    if choice.take == choice.best:
        return Sentence(f"{text}.", take.ids)
    return Sentence(f"{text}; not told from {best.name}, {score(best.value)}.", (*take.ids, *best.ids))


def _ladder(contest: Contest, choice: Choice) -> Iterator[Sentence]:
    """What to take on the choice's device with less memory, and with less time, than the choice needs."""
    take = contest.configurations[choice.take]
    device, sets = take.first.device, [contest.configurations[number] for number in contest.contenders()]
    where = f" on {device}" if len(contest.devices) > 1 else ""
    for name, read, limit, words in (
        ("memory", memory_of, lambda v: Limits(memory_gb=v, device=device), memory),
        ("training", _training_s, lambda v: Limits(hours=v / 3600, device=device), duration),
    ):
        spent = read(take)
        while spent:
            known = [value for one in sets if one.first.device == device and (value := read(one)) is not None]
            below = [value for value in known if value * LEAST_STEP <= spent]
            if not below or (next_choice := choose(contest, limit(max(below)))) is None:
                break
            one = contest.configurations[next_choice.take]
            spent = min(read(one) or 0, max(below))
            yield _within(contest, next_choice, f"With at most {words(max(below))} of {name}{where}")


def _training_s(one: Configuration) -> float | None:
    return one.cost(BY_KEY["train_s"])


def _gaps(contest: Contest, choice: Choice) -> Iterator[Sentence]:
    """What these runs cannot answer, and the command that would."""
    take = contest.configurations[choice.take]
    run = take.first
    base = f"python -m plmft.train --from-run {run.parent or run.run_id}"
    if contest.synthetic:
        yield Sentence("The records are generated: nothing here carries over to proteins.", tone="gap")
    yield from _pretraining(contest)
    if run.kind == "training":
        yield from _not_run(contest, take, base)
    if len({one.records for one in contest.configurations if one.records}) > 1:
        yield Sentence("Equal data: these were trained on different numbers of records.", tone="gap")
    if any(one.first.subset for one in contest.configurations):
        yield Sentence("All of the data: some runs took a part of the records (limit.*).", tone="gap")
    yield from _unmeasured(contest, take, base)


def _pretraining(contest: Contest) -> Iterator[Sentence]:
    """Of random weights, whatever stands beside them."""
    untrained = [one for one in contest.configurations if one.first.is_random_backbone]
    if untrained:
        every = len(contest.contenders()) == len(contest.configurations)
        which = "every protein language model here" if every else ", ".join(one.name for one in untrained)
        left = "" if every else " They are in no front and no choice, since pretrained ones are here."
        said = (
            f"Pretraining: {which} began from random weights. Their costs hold, their accuracy says nothing of the "
            f"published weights.{left}"
        )
        yield Sentence(said, tuple(run_id for one in untrained for run_id in one.ids), tone="gap")


def _not_run(contest: Contest, take: Configuration, base: str) -> Iterator[Sentence]:
    """Seeds and ways of tuning."""
    model = take.first.model
    if len(take.runs) < SEEDS:
        used = {one.seed for one in take.runs}
        free = next(seed for seed in map(str, range(SEEDS + 1)) if seed not in used)
        told = "one seed was run" if len(take.runs) == 1 else f"{len(take.runs)} seeds were run"
        said = f"Scatter over seeds: {told} of the choice; {SEEDS} give a deviation."
        yield Sentence(said, take.ids, f"{base} seed={free}", "gap")
    tried = {one.first.tuning for one in contest.configurations if one.first.model == model}
    missing = [name for name in TUNINGS if name not in tried]
    if missing and tried & {*TUNINGS} and not model.startswith(UNTRAINED):
        told = f"Tuning: {model} was not run with {' or '.join(missing)}."
        yield Sentence(told, command=f"{base} tuning={missing[0]}", tone="gap")


def _unmeasured(contest: Contest, take: Configuration, base: str) -> Iterator[Sentence]:
    if all(map(reads_cache, take.runs)):
        told = "Cost of training: these runs read embeddings that an earlier run had computed."
        yield Sentence(told, take.ids, tone="gap")
    elif take.cost(BY_KEY["energy_j"]) is None:
        known = any("cost/energy_j" in run.costs for run in take.runs)
        why = "not in all phases" if known else take.first.energy_source.removeprefix("absent: ") or "not measured"
        yield Sentence(f"Energy: absent ({why}).", take.ids, tone="gap")
    if not any("cost/usd" in run.costs for run in take.runs):
        yield Sentence("Money: no price per hour is set.", take.ids, f"{base} hardware.usd_per_hour=PRICE", "gap")
    if len(contest.devices) == 1:
        yield Sentence(f"Other hardware: all of these ran on {contest.devices[0]}.", tone="gap")
    if contest.reason:
        yield Sentence(f"Significance: {contest.reason}.", tone="gap")
