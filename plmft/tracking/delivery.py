"""Entries of a journal as calls of MLflow's client, each so that sending it twice is sending it once.

MLflow's SQL stores drop a metric whose name, step, time and value they have (times come from the journal), and take a
parameter, tag, file, data set or status again. A new run or logged model is not told apart by them: it is looked up
by its token or its run afterwards, and what a repeated request made too many is deleted.
"""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plmft import InputError
from plmft.tracking.journal import Entry, Identity, Journal
from plmft.tracking.lineage import mask
from plmft.tracking.sender import DiskFull, Unsendable, fills_the_disk, worth_another_try
from plmft.tracking.store import check_server, experiment_id, open_client, quiet, refusals

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient

TOKEN_TAG, PARENT_TAG = "plmft.token", "mlflow.parentRunId"
FOLDER_PARENT = "folder:"  # a parent that the store may not know yet, by its folder


class Delivery:
    """The way of one run's entries into the store at `uri`."""

    def __init__(self, uri: str, identity: Identity, journal: Journal) -> None:
        self.uri, self.identity, self._journal = uri, identity, journal
        self._client: MlflowClient | None = None
        self.experiment: str | None = None
        self._doubtful = False  # the last call failed: look whether the store is there before the next one

    def open(self) -> None:
        """Reach the store, and the run in it if its id is known.

        Raises: InputError: it cannot be reached, refuses, or has lost the run.
        """
        if self._client is None:
            self._client = open_client(self.uri)
        elif self._doubtful:
            check_server(self.uri)
        if self.experiment is None:
            with refusals(self.uri):
                self.experiment = experiment_id(
                    self._client, self.uri, self.identity.experiment, Path(self.identity.runs)
                )
        self._doubtful = False

    def send(self, entries: Sequence[Entry]) -> list[str]:
        """As `Sender` wants it: metrics, several entries at once; or one of another kind. Returns what was refused.

        Raises: Unsendable: the store is away, or doesn't take this run's entries now.
        """
        try:
            self.open()
        except Exception as error:  # whatever it is, no entry can be blamed
            raise self._unsendable(error) from error
        call = entries[0]["call"]
        try:
            with refusals(self.uri):
                return getattr(self, f"_{call}")(entries if call == "metrics" else entries[0])
        except Unsendable:
            raise
        except Exception as error:
            if worth_another_try(error) or call == "start":  # without a run nothing else can be sent
                raise self._unsendable(error) from error
            self._look_for_run()
            return [_told(call, error)]

    def _unsendable(self, error: Exception) -> Unsendable:
        self._doubtful = True
        full = not self.uri.startswith("http") and fills_the_disk(error)
        return (DiskFull if full else Unsendable)(mask(str(error)) or type(error).__name__)

    def _look_for_run(self) -> None:
        """Raises: Unsendable: the run is gone, which is why its entries are refused; it can be restored."""
        run_id = self.identity.run_id
        try:
            with refusals(self.uri):
                stage = self._client.get_run(run_id).info.lifecycle_stage
        except Exception as error:
            raise self._unsendable(error) from error
        if stage != "active":
            raise Unsendable(f"run {run_id} was deleted there; mlflow runs restore --run-id {run_id} brings it back")

    # One method for each kind of entry.

    def _start(self, entry: Entry) -> list[str]:
        if self.identity.run_id is None:
            if not self._found_runs():
                tags = {**entry["tags"], TOKEN_TAG: self.identity.token}
                self._client.create_run(
                    self.experiment, start_time=entry["at"], run_name=entry["name"], tags=self._with_parent(tags)
                )
            self.identity.run_id = min(self._found_runs())
            self.identity.write(self._journal.folder)
        self._delete_extra_runs()
        return self._params(entry["params"])

    def _resume(self, entry: Entry) -> list[str]:
        self._client.update_run(self.identity.run_id, status="RUNNING")  # MLflow keeps the old end until the next
        return self._tags({"values": self._with_parent(entry["tags"])})

    def _params(self, params: dict[str, str]) -> list[str]:
        from mlflow.entities import Param

        found = [Param(name, text) for name, text in params.items()]
        return self._each(found, lambda part: {"params": part})

    def _metrics(self, entries: Sequence[Entry]) -> list[str]:
        from mlflow.entities import Metric

        found = [Metric(name, v, e["at"], e["step"]) for e in entries for name, v in e["values"].items()]
        refused = []
        for start in range(0, len(found), 1000):
            refused += self._each(found[start : start + 1000], lambda part: {"metrics": part})
        return refused

    def _each(self, found: list[Any], named: Callable[[list[Any]], dict[str, list[Any]]]) -> list[str]:
        """Log all that the store takes: what it refuses together is sent by halves, so that one can't stop others."""
        if not found:
            return []
        try:
            with refusals(self.uri):
                self._client.log_batch(self.identity.run_id, **named(found), synchronous=True)
            return []
        except Exception as error:
            if worth_another_try(error):
                raise
            self._look_for_run()
            if len(found) == 1:
                return [_told(found[0].key, error)]
        half = len(found) // 2
        return self._each(found[:half], named) + self._each(found[half:], named)

    def _tags(self, entry: Entry) -> list[str]:
        from mlflow.entities import RunTag

        return self._each([RunTag(name, text) for name, text in entry["values"].items()], lambda part: {"tags": part})

    def _artifact(self, entry: Entry) -> list[str]:
        path = self._journal.folder / entry["path"]
        if not path.exists():
            return [f"artifact {path} is gone"]
        self._client.log_artifact(self.identity.run_id, str(path), entry["folder"])
        return []

    def _dataset(self, entry: Entry) -> list[str]:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(**entry["dataset"])
        context = InputTag("mlflow.data.context", entry["context"])
        self._client.log_inputs(self.identity.run_id, datasets=[DatasetInput(dataset, [context])])
        return []

    def _model(self, entry: Entry) -> list[str]:
        from mlflow.entities import LoggedModelOutput

        from plmft.tracking.model_bundle import WEIGHTS, write_bundle

        run_id, tuned = self.identity.run_id, self._journal.folder / entry["path"]
        if not tuned.is_dir():
            return [f"the tuned model {tuned} is gone"]
        logged = self._logged_model(entry["kind"])
        with quiet(), tempfile.TemporaryDirectory() as scratch:
            bundle = Path(scratch, "model")
            write_bundle(
                bundle, run_id=run_id, logged=logged, tuned=tuned, kind=entry["kind"], example=entry["example"]
            )
            self._client.log_model_artifacts(logged.model_id, str(bundle))
            self._client.log_model_artifacts(logged.model_id, str(tuned), WEIGHTS)
        self._client.finalize_logged_model(logged.model_id, "READY")
        outputs = self._client.get_run(run_id).outputs.model_outputs
        if logged.model_id not in [output.model_id for output in outputs]:
            self._client.log_outputs(run_id, models=[LoggedModelOutput(logged.model_id, step=0)])
        return []

    def _end(self, entry: Entry) -> list[str]:
        self._delete_extra_runs()
        if entry["status"] == "SCHEDULED":  # it goes on later
            self._client.update_run(self.identity.run_id, status="SCHEDULED")
        else:
            self._client.set_terminated(self.identity.run_id, entry["status"], entry["at"])
        return []

    # What MLflow would make twice.

    def _found_runs(self) -> list[str]:
        filtered = f"tags.`{TOKEN_TAG}` = '{self.identity.token}'"
        return [run.info.run_id for run in self._client.search_runs([self.experiment], filtered)]

    def _delete_extra_runs(self) -> None:
        for run_id in self._found_runs():
            if run_id != self.identity.run_id:
                self._client.delete_run(run_id)

    def _logged_model(self, kind: str) -> "LoggedModel":
        """The run's one logged model; its id is noted before any file is sent."""
        sent, run_id = self._journal.sent, self.identity.run_id

        def found() -> "dict[str, LoggedModel]":
            models = self._client.search_logged_models([self.experiment], f"source_run_id = '{run_id}'")
            return {model.model_id: model for model in models}

        if not found():
            self._client.create_logged_model(self.experiment, name="model", source_run_id=run_id, model_type=kind)
        models = found()
        if sent.model_id not in models:
            sent.model_id = min(models)
            self._journal.write_sent()
        for extra in models.keys() - {sent.model_id}:
            self._client.delete_logged_model(extra)
        return models[sent.model_id]

    def _with_parent(self, tags: dict[str, str]) -> dict[str, str]:
        """Raises: Unsendable: the parent has to be sent first."""
        parent = tags.get(PARENT_TAG, "")
        if not parent.startswith(FOLDER_PARENT):
            return tags
        rest = {name: text for name, text in tags.items() if name != PARENT_TAG}
        known = Identity.read(Path(parent.removeprefix(FOLDER_PARENT)))
        if known is None:  # the user has removed the sweep
            return rest
        if known.run_id is None:
            raise Unsendable(f"its parent, {parent.removeprefix(FOLDER_PARENT)}, is to be sent first")
        return {**rest, PARENT_TAG: known.run_id}


def _told(what: str, error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, InputError) and error.__cause__ else error
    with contextlib.suppress(IndexError):
        return f"{what}: {mask(str(cause).strip().splitlines()[0])}"
    return f"{what}: {type(cause).__name__}"
