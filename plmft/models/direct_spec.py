"""What a user chooses of a baseline that is fitted without gradient steps; light, for a quick check of the config."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, MinLen

from plmft import InputError
from plmft.models.spec import Count, FromScratch


@dataclass(frozen=True)
class MajoritySpec(FromScratch):
    """What training targets are like, whatever the sequence: their mean, or how frequent each class is."""

    name: str
    citation: str
    licence: str
    family: Literal["majority"] = "majority"


@dataclass(frozen=True)
class OneHotLinearSpec(FromScratch):
    """Ridge regression or penalised logistic regression on what letters stand where (plmft.models.linear_baseline).

    Args:
        penalties: weights of the squared coefficients beside the summed loss; the validation split chooses one.
        window: residues that the class of the middle one is predicted from, an odd number; for residue tasks.
    Raises: InputError: an even window.
    """

    name: str
    penalties: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)]
    window: Count
    citation: str
    licence: str
    family: Literal["onehot_linear"] = "onehot_linear"

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise InputError(f"model.window={self.window}: has no middle residue. Set an odd number.")


DirectSpec = MajoritySpec | OneHotLinearSpec
