"""Where TAPE's tables lie (Rao et al. 2019): one file a split, JSON as TAPE writes it or CSV, gzipped or not."""

from collections.abc import Mapping

from plmft.data.download import RemoteFile
from plmft.data.records import SPLITS, Split
from plmft.data.source import Source, read_regression
from plmft.data.task import DataPlace, Loaded

COMMIT = (
    "https://raw.githubusercontent.com/technion-cs-nlp/BiologicalTokenizers/ac7ab322701ddb41c707662f4ed9a9cfd29def12"
)
ENDINGS = (".json.gz", ".json", ".csv.gz", ".csv")


def tape_source(
    folder: str, stem: str, remote_folder: str, digests: Mapping[Split, Mapping], further: tuple[Split, ...] = ()
) -> Source:
    """A data set of TAPE.

    Args:
        folder: under the user's data folder. stem: files are named `<stem>_<split>`, or the split alone.
        digests: for each split what RemoteFile takes to verify the download.
        further: test sets that are read where their files are present.
    """
    return Source(
        folder=folder,
        names={
            split: (*(f"{stem}_{split}{ending}" for ending in ENDINGS), f"{split}.csv") for split in (*SPLITS, *further)
        },
        remote={
            split: RemoteFile(f"{split}.csv", f"{COMMIT}/data/{remote_folder}/{split}.csv", **digests[split])
            for split in SPLITS
        },
        optional=further,
    )


def read_tape_regression(source: Source, place: DataPlace, columns: tuple[str, ...]) -> Loaded:
    """All records of a regression; `columns` are the names that the target may have, best first."""
    paths = source.paths(place)
    records = [r for split, path in paths.items() for r in read_regression(path, split, columns)]
    return Loaded(records, str(paths["train"].parent))
