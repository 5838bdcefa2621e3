"""What is known of a tuned model before it is loaded: from its folder, and from the run that left it. Light."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plmft import InputError
from plmft.tracking.model_of_run import MODEL, summary_beside


@dataclass(frozen=True)
class Evaluated:
    """A tuned model on disk.

    Args:
        folder: with plmft.json. run_id: of the run that left it; None where a folder was named.
        parts: the content of plmft.json.
    """

    folder: Path
    run_id: str | None
    parts: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, run_id: str | None) -> "Evaluated":
        """Raises: InputError: plmft.json can't be read."""
        file = folder / "plmft.json"
        try:
            parts = json.loads(file.read_text())
            kept = {key: parts[key] for key in ("model", "tuning", "task", "base")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} can't be read ({error}). Get the model's folder again.") from None
        return cls(folder, run_id, kept | {"precision": parts.get("precision", "fp32")})

    @property
    def kind(self) -> str:
        """Of its task."""
        return self.parts["task"]["kind"]

    @property
    def task(self) -> str:
        """The name of the task that it was tuned on."""
        return self.parts["task"]["task"]

    @property
    def weights(self) -> str:
        """Where tuning started: random, hub, folder, file."""
        return self.parts["base"]["source"]

    def configured(self, part: str) -> dict[str, Any]:
        """`model` or `tuning` as a config has it."""
        text = dict(self.parts[part])
        return {"_target_": f"plmft.models.{'spec' if part == 'model' else part}.{text.pop('type')}", **text}

    def saved_config(self, uri: str) -> dict[str, Any] | None:
        """Of its run: from the run's folder, else from the store; None: it is in neither."""
        beside = self._config_beside()
        if beside is not None:
            return beside
        if self.run_id is None:
            return None
        from plmft.tracking.reading import artifact_text, open_existing

        text = artifact_text(open_existing(uri), self.run_id, "config.yaml")
        return yaml.safe_load(text) if text else None

    def _config_beside(self) -> dict[str, Any] | None:
        """Of its run; None: what lies beside the folder, if anything, is of something else."""
        try:
            found = yaml.safe_load((self.folder.parent / "config.yaml").read_text())
            _ = found["task"]["_target_"], found["seed"], found["data"]["length_policy"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            return None
        return found if self.folder.name == MODEL else None

    def own_test(self) -> dict[str, Any]:
        """`summary.json` of its run, where that lies beside it: `metrics`, `data_digest`, ...; else empty."""
        return summary_beside(self.folder)
