"""Embed sequences: vectors of a protein language model, of whole sequences or of residues, in files.

    python -m plmft.embed model=esm2_650m input=proteins.fasta output=embeddings
    python -m plmft.embed model=esm2_650m input=proteins.fasta output=residues.h5 per=residue layers=[12,-1]
    python -m plmft.embed run=RUN_ID input=table.csv.gz output=embeddings.parquet pooling=max
    python -m plmft.embed model=esm2_3b input=big.fasta output=embeddings shard=3/8      # of a SLURM array
    python -m plmft.embed search|plot|probe ...                                          # --help tells more

input=FILE        FASTA, CSV, TSV (columns.id, columns.sequence) or Parquet, packed or not; - is standard input
output=PLACE      a folder of parts, or one file that ends in .h5, .parquet, .arrow or .safetensors
format=NAME       of a folder's parts: safetensors, h5, h5_by_id (a dataset of each id), parquet, arrow, npy
layers=[-1]       0 is the embedding, -1 the last layer, as fair-esm's repr_layers and transformers' hidden_states
per=sequence      or residue: a row for each residue, special tokens left out
pooling=mean      of residues, or max; or cls, the vector of the first special token
dtype=float32     or float16, half the disk
length_policy=window   sequences longer than the model's context are read in overlapping windows; or crop, or refuse
run=RUN           embed with the backbone of a tuned model: a run's id or name, or a folder
shard=2/8         the second of eight jobs with the same input and output folder
chunk=N           sequences of a part

Also takes model.*, hardware.* and seed (of random weights) of plmft.train. Parts appear whole or not at all: after a
kill, the same command goes on, and the files are what they would have been. Identical sequences are computed once.
What can't be embedded is listed in OUTPUT.rejected.csv. Read the output by plmft.embeddings.formats.open_embeddings.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plmft.embeddings.job import Outcome

OTHERS = ("search", "plot", "probe")


def main() -> None:
    """The command."""
    from plmft.training.interrupts import end_at_once, terminate_as_interrupt

    end_at_once()
    from plmft.ending import ending

    arguments = sys.argv[1:]
    if arguments and arguments[0] in OTHERS:
        from importlib import import_module

        with ending():
            terminate_as_interrupt()
            import_module(f"plmft.embeddings.{arguments[0]}").main(arguments[1:])
        return
    with ending("what was written is kept. Give the same command again to go on."):
        terminate_as_interrupt()
        if any(word in ("-h", "--help") for word in arguments):
            print(__doc__)
        else:
            print(told(embed(arguments)))


def embed(arguments: Sequence[str]) -> "Outcome":
    """Do what the command line asks. Raises: InputError: a mistake of the user."""
    from plmft import InputError
    from plmft.config.check import closest
    from plmft.embeddings.choices import read_request

    if arguments and "=" not in arguments[0] and (near := closest(arguments[0], OTHERS)):
        raise InputError(f"{arguments[0]}: there is no such word.{near}")
    request = read_request(arguments)
    from plmft.efficiency.allocator import bound_kernel_caches

    bound_kernel_caches()
    from plmft.training.interrupts import nothing_open

    with nothing_open():
        from plmft.embeddings.job import run_job
        from plmft.tracking.options import runs_dir

    return run_job(request, runs_dir())


def told(outcome: "Outcome") -> str:
    """The last lines."""
    counts, embedding = outcome.counts, outcome.embedding
    about = embedding.identity
    layers = f"layer{'s' * (len(embedding.layers) > 1)} {', '.join(map(str, embedding.layers))}"
    what = "residues" if about["per"] == "residue" else f"{about['pooling']} over residues"
    what = "first special token" if about["pooling"] == "cls" else what
    lines = [
        f"{counts.done + counts.skipped:,} sequences in {outcome.output} ({counts.skipped:,} of them from before; "
        f"{outcome.computed:,} computed now), {counts.rejected:,} rejected",
        f"{embedding.model} ({about['weights']}), {layers}, {what}, {embedding.width} numbers a layer",
    ]
    if outcome.residues_per_s is not None:
        lines.append(f"{outcome.seconds:,.1f} s, {outcome.residues_per_s:,.0f} residues/s ({about['precision']})")
    lines.extend(outcome.notes)
    if counts.caution is not None:
        lines.append(counts.caution)
    if outcome.rejected is not None:
        lines.append(f"Rejected sequences and why: {outcome.rejected}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
