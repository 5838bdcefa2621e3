"""A checkout holds `plmft.tasks` as the top-level folder `tasks/`; a wheel carries that folder here, not this file."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "tasks")]
