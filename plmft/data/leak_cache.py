"""Keep the leak report of a data set, so that only its first run looks for near duplicates.

Saves up to 10 s a run for a file of at most a few MB.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from plmft.data.leaks import LeakReport, leak_report
from plmft.data.records import DataSet
from plmft.data.whole_file import write_whole

LAYOUT = 1  # raise it when a report of the same records comes to mean something else


def kept_leak_report(dataset: DataSet, folder: Path) -> LeakReport:
    """The report of these records: from `folder`, if it was made before, else made and put there.

    A report that can't be read is made anew; one that can't be written costs the next run its time, no more.
    """
    adapter, file = TypeAdapter(LeakReport), folder / f"{_key(dataset)}.json"
    try:
        return adapter.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        report = leak_report(dataset.splits)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, adapter.dump_json(report))
    return report


def _key(dataset: DataSet) -> str:
    """The digest knows splits, sequences and targets; the report also names records."""
    total = hashlib.sha256(f"{LAYOUT} {dataset.digest}".encode())
    for split, records in dataset.splits.items():
        total.update(f"\n{split}\n".encode())
        for record in records:
            total.update(f"{record.id}\n".encode())
    return total.hexdigest()[:32]
