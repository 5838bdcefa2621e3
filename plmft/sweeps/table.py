"""The table that ends a sweep: the primary metric beside its cost, mean ± sd over seeds; and what did not finish."""

from rich.console import Console
from rich.table import Table

from plmft.sweeps.gather import Gathered
from plmft.sweeps.seeds import Statistic, varying

COSTS = {  # in the table
    "cost/wall_time_s": "training time (s)",
    "cost/peak_memory_gb": "memory (GB)",
    "cost/energy_j": "energy (J)",
}


def show(console: Console, gathered: Gathered) -> None:
    """Print the primary metrics of each group and their cost, or all of the test where there is one group alone."""
    table = _table(gathered)
    if table.row_count:
        console.print(table)
        console.print(f"Files: {gathered.folder / 'sweep.csv'}", highlight=False, soft_wrap=True)
    if gathered.best is not None:
        console.print(str(gathered.best), highlight=False, markup=False, soft_wrap=True)
    if gathered.told:
        apart = "\n  " if len(gathered.told) > 2 else " "
        console.print(apart.join(gathered.told), highlight=False, markup=False, soft_wrap=True)


def _table(gathered: Gathered) -> Table:
    keys = varying(gathered.children)
    primary = {f"test/{child.primary}" for child in gathered.children if child.primary}
    costs = {name: title for name, title in COSTS.items() if any(s.metric == name for s in gathered.found)}
    of_group = {(s.group, s.metric): s for s in gathered.found}
    beside = costs if keys and primary else {}
    table = Table(title="Over seeds", title_justify="left", title_style="bold")
    for column in (*keys, "metric", "mean ± sd", "seeds", *beside.values()):
        table.add_column(column)
    for s in gathered.found:
        if s.metric in primary if keys and primary else s.metric.startswith("test") or s.metric in costs:
            cells = [_text(of_group.get((s.group, name))) for name in beside]
            table.add_row(*s.group, s.metric, _text(s), str(s.n), *cells)
    return table


def _text(statistic: Statistic | None) -> str:
    if statistic is None:
        return ""
    digits = 3 if not statistic.metric.startswith("cost/") else 1 if statistic.mean >= 10 else 2
    sd = "" if statistic.sd is None else f" ± {statistic.sd:.{digits}f}"
    return f"{statistic.mean:.{digits}f}{sd}"
