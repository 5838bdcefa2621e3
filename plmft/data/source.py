"""Find a task's files: the user's folder first, else a verified download into the cache.

A folder that was named must hold the files: it is never silently replaced by a download.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from plmft import InputError
from plmft.data.download import RemoteFile, download
from plmft.data.records import Record, Split
from plmft.data.task import DataPlace, NotFetched


@dataclass(frozen=True)
class Source:
    """Files of a data set, one a split.

    Args:
        folder: name of the folder under the user's data folder.
        names: for each split the file names that are looked for there, best first.
        remote: for each split the file that is downloaded otherwise; empty where it can't be had.
        optional: splits of `names` that may be absent; they are never downloaded.
    """

    folder: str
    names: Mapping[Split, tuple[str, ...]]
    remote: Mapping[Split, RemoteFile]
    optional: tuple[Split, ...] = ()

    def paths(self, place: DataPlace) -> dict[Split, Path]:
        """One existing file for each split. Raises: InputError: not found or readable, or no download."""
        if place.folder is not None:
            try:
                return self._local_paths(place.folder)
            except OSError as error:
                raise InputError(
                    f"The data folder {place.folder} can't be read ({error.strerror}). Mend its permissions, or set "
                    "data.dir or PLMFT_DATA to another one."
                ) from None
        if not self.remote:
            wanted = ", ".join(names[0] for split, names in self.names.items() if split not in self.optional)
            raise InputError(
                f"{self.folder}: the data can't be downloaded. Put {wanted} into a folder {self.folder}, and set "
                "data.dir or PLMFT_DATA to the folder above it."
            )
        if not place.fetch:
            self._check_fetched(place.cache / self.folder)
        return {split: download(file, place.cache / self.folder, attempts=3) for split, file in self.remote.items()}

    def _check_fetched(self, folder: Path) -> None:
        absent = [file for file in self.remote.values() if not (folder / file.name).is_file()]
        if absent:
            known = sum(file.size_bytes or 0 for file in absent) / 1e6
            unknown = sum(file.size_bytes is None for file in absent)
            sizes = [f"{known:,.1f} MB"] * bool(known) + [f"{unknown} of unknown size"] * bool(unknown)
            raise NotFetched(f"{len(absent)} files ({', '.join(sizes)}) will be downloaded to {folder} at first use.")

    def _local_paths(self, folder: Path) -> dict[Split, Path]:
        found = {split: self._local(folder, names) for split, names in self.names.items()}
        missing = next((s for s, path in found.items() if path is None and s not in self.optional), None)
        if missing is not None:
            raise InputError(
                f"{folder / self.folder} holds none of {', '.join(self.names[missing])}. Put one there, or set "
                f"data.dir or PLMFT_DATA to the folder that has it{self._or_download}."
            )
        return {split: path for split, path in found.items() if path is not None}

    def _local(self, folder: Path, names: tuple[str, ...]) -> Path | None:
        if not folder.is_dir():
            raise InputError(
                f"The data folder {folder} {'is not a folder' if folder.exists() else 'does not exist'}. "
                f"Set data.dir or PLMFT_DATA to the right one{self._or_download}."
            )
        for parent in (folder / self.folder, folder):
            for name in names:
                if (parent / name).is_file():
                    return parent / name
        return None

    @property
    def _or_download(self) -> str:
        return ", or leave both out to download" if self.remote else ""


SEQUENCE_COLUMNS = ("primary", "seq", "sequence")


def read_regression(path: Path, split: Split, target_columns: tuple[str, ...]) -> Iterator[Record]:
    """Records of a JSON list (TAPE's layout) or a CSV file, either gzipped or not.

    Ids are made from split and row, as TAPE's own ids count within one file.
    Raises: InputError: unreadable, truncated or malformed file, missing column, target that is not a number.
    """
    for where, number, row in read_rows(path):
        sequence = row.get(column(row, SEQUENCE_COLUMNS, where))
        target = row.get(column(row, target_columns, where))
        yield Record(f"{split}-{number}", sequence or "", to_number(target, where), split, where)


def read_classes(
    path: Path, split: Split, class_columns: tuple[str, ...], numbers: Mapping[str, int]
) -> Iterator[Record]:
    """Records with a class number each; `numbers` maps the words of the column.

    Raises: InputError: a word that is not known, and as read_regression.
    """
    for where, number, row in read_rows(path):
        sequence = row.get(column(row, SEQUENCE_COLUMNS, where))
        name = column(row, class_columns, where)
        word = str(row.get(name)).strip()
        if word not in numbers:
            known = ", ".join(numbers) if len(numbers) < 20 else f"{len(numbers)} others"
            raise InputError(f"{where}: column {name!r}: {word!r} is no class. Known: {known}.")
        yield Record(f"{split}-{number}", sequence or "", numbers[word], split, where)


def read_rows(path: Path, text: str | None = None) -> Iterator[tuple[str, int, Mapping]]:
    """(where, number from 0, row by column) of a JSON list or a CSV file; `text` if it was read before."""
    text = read_text(path) if text is None else text
    return _json_rows(path, text) if ".json" in path.suffixes else _csv_rows(path, text)


def column(row: Mapping, names: tuple[str, ...], where: str) -> str:
    """The first of the names that the row has. Raises: InputError: none; the columns are told."""
    for name in names:
        if name in row:
            return name
    raise InputError(f"{where}: no column {' or '.join(names)}; the columns are {', '.join(map(str, row))}.")


def to_number(value: object, where: str) -> float:
    """A float, also from a list of one. Raises: InputError: missing, or no number."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        raise InputError(f"{where}: the target is missing. Fill it in or remove the row.")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(f"{where}: the target {value!r} is not a number.") from None


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, int, Mapping]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}.") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: a JSON list of records is expected, not {type(rows).__name__}.")
    for number, row in enumerate(rows):
        where = f"{path}, record {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: an object with sequence and target is expected, not {row!r:.80}.")
        yield where, number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, int, Mapping]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if reader.fieldnames is None:
            raise InputError(f"{path}: the file is empty.")
        for number, row in enumerate(reader):
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: {'more' if None in row else 'fewer'} fields than the header names.")
            yield where, number, row
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.reader.line_num}: not readable as CSV ({error}). Correct the line."
        ) from None


def read_text(path: Path) -> str:
    """The whole file as text. Raises: InputError: not UTF-8, and as read_bytes."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None


def read_bytes(path: Path) -> bytes:
    """The whole file, unzipped where its name ends in .gz. Raises: InputError: unreadable, truncated."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip file is damaged or cut short ({error}). Get it again.") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}).") from None
