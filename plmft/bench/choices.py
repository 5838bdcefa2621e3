"""Another choice of a config group than the command's own: a second model beside it, another way of tuning."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from plmft.config.compose import check_command_line, compose_config, parts_of


def choice(group: str, name: str, **options: object) -> Any:
    """The part that `group=name` makes by itself.

    Args: options: of it, as on a command line: init="random".
    Raises: InputError: there is no such choice or option, or it breaks a rule of its own.
    """
    overrides = [f"{group}={name}", *(f"{group}.{key}={value}" for key, value in options.items())]
    with _apart_from_running():
        check_command_line(overrides)
        config = OmegaConf.to_container(compose_config(overrides), resolve=True)
    return parts_of({group: config[group]})[group]


@contextmanager
def _apart_from_running() -> Iterator[None]:
    """Hydra composes one command line at a time: the running one's is put aside."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running
