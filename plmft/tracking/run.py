"""One run in MLflow: parameters, tags, metrics, data, files, the tuned model, and how it ended.

Whatever is told is written to the run's journal first, which costs microseconds, and sent to the store by a thread of
its own: a store that is slow or away stops nothing, and what it misses is sent later, by the run's next attempt or by
`python -m plmft.report sync`. Uses MLflow's client alone, no global state of its fluent API.
"""

import contextlib
import json
import secrets
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plmft import InputError
from plmft.tracking.delivery import Delivery
from plmft.tracking.journal import PLACE, Identity, Journal
from plmft.tracking.lineage import mask, scrub
from plmft.tracking.sender import Sender, Unsendable, again, worth_another_try

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST = 6000, 8000, 36  # MLflow's limits, in characters
CUT = " … (cut)"
OTHERS_S = 30.0  # for another process to let go of the journal
NEVER_S = 5.0  # at the end, for a store that was away all the time
OPENING_S = 20.0  # for a store that is there to open a run, whatever fails on the way

Status = Literal["FINISHED", "FAILED", "KILLED", "SCHEDULED"]


def run_id_of(folder: Path) -> str | None:
    """The MLflow run of a run's or a sweep's folder; None where nothing is tracked, or the store was never reached."""
    known = Identity.read(folder)
    return known and known.run_id


class Run:
    """An MLflow run, from `start` to `end`.

    Args: journal, delivery: of the run's folder. linger_s: metrics are sent when they waited for so long.
    """

    def __init__(self, journal: Journal, delivery: Delivery, *, linger_s: float = 5.0) -> None:
        self._journal, self._delivery = journal, delivery
        self._sender = Sender(journal, delivery.send, linger_s=linger_s)
        self._ended, self._waited_s = False, 0.0
        self._left = 0  # unsent when the journal was given away

    @classmethod
    def start(
        cls,
        uri: str,
        *,
        experiment: str,
        name: str,
        runs: Path,
        tags: Mapping[str, object],
        params: Mapping[str, object],
        folder: Path,
        offline_ok: bool = False,
    ) -> "Run":
        """Open a run in the experiment, which is made if missing; or go on with the one that the folder names.

        Args:
            uri: the store's address (`Tracking.address`). runs: the runs folder; artifacts go to runs/artifacts
                unless a server keeps them.
            tags, params: name to value; None is left out, secrets are masked, too long values are cut with a mark.
                A run that goes on keeps its parameters.
            folder: of this run; it is made if missing. offline_ok: a store that is away is no error.

        Raises: InputError: the store cannot be reached or refuses, or the experiment was deleted; nothing of a new
            run is left. OSError: no room in the folder.
        """
        journal = Journal(folder, wait_s=OTHERS_S)
        fresh = journal.new
        run = cls(journal, Delivery(uri, _identity(journal, uri, experiment, runs), journal))
        try:
            entry = {"at": _now_ms(), "tags": _texts(tags, LONGEST_TAG)}
            if fresh:
                journal.append({"call": "start", **entry, "name": mask(name), "params": _texts(params, LONGEST_PARAM)})
            else:
                journal.append({"call": "resume", **entry})
            run._open(offline_ok)
        except BaseException as error:
            run._give_up("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", forget=fresh)
            raise
        run._sender.start()
        return run

    @classmethod
    def reopen(cls, uri: str, folder: Path) -> "Run":
        """The run of a folder whose process is gone, to `end` it.

        Raises: InputError: another process sends it.
        """
        journal = Journal(folder, wait_s=OTHERS_S)
        run = cls(journal, Delivery(uri, _identity(journal, uri), journal))
        run._sender.start()
        return run

    @property
    def id(self) -> str | None:
        """MLflow's id of it; None as long as the store has not been reached."""
        return self._delivery.identity.run_id

    @property
    def unsent(self) -> int:
        """Entries that the store does not have yet."""
        return self._left if self._ended else self._journal.unsent

    @property
    def note(self) -> str | None:
        """What the user has to know of what is unsent or was refused; None where all is in the store."""
        lines, place = [], self._journal.folder / PLACE
        if refused := self._journal.sent.refused:
            told = f"The MLflow store refused {len(refused)} entries ({refused[0]})"
            lines.append(f"{told}: {place}/sent.json names them.")
        if unsent := self.unsent:
            failure = str(self._sender.failure or "")
            reason = f" ({failure.partition('. ')[0]})" if failure else ""
            lines.append(f"{unsent} entries wait in {place}{reason}. Send them with python -m plmft.report sync.")
        return "\n".join(lines) or None

    @property
    def url_hint(self) -> str:
        """What shows the run: the command that opens MLflow's UI, or the server's address of it."""
        uri, experiment = self._delivery.uri, self._delivery.experiment
        if not uri.startswith("http"):
            return f"mlflow ui --backend-store-uri {shlex.quote(mask(uri))}"
        return f"{mask(uri)}/#/experiments/{experiment}/runs/{self.id}" if self.id and experiment else mask(uri)

    def metrics(self, values: Mapping[str, float | None], step: int) -> None:
        """Note values at a step; one that an earlier attempt has noted is not noted again.

        None is left out. NaN and infinities are logged as they are, since a diverged loss must be seen
        (MLflow's SQL stores give an infinity back as ±1.8e308).
        """
        known = self._journal.has_metric
        new = {n: float(value) for n, value in values.items() if value is not None and not known(n, step)}
        if new:
            self._journal.append({"call": "metrics", "at": _now_ms(), "step": int(step), "values": new})

    def flush(self, durable: bool = False) -> None:
        """Have the store told soon. durable: what was told survives a power cut once this returns."""
        if durable:
            self._journal.make_durable()
        self._sender.rouse()

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; None is left out, secrets are masked."""
        self._journal.append({"call": "tags", "values": _texts(values, LONGEST_TAG)})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file or a folder among the run's artifacts, under `folder` there. It is not scrubbed.

        What lies in the run's folder must stay there until it is sent; what lies elsewhere is copied there first.
        """
        self._journal.append({"call": "artifact", "path": self._inside(Path(path)), "folder": folder})

    def figure(self, figure: "Figure", name: str) -> None:
        """Keep a figure as figures/<name>.png, in the run's folder and among its artifacts."""
        file = self._journal.folder / "figures" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
        self.artifact(file, file.parent.relative_to(self._journal.folder).as_posix())

    def dataset(self, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Log what the run read: MLflow shows it as the run's data set.

        Args:
            digest: of all records. MLflow keeps 36 characters; the whole is the tag `data_digest`.
            source: the address or folder that the records came from.
            counts: records of each split.
        """
        remote = source.startswith(("http://", "https://"))
        dataset = {
            "name": name,
            "digest": digest[:LONGEST_DIGEST],
            "source_type": "http" if remote else "local",
            "source": json.dumps({"url" if remote else "uri": mask(source)}),
            "profile": json.dumps({f"num_{split}": count for split, count in counts.items()}),
        }
        self._journal.append({"call": "dataset", "dataset": dataset, "context": ", ".join(counts)})
        self.tags({"data_digest": digest})

    def model(self, folder: Path, example: Mapping[str, Sequence[str]], kind: str) -> None:
        """Log a tuned model with its signature; `runs:/<run id>/model` and `mlflow models serve` load it.

        Args:
            folder: what `plmft.models.tuned` saved. kind: the task's kind.
            example: a few sequences by column, `sequence` and for pairs `partner`; kept as the input example.

        Raises: ValueError: a kind that cannot be served.
        """
        from plmft.tracking.model_bundle import PREDICTS

        if kind not in PREDICTS:
            raise ValueError(f"{kind}: such a model cannot be served. Kinds that can: {', '.join(PREDICTS)}.")
        example = {column: list(values) for column, values in example.items()}
        self._journal.append({"call": "model", "path": self._inside(Path(folder)), "example": example, "kind": kind})

    def settle(self, wait_s: float = 60.0) -> None:
        """Wait for what is unsent, so many seconds at most.

        Raises: OSError: the disk of a store in files is full, so that the run is not complete there.
        """
        self._drain(wait_s)
        self._sender.check_disk()

    def end(self, status: Status, wait_s: float = 60.0) -> None:
        """Close the run, and wait for what is unsent: so many seconds at most, those of `settle` included.

        What then is unsent stays on disk, and `note` tells of it. A run ends once: later calls do nothing.

        Raises: OSError: as `settle`, and the run can be ended again with another status than FINISHED.
        """
        if self._ended:
            return
        if status == "FINISHED":
            self.settle(wait_s)
        self._ended = True
        try:
            entry = {"call": "end", "at": _now_ms(), "status": status}
            if not self._journal.ended:
                self._journal.append(entry)
            if not self._sender.tell_alone(entry):
                self._drain(wait_s)
        finally:
            self._left = self._journal.unsent
            self._sender.stop()

    def _open(self, offline_ok: bool) -> None:
        """Reach the store, and if the run is new make it. Raises: InputError: the store is away, or refuses."""
        try:
            self._delivery.open()
            if self.id is None:
                again(self._sender.send_next, OPENING_S)
        except (InputError, Unsendable) as error:
            cause = error if isinstance(error, InputError) else error.__cause__
            if offline_ok and (cause is None or worth_another_try(cause)):  # None: its sweep waits, too
                return
            raise cause if isinstance(cause, InputError) else InputError(str(error)) from error
        if refused := self._journal.sent.refused:
            raise InputError(f"MLflow store {mask(self._delivery.uri)}: {refused[0]}")

    def _drain(self, wait_s: float) -> None:
        """A store that was never reached is not waited for, beyond one more look."""
        begun, at_most_s = time.monotonic(), wait_s if self.id else min(wait_s, NEVER_S)
        self._sender.drain(max(0.0, at_most_s - self._waited_s))
        self._waited_s += time.monotonic() - begun

    def _give_up(self, status: Status, *, forget: bool) -> None:
        """Leave no run open that could not be started, and nothing of a new one on disk."""
        if self.id is not None and forget:
            with contextlib.suppress(Unsendable):
                self._delivery.send([{"call": "end", "at": _now_ms(), "status": status}])
        self._journal.discard() if forget else self._journal.close()

    def _inside(self, path: Path) -> str:
        """The path relative to the run's folder; a copy's, if it lies elsewhere."""
        home = self._journal.folder
        full = path.absolute()
        if full.is_relative_to(home):
            return full.relative_to(home).as_posix()
        place = home / PLACE / "files" / secrets.token_hex(8)
        place.mkdir(parents=True)
        copy = place / path.name
        shutil.copytree(path, copy) if path.is_dir() else shutil.copy2(path, copy)
        return copy.relative_to(home).as_posix()


def _identity(journal: Journal, uri: str, experiment: str = "", runs: Path = Path()) -> Identity:
    """Which MLflow run the journal belongs to; in another store than before, a new one that gets everything."""
    known, address = Identity.read(journal.folder), mask(uri)
    if known is not None and known.uri == address:
        return known
    if known is None:
        known = Identity(address, experiment, str(runs), secrets.token_hex(16))
    else:
        known = replace(known, uri=address, run_id=None)
        journal.forget_sent()
    known.write(journal.folder)
    return known


def _now_ms() -> int:
    return int(time.time() * 1000)


def _texts(values: Mapping[str, object], longest: int) -> dict[str, str]:
    """Scrubbed text values, None left out, none longer than `longest` characters."""
    texts = {name: str(value) for name, value in scrub(dict(values)).items() if value is not None}
    return {name: t if len(t) <= longest else t[: longest - len(CUT)] + CUT for name, t in texts.items()}
