"""A built index on disk, known by what it was built from: it is used again for the same vectors, and for no others.

Costs a digest of the vectors at every call, about 1 s a GB, which is read anyway.
"""

import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plmft import InputError
from plmft.data.whole_file import write_whole
from plmft.embeddings.nearest import BLOCK, Method, Metric, build_index, import_faiss

LAYOUT = 1  # raise it when an index is built otherwise
INDEX, ABOUT = "index.faiss", "index.json"


@dataclass(frozen=True)
class IndexKey:
    """All that an index depends on.

    Args:
        vectors: SHA-256 of their values. embedded: what plmft.embed says of how they were made.
    """

    vectors: str
    count: int
    width: int
    metric: Metric
    method: Method
    seed: int
    faiss: str
    embedded: dict[str, Any]
    layout: int = LAYOUT


def vectors_digest(vectors: np.ndarray) -> str:
    """SHA-256 over type, shape and values."""
    total = hashlib.sha256(f"{vectors.dtype} {vectors.shape}\n".encode())
    for start in range(0, len(vectors), BLOCK):
        total.update(np.ascontiguousarray(vectors[start : start + BLOCK]).data)
    return total.hexdigest()


def index_of(
    vectors: np.ndarray,
    ids: list[str],
    embedded: dict[str, Any],
    *,
    metric: Metric,
    method: Method,
    seed: int,
    folder: Path | None,
) -> tuple[Any, str]:
    """The index from the folder if it is the one that is asked for, else built and kept there; and what was done.

    Args: folder: None: it is kept nowhere.
    Raises: InputError: no room or no right in the folder, and as build_index.
    """
    version = import_faiss().__version__
    digest = "" if folder is None else vectors_digest(vectors)
    key = IndexKey(digest, *vectors.shape, metric, method, seed, version, embedded)
    why = ""
    if folder is not None:
        kept, why = _kept(folder, key)
        if kept is not None:
            return kept, f"read from {folder}"
    index = build_index(vectors, ids, metric=metric, method=method, seed=seed)
    if folder is None:
        return index, "built"
    _keep(index, key, folder)
    return index, f"built and kept in {folder}{why}"


def _kept(folder: Path, key: IndexKey) -> tuple[Any | None, str]:
    """The index in the folder, or None and why it can't serve."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        differ = [name for name, value in _plain(key).items() if about["key"].get(name) != value]
        if differ:
            return None, f" (the one there was of other {', '.join(differ)})"
        if _file_digest(folder / INDEX) != about["sha256"]:
            return None, " (the one there was damaged)"
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, " (the one there was damaged)"
    return import_faiss().read_index(str(folder / INDEX)), ""


def _keep(index: Any, key: IndexKey, folder: Path) -> None:
    part = folder / f".{INDEX}.{secrets.token_hex(8)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        import_faiss().write_index(index, str(part))
        digest = _file_digest(part)
        os.replace(part, folder / INDEX)
        write_whole(folder / ABOUT, json.dumps({"key": _plain(key), "sha256": digest}, indent=1).encode())
    except (OSError, RuntimeError) as error:  # FAISS raises the second, with its own code's place
        reason = getattr(error, "strerror", None) or "no room or no right to write"
        told = f"{folder}: the index can't be kept there ({reason}). Set saved=FOLDER, or saved=none."
        raise InputError(told) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _plain(key: IndexKey) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(asdict(key), sort_keys=True, default=str))


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
