"""Predict the sequences of a file or a pipe with a tuned model, however many there are.

    python -m plmft.predict model=RUN_ID input=proteins.fasta output=predictions.parquet
    zcat uniref.fasta.gz | python -m plmft.predict model=mlruns/work/RUN/model input=- output=predictions.csv.gz

model   a run (its id, the beginning of it, or its name), models:/NAME/VERSION, or the folder of a tuned model
input   FASTA, or CSV, TSV or Parquet with the columns id and sequence; packed by gzip, bzip2, xz or zstd or not; - is
        standard input, the one pipe that is taken. Read as a stream: memory grows by 8 bytes an id
output  .parquet, .csv, .csv.gz; .fasta, .fasta.gz (classes of residues); .npz (contacts); without a suffix: a folder of
        Parquet files, which shards share

A killed job goes on where it was: give the same command again; the bytes of its output are the same. Sequences that
can't be predicted are listed in OUTPUT.rejected.csv, with the line and the reason. Other options, with their defaults:

    chunk=1024  shard=2/8  length_policy=auto|refuse|crop|window  merge=true  plots=0
    columns.id=id  columns.sequence=sequence  columns.partner=null  hardware=cpu|gpu  hardware.precision=auto
    hardware.tokens_per_batch=4096  tracking.uri=ADDRESS

docs/predicting.md tells what each does, and the columns of the output. Exit code 0: done; 2: a mistake, told in one
message, what was written being kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plmft.inference.job import Outcome


def main() -> None:
    """The command."""
    from plmft.training.interrupts import end_at_once, terminate_as_interrupt

    end_at_once()
    from plmft.ending import ending

    with ending("what was written is kept. Give the same command again to go on."):
        terminate_as_interrupt()
        predict(sys.argv[1:])


def predict(arguments: Sequence[str]) -> None:
    """Run the command with these words. Raises: InputError: a mistake in them or in the files that they name."""
    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__)
        return
    from plmft.efficiency.allocator import bound_kernel_caches
    from plmft.inference.options import read_request
    from plmft.tracking.options import runs_dir
    from plmft.training.interrupts import nothing_open

    request = read_request(arguments)
    bound_kernel_caches()
    with nothing_open():
        from plmft.inference.job import check_places, run_job
        from plmft.tracking.model_of_run import find_model
        from plmft.tracking.reading import read_address

    check_places(request)
    runs = runs_dir()
    uri = read_address(request.tracking.uri, runs)
    found = find_model(request.model, uri, runs)
    for line in _told(run_job(request, found.folder, found.run_id)):
        print(line)


def _told(outcome: Outcome) -> list[str]:
    counts = outcome.counts
    found = f" ({counts.skipped:,} of them found done)" if counts.skipped else ""
    rejected = f", {counts.rejected:,} rejected ({outcome.rejected})" if counts.rejected else ", none rejected"
    speed = f", {outcome.residues_per_s:,.0f} residues/s" if outcome.residues_per_s else ""
    last = f"{outcome.output}: {counts.done + counts.skipped:,} sequences{found}{rejected}{speed}"
    return [*outcome.notes, *filter(None, [counts.caution]), last]


if __name__ == "__main__":
    main()
