"""Fine-tune one protein language model on one task; accuracy and cost end up side by side.

    python -m plmft.train model=esm2_8m task=fluorescence
    python -m plmft.train experiment=quickstart

Nothing heavy is imported before the command line and the config have been checked.
"""

import sys
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from plmft import InputError
from plmft.config.check import check
from plmft.config.compose import CONFIG, check_command_line, config_folder
from plmft.training.interrupts import exit_code, terminate_as_interrupt


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=CONFIG)
def run(config: DictConfig) -> float | None:
    """One job: check the config, then train. Returns the primary metric on the test split."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        check(plain)
        return _job(plain)
    except InputError as error:
        return _fail(error)
    except KeyboardInterrupt as interrupt:
        sys.exit(exit_code(interrupt))


def _job(config: dict[str, Any]) -> float | None:
    from rich.console import Console

    from plmft.training.job import Job

    return Job(**_parts(config), config=config).run(Console())


def _parts(config: dict[str, Any]) -> dict[str, Any]:
    """The parts by key. Raises: InputError: a part's own rule is broken; Hydra wraps it in an error of its own."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return {k: instantiate(v, _convert_="all") if isinstance(v, dict) else v for k, v in config.items()}
    except InstantiationException as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _fail(error: InputError) -> None:
    print(f"plmft: {error}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """The command."""
    terminate_as_interrupt()
    arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
    try:
        check_command_line(arguments)
    except InputError as error:
        _fail(error)
    run()


if __name__ == "__main__":
    main()
