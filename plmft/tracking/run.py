"""One run in MLflow: parameters, tags, metrics, data, files, the tuned model, and how it ended.

Uses MLflow's client alone, no global state of its fluent API. Metrics are buffered and sent every few seconds, so
a training step costs an append; all that goes to the store passes through `Run._send`.
"""

import contextlib
import json
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plmft.tracking.lineage import mask, scrub
from plmft.tracking.store import experiment_id, open_client, quiet, refusals

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.tracking import MlflowClient

METRICS_PER_BATCH = 1000
LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST = 6000, 8000, 36  # MLflow's limits, in characters
CUT = " … (cut)"

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Run:
    """An MLflow run, from `start` to `end`.

    Args:
        client: of the store at `uri`. id, experiment: MLflow's ids.
        flush_s: metrics are sent when that many seconds have passed since the last sending.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: "MlflowClient",
        uri: str,
        *,
        id: str,
        experiment: str,
        flush_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = id
        self._client, self._uri, self._experiment = client, uri, experiment
        self._flush_s, self._clock = flush_s, clock
        self._buffer: list[tuple[str, float, int, int]] = []  # name, value, Unix time in ms, step
        self._flushed_at = clock()
        self._ended = False

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
    ) -> "Run":
        """Open a run in the experiment, which is made if missing.

        Args:
            uri: the store's address (`Tracking.address`). runs: the runs folder; artifacts go to runs/artifacts
                unless a server keeps them.
            tags, params: name to value; None is left out, secrets are masked, too long values are cut with a mark.

        Raises: InputError: the store cannot be reached or refuses, or the experiment was deleted.
        """
        client = open_client(uri)
        with refusals(uri):
            experiment = experiment_id(client, uri, experiment, runs)
            made = client.create_run(experiment, run_name=mask(name), tags=_texts(tags, LONGEST_TAG))
        run = cls(client, uri, id=made.info.run_id, experiment=experiment)
        try:
            run._log_params(params)
        except BaseException as error:
            with contextlib.suppress(Exception):
                run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        return run

    @property
    def url_hint(self) -> str:
        """What shows the run: the command that opens MLflow's UI, or the server's address of it."""
        if self._uri.startswith("http"):
            return f"{mask(self._uri)}/#/experiments/{self._experiment}/runs/{self.id}"
        return f"mlflow ui --backend-store-uri {shlex.quote(mask(self._uri))}"

    def metrics(self, values: Mapping[str, float | None], step: int) -> None:
        """Remember values at a step; they reach the store within `flush_s` of the next call, or at `flush` or `end`.

        None is left out. NaN and infinities are logged as they are, since a diverged loss must be seen
        (MLflow's SQL stores give an infinity back as ±1.8e308).
        """
        now_ms = int(time.time() * 1000)
        self._buffer += [(name, float(value), now_ms, step) for name, value in values.items() if value is not None]
        if len(self._buffer) >= METRICS_PER_BATCH or self._clock() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Send all metrics that wait. What could not be sent waits on."""
        from mlflow.entities import Metric

        while self._buffer:
            batch = self._buffer[:METRICS_PER_BATCH]
            self._send("log_batch", self.id, metrics=[Metric(*entry) for entry in batch], synchronous=True)
            del self._buffer[: len(batch)]
        self._flushed_at = self._clock()

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; None is left out, secrets are masked."""
        from mlflow.entities import RunTag

        tags = [RunTag(name, text) for name, text in _texts(values, LONGEST_TAG).items()]
        self._send("log_batch", self.id, tags=tags, synchronous=True)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file or a folder among the run's artifacts, under `folder` there. It is not scrubbed."""
        self._send("log_artifact", self.id, str(path), folder)

    def figure(self, figure: "Figure", name: str) -> None:
        """Keep a figure as figures/<name>.png."""
        self._send("log_figure", self.id, figure, f"figures/{name}.png")

    def dataset(self, name: str, digest: str, source: str, counts: Mapping[str, int]) -> None:
        """Log what the run read: MLflow shows it as the run's data set.

        Args:
            digest: of all records. MLflow keeps 36 characters; the whole is the tag `data_digest`.
            source: the address or folder that the records came from.
            counts: records of each split.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        remote = source.startswith(("http://", "https://"))
        dataset = Dataset(
            name,
            digest[:LONGEST_DIGEST],
            source_type="http" if remote else "local",
            source=json.dumps({"url" if remote else "uri": mask(source)}),
            profile=json.dumps({f"num_{split}": count for split, count in counts.items()}),
        )
        context = InputTag("mlflow.data.context", ", ".join(counts))
        self._send("log_inputs", self.id, datasets=[DatasetInput(dataset, [context])])
        self.tags({"data_digest": digest})

    def model(self, folder: Path, example: Mapping[str, Sequence[str]], kind: str) -> str:
        """Log a tuned model with its signature; `runs:/<run id>/model` and `mlflow models serve` load it.

        Args:
            folder: what `plmft.models.tuned` saved. kind: the task's kind.
            example: a few sequences by column, `sequence` and for pairs `partner`; kept as the input example.

        Returns: its address, models:/<model id>.
        Raises: ValueError: a kind that cannot be served.
        """
        from mlflow.entities import LoggedModelOutput

        from plmft.tracking.model_bundle import WEIGHTS, write_bundle

        logged = self._send(
            "create_logged_model", self._experiment, name="model", source_run_id=self.id, model_type=kind
        )
        status = "FAILED"
        try:
            with quiet(), tempfile.TemporaryDirectory() as scratch:
                bundle = Path(scratch, "model")
                write_bundle(bundle, run_id=self.id, logged=logged, tuned=folder, kind=kind, example=example)
                self._send("log_model_artifacts", logged.model_id, str(bundle))
                self._send("log_model_artifacts", logged.model_id, str(folder), WEIGHTS)
            status = "READY"
        finally:
            self._send("finalize_logged_model", logged.model_id, status)
        self._send("log_outputs", self.id, models=[LoggedModelOutput(logged.model_id, step=0)])
        return f"models:/{logged.model_id}"

    def end(self, status: Status) -> None:
        """Send what waits and close the run. A run ends once: later calls do nothing."""
        if self._ended:
            return
        try:
            self.flush()
        finally:
            self._send("set_terminated", self.id, status)
            self._ended = True

    def _log_params(self, params: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        entries = [Param(name, text) for name, text in _texts(params, LONGEST_PARAM).items()]
        self._send("log_batch", self.id, params=entries, synchronous=True)  # MLflow's client cuts it into hundreds

    def _send(self, call: str, *arguments: Any, **options: Any) -> Any:
        """The one way to the store: a method of MLflow's client by name, and its arguments.

        Raises: InputError: the store refuses or can't be written. OSError: an artifact can't be copied.
        """
        with refusals(self._uri):
            return getattr(self._client, call)(*arguments, **options)


def _texts(values: Mapping[str, object], longest: int) -> dict[str, str]:
    """Scrubbed text values, None left out, none longer than `longest` characters."""
    texts = {name: str(value) for name, value in scrub(dict(values)).items() if value is not None}
    return {name: t if len(t) <= longest else t[: longest - len(CUT)] + CUT for name, t in texts.items()}
