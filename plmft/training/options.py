"""What a run keeps in order to go on after it was interrupted. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge


@dataclass(frozen=True)
class Checkpoint:
    """When the state of training is written, and whether an unfinished run goes on from it.

    Args:
        every_minutes: between two states, besides the one at each validation; 0: after every step.
        resume: a run of the same config and data that did not finish goes on; false: it begins anew.
    """

    every_minutes: Annotated[float, Ge(0)] = 10.0
    resume: bool = True
