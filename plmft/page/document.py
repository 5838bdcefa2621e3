"""Write docs/disputes.md from disputes.csv: for each dispute what is known without any run, and the command to type.

python -m plmft.page.document > docs/disputes.md
"""

from collections.abc import Iterator

from plmft.page.disputes import NARROWED, SETTLED, Verdict, judge
from plmft.page.runs import Found

HEAD = """# Disputes in the literature, and a command for each

A review of protein language models prints 55 tables whose figures contradict one another, or known facts, in 65 places
(C01 to C65; the figures are in `plmft/page/claims.csv`, one a line, named by their table, as t07). This page says for
each what arithmetic and published facts already settle, and which command measures the rest. `python -m plmft.report`
judges all of them again with your own runs: **settled**, **narrowed** (some of the figures are ruled out, or were
measured on other hardware than the one in dispute, or not all under the same conditions) or **open**.

Speed and memory do not hang on the values of weights, so `model.init=random` is enough for those disputes; accuracy
needs the published weights (docs/access.md). Disputes that name a card are settled on that card alone. The rules stand
in `plmft/page/disputes.csv`; this file is made from it: `python -m plmft.page.document > docs/disputes.md`.
"""


def document() -> str:
    """The whole file."""
    verdicts = judge(Found())
    counts = {state: sum(one.state == state for one in verdicts) for state in (SETTLED, NARROWED)}
    told = (
        f"Without any run {counts[SETTLED]} of {len(verdicts)} are settled by arithmetic, a data sheet or the papers "
        f"themselves, and {counts[NARROWED]} more are narrowed."
    )
    return "\n".join([HEAD, told, "", *_groups(verdicts)])


def _groups(verdicts: list[Verdict]) -> Iterator[str]:
    for group in dict.fromkeys(one.dispute.group for one in verdicts):
        yield f"## {group}\n"
        for one in verdicts:
            if one.dispute.group == group:
                yield from _lines(one)


def _lines(one: Verdict) -> Iterator[str]:
    dispute = one.dispute
    yield f"### {dispute.id}. {dispute.subject}\n"
    yield f"Tables {dispute.tables.replace(' ', ', ')}; protocol {dispute.protocol}; {one.state} without a run.\n"
    known = " ".join(filter(None, (*one.found, dispute.evidence)))
    yield f"{known}\n"
    if one.missing:
        yield f"To measure: {', '.join(one.missing)}.\n"
    yield f"    {dispute.command}\n"


if __name__ == "__main__":
    print(document(), end="")
