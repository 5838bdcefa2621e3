"""Which weights a run started from: the hub's commit, the digest of local files, or the seed that draws random ones.

Local files are read once (about 1 s for 1 GB) and their digest is kept in the cache, under their names, sizes and the
times of their last change, so that a later run pays a look at each.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from plmft.data.whole_file import write_whole

if TYPE_CHECKING:
    from plmft.models.weights import Located


def weights_tags(located: "Located", seed: int, cache: Path) -> dict[str, str]:
    """model_revision, weights_digest or weights_seed.

    Args: cache: the runs folder's; digests are kept in its folder `weights`.
    """
    if located.revision is not None:
        return {"model_revision": located.revision}
    digest = _digest(located, cache / "weights")
    return {"weights_seed": str(seed)} if digest is None else {"weights_digest": digest}


def _digest(located: "Located", kept: Path) -> str | None:
    if located.path is None:
        return None
    states = [(str(file.resolve()), file.stat()) for file in located.files]
    known_by = [(name, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in states]
    file = kept / f"{hashlib.sha256(repr(known_by).encode()).hexdigest()[:32]}.sha256"
    try:
        return file.read_text()
    except FileNotFoundError:
        digest = located.digest()
    kept.mkdir(parents=True, exist_ok=True)
    write_whole(file, digest.encode())
    return digest
