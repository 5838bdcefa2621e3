"""The sections about tasks: accuracy against cost, tables with intervals and significance, published values."""

from collections.abc import Callable, Iterator, Sequence

from plmft.page.blocks import Cell, Front, Section, Sentence, Span, Table
from plmft.page.choice import choose, memory_of
from plmft.page.claims import METRICS, PERCENT, TASKS, Beside
from plmft.page.configurations import Configuration, Contest
from plmft.page.costs import BY_KEY, COSTS, Cost
from plmft.page.figures import duration, figure, interval, memory, probability, score
from plmft.page.guide import described, price
from plmft.page.runs import Scored
from plmft.tracking.published import RECORDS, Row, compare, load, method_of

PROTOCOLS = {  # a task's name to the published split that it may be on
    "fluorescence": "tape/fluorescence",
    "stability": "tape/stability",
    "homology": "tape/remote_homology_fold",
    "gb1": "flip/gb1_three_vs_rest",
    "secondary_structure": "flip/secondary_structure",
}


def task_sections(contests: Sequence[Contest], claims: Sequence[Beside]) -> Iterator[Section]:
    """One a contest."""
    for contest in contests:
        section = Section(contest.key, title_of(contest, contests), level=3)
        section.blocks.append(Sentence(_about(contest)))
        if len(contest.configurations) > 1:
            section.blocks.append(_front(contest, claims))
        section.blocks.append(_results(contest))
        section.blocks += list(_published(contest))
        section.blocks += list(_claims(contest, claims))
        yield section


def title_of(contest: Contest, all_of_them: Sequence[Contest]) -> str:
    """The task, and what tells its contests apart where there are several."""
    alike = [one for one in all_of_them if one.task == contest.task]
    name = contest.task.replace("_", " ")
    if len(alike) == 1:
        return name
    same = [one for one in alike if one.test_records == contest.test_records]
    which = f", set {same.index(contest) + 1}" if len(same) > 1 else ""
    return f"{name} ({contest.test_records:,} test records{which})"


def _about(contest: Contest) -> str:
    runs = sum(len(one.runs) for one in contest.configurations)
    records = f" on the same {contest.test_records:,} test records" if contest.test_records else ""
    better = "lower" if contest.lower_is_better else "higher"
    generated = " The records are generated, not measured." if contest.synthetic else ""
    return (
        f"{_count(runs, 'run')} of {_count(len(contest.configurations), 'configuration')}{records}; "
        f"{contest.primary}, {better} is better.{generated}"
    )


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _front(contest: Contest, claims: Sequence[Beside]) -> Front:
    axes = [axis for axis in COSTS if any(one.cost(axis) is not None for one in contest.configurations)]
    data = {
        "metric": contest.primary,
        "lower": contest.lower_is_better,
        "axes": [{"key": a.key, "label": a.label, "unit": a.unit} for a in axes],
        "fronts": {axis.key: fronts(contest, axis) for axis in axes},
        "points": [plain(one, axes) for one in contest.configurations],
        "others": _others(contest, claims),
    }
    main = axes[0] if axes else None
    on_front = [contest.configurations[i] for one in fronts(contest, main) for i in one] if main else []
    words = [
        Sentence(f"On the front of {main.label}: {one.name}, {described(one)}; {price(one)}.", one.ids)
        for one in on_front
    ]
    line = "The line is the front" if len(contest.devices) == 1 else "Each line is the front of one device"
    caption = f"{line}: no other configuration on it is both cheaper and better. Bars are 95 % intervals."
    if data["others"]["published"] or data["others"]["claimed"]:
        caption += " What others print has no cost here and stands at the right."
    return Front(contest.key, data, caption, tuple(words))


def fronts(contest: Contest, axis: Cost) -> list[list[int]]:
    """One a device that has any: costs of two are not held against one another."""
    return [found for device in contest.devices if (found := front(contest, axis, device))]


def front(contest: Contest, axis: Cost, device: str) -> list[int]:
    """Numbers of the device's configurations that none of it is both cheaper and better than, by rising cost."""
    sign = -1 if contest.lower_is_better else 1
    there = [i for i in contest.contenders() if contest.configurations[i].first.device == device]
    pairs = [(cost, i) for i in there if (cost := contest.configurations[i].cost(axis)) is not None]
    found, best = [], float("-inf")
    for _, number in sorted(pairs, key=lambda pair: (pair[0], -sign * contest.configurations[pair[1]].value)):
        value = sign * contest.configurations[number].value
        if value > best:
            found.append(number)
            best = value
    return found


def plain(one: Configuration, axes: Sequence[Cost]) -> dict[str, object]:
    """A configuration for the browser."""
    ends = one.interval
    return {
        "name": one.name,
        "model": one.first.model,
        "tuning": one.first.tuning,
        "random": one.first.is_random_backbone,
        "value": one.value,
        "low": ends[0] if ends else None,
        "high": ends[1] if ends else None,
        "costs": {axis.key: cost for axis in axes if (cost := one.cost(axis)) is not None},
        "memory_gb": memory_of(one),
        "records": one.records,
        "device": one.first.device,
        "score": described(one),
        "price": price(one),
        "runs": one.ids,
    }


def chooser_data(contest: Contest, title: str) -> dict[str, object]:
    """What the form needs: configurations, the contenders among them best first, and p of each pair."""
    count = range(len(contest.configurations))
    return {
        "title": title,
        "metric": contest.primary,
        "order": contest.contenders(),
        "points": [plain(one, COSTS) for one in contest.configurations],
        "p": [[contest.p.get((i, j)) for j in count] for i in count],
    }


def _results(contest: Contest) -> Table:
    choice, sets = choose(contest), contest.configurations
    ends = [end for one in sets for end in (one.interval or (one.value, one.value))]
    axis = (min(ends), max(ends)) if ends else (0.0, 1.0)
    rows = []
    columns = [(key, words) for key, words in COLUMNS if any(o.cost(BY_KEY[key]) is not None for o in sets)]
    for number, one in enumerate(sets):
        mark = "take" if choice and number == choice.take else ""
        p = choice.p.get(number) if choice else None
        told = "best" if choice and number == choice.best else "" if p is None else probability(p)
        rows.append([
            Cell(one.name, one.ids, badge=mark),
            Cell(score(one.value) + (f" ± {score(one.sd)}" if one.sd is not None else ""), order=one.value),
            Cell(interval(one.interval), span=_span(one, axis), order=one.value),
            Cell(told, order=p),
            _amount(one.records, "{:,}"),
            *(_cost_cell(one, key, words) for key, words in columns),
        ])  # fmt: skip
    heads = ("configuration", contest.primary, "95 % interval", "p against the best", "training records")
    heads += tuple(BY_KEY[key].label for key, _ in columns)
    absent = [BY_KEY[key].label for key, _ in COLUMNS if (key, _) not in columns]
    how = contest.reason or "p: two-sided, paired bootstrap over test records and seeds, after Holm's correction"
    how = f"{how}. " if len(sets) > 1 else ""
    return Table(heads, rows, frozenset({1, *range(3, len(heads))}), f"{how}{_dashes(absent)}")


COLUMNS = (
    ("train_s", duration),
    ("gpu_gb", memory),
    ("host_gb", memory),
    ("energy_j", lambda joules: f"{figure(joules)} J"),
    ("usd", lambda usd: f"{figure(usd)} USD"),
)


def _dashes(absent: Sequence[str]) -> str:
    return f"Not measured by any of them: {', '.join(absent)}." if absent else "A dash was not measured."


def _cost_cell(one: Configuration, key: str, words: Callable[[float], str]) -> Cell:
    value = one.cost(BY_KEY[key])
    return Cell("–" if value is None else words(value), order=value)


def _amount(value: int | None, form: str) -> Cell:
    return Cell("–" if value is None else form.format(value), order=value)


def _span(one: Configuration, axis: tuple[float, float]) -> Span | None:
    ends = one.interval
    return Span(ends[0], one.value, ends[1], *axis) if ends else None


def _split_of(contest: Contest) -> list[Row]:
    split = PROTOCOLS.get(contest.task, "")
    return [r for r in load() if (r.protocol, r.split, r.metric) == (split, "test", contest.primary)]


def _comparable(contest: Contest) -> tuple[dict[tuple[str, str], Configuration], str]:
    """Configurations on the published split by the published model and method, and why others are not."""
    found, reason = {}, ""
    for one in contest.configurations:
        run = one.first
        counts = {name: run.metrics.get(f"data/{name}") for name in RECORDS[PROTOCOLS[contest.task]]}
        records = {name: int(count) for name, count in counts.items() if count is not None}
        if unknown := [name for name in ("train", "valid", "test") if name not in records]:
            reason = reason or f"not compared: how many records {' and '.join(unknown)} had is not known"
            continue
        init = "random" if run.is_random else "pretrained"
        told = compare(
            PROTOCOLS[contest.task], run.metrics, records, model=run.model, tuning=run.tuning, init=init,
            subset=run.subset,
        )  # fmt: skip
        reason = reason or "; ".join(told.reasons)
        if told.rows:
            found[told.model, _method(run)] = one
    return found, reason


def _method(run: Scored) -> str:
    return method_of(run.model, run.tuning, "random" if run.is_random else "pretrained")


def _others(contest: Contest, claims: Sequence[Beside]) -> dict[str, object]:
    """What is printed elsewhere of the same metric: no cost is known, so it stands beside the plot's costs.

    shown: from the start, where a configuration is on the published split; else the reader may ask for it.
    """
    rows = _split_of(contest)
    ours = [one for one in claims if TASKS.get(one.claim.task) == contest.task]
    same = [one for one in ours if METRICS.get(one.claim.metric, one.claim.metric) == contest.primary]
    return {
        "published": [{"value": r.value, "label": f"{r.model} {r.method}, {r.source}"} for r in rows],
        "claimed": [_claimed(one) for one in same if not contest.synthetic],
        "shown": bool(rows) and bool(_comparable(contest)[0]),
    }


def _claimed(one: Beside) -> dict[str, object]:
    claim = one.claim
    value = claim.value / PERCENT if claim.unit == "percent" else claim.value
    return {"value": value, "label": ", ".join(filter(None, (claim.model, claim.mode, f"review, {claim.table}")))}


def _published(contest: Contest) -> Iterator[Table | Sentence]:
    rows = _split_of(contest)
    if not rows:
        return
    ours, reason = _comparable(contest)
    table = []
    for row in sorted(rows, key=lambda row: -row.value):
        mine = ours.get((row.model, row.method))
        table.append([
            f"{row.model} {row.method}".replace("_", " "),
            Cell(score(row.value) + (f" ± {score(row.sd)}" if row.sd is not None else ""), order=row.value),
            Cell(score(mine.value) if mine else "–", mine.ids if mine else (), order=mine.value if mine else None),
            Cell(f"{row.value / mine.value:.2f}" if mine and mine.value else "–"),
            f"{row.source}, {row.where}",
        ])  # fmt: skip
    heads = ("model", f"published {contest.primary}", "ours", "published / ours", "source")
    caption = f"Ours: {reason}." if reason else "Ours stands beside the same model and method alone."
    yield Table(heads, table, frozenset({1, 2, 3}), caption, f"Published on this split ({len(rows)})")


def _claims(contest: Contest, claims: Sequence[Beside]) -> Iterator[Table]:
    shown = [one for one in claims if TASKS.get(one.claim.task) == contest.task]
    if shown:
        folded = f"What the review claims on this task ({len(shown)})"
        yield claims_table(shown, folded, searchable=False)


def claims_table(claims: Sequence[Beside], folded: str, *, searchable: bool) -> Table:
    """Each claim beside ours, the ratio, and in what the conditions differ."""
    rows = []
    for one in claims:
        ours = one.ours
        parts = (one.claim.task if one.claim.metric not in one.claim.task else "", one.claim.metric)
        what = ", ".join(filter(None, parts)).replace("_", " ")
        differs = ", ".join(ours.differs) if ours else ""
        rows.append([
            one.claim.table,
            one.claim.model,
            what,
            Cell(one.claim.text, order=one.claim.value),
            one.claim.conditions,
            Cell(f"{figure(ours.value)}" if ours else "–", (ours.run,) if ours else (), order=ours and ours.value),
            Cell(f"{figure(one.ratio)}" if one.ratio else "–", order=one.ratio),
            f"{ours.conditions}{'; differs: ' + differs if differs else ''}" if ours else "",
        ])  # fmt: skip
    heads = ("table", "model", "quantity", "claimed", "as stated", "ours", "claimed / ours", "ours was measured at")
    return Table(heads, rows, frozenset({3, 5, 6}), "", folded, searchable)
