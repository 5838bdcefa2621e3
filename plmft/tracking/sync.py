"""Send what runs could not: the journals of a runs folder, one after the other, sweeps before their jobs.

Runs that a living process works on send by themselves and are left alone. Costs a reading of each journal.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from plmft import InputError
from plmft.tracking.claims import held
from plmft.tracking.delivery import PARENT_TAG, Delivery
from plmft.tracking.journal import PLACE, Held, Identity, Journal, first_entry
from plmft.tracking.sender import Sender, Unsendable, again

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE_S = 30.0  # with a store that is there and fails


def sync(runs: Path, console: "Console") -> int:
    """Send what is unsent in <runs>/work; returns how many entries still are, those of living runs left out.

    Args: console: told of each run that something was sent or is left of.
    """
    left = 0
    away: dict[str, str] = {}  # stores that cannot be reached, and why
    for folder in _sweeps_first(runs):
        try:
            with closing(Journal(folder)) as journal:
                if not journal.all_sent:
                    left += _send(journal, away, console)
        except Held:
            continue
        except OSError as error:
            left += 1
            _say(console, f"{folder}: {error.strerror}.")
    return left


def _sweeps_first(runs: Path) -> Iterator[Path]:
    """Folders that have a journal and no living process."""
    folders = [file.parents[1] for file in sorted(runs.glob(f"work/*/{PLACE}/journal.jsonl"))]
    for folder in sorted(folders, key=_is_child):
        if not held(runs, folder.name):
            yield folder


def _is_child(folder: Path) -> bool:
    return PARENT_TAG in (first_entry(folder) or {}).get("tags", {})


def _send(journal: Journal, away: dict[str, str], console: "Console") -> int:
    """Returns how many entries are left."""
    folder, before = journal.folder, journal.unsent
    identity = Identity.read(folder)
    if identity is None:
        _say(console, f"{folder}: {PLACE}/run.json is gone, so its {before} entries belong nowhere.")
        return before
    reason = away.get(identity.uri) or _drain(journal, identity, away)
    left, run = journal.unsent, f"{folder} (run {identity.run_id or 'not made yet'})"
    if before > left:
        _say(console, f"{run}: sent {before - left} entries to {identity.uri}.")
    if left:
        _say(console, f"{run}: {left} entries are unsent: {reason}")
    if journal.sent.refused:
        _say(console, f"{run}: refused {len(journal.sent.refused)} entries: {'; '.join(journal.sent.refused[:3])}")
    return left


def _drain(journal: Journal, identity: Identity, away: dict[str, str]) -> str | None:
    """Send all that can be; returns why the rest can't."""
    try:
        delivery = Delivery(identity.address(), identity, journal)
        delivery.open()
    except InputError as error:
        away[identity.uri] = str(error)
        return str(error)
    sender = Sender(journal, delivery.send)
    try:
        while not journal.all_sent:
            again(sender.send_next, PATIENCE_S)
    except Unsendable as error:
        return str(error)
    return None


def _say(console: "Console", line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)
