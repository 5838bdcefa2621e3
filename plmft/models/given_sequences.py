"""Sequences that a user hands to a model from Python, checked one by one before anything is computed."""

from plmft import InputError
from plmft.data.records import LETTERS


def check_sequence(number: int, text: str, context: int | None, *, model: str = "the model", way_out: str = "") -> None:
    """Raises: InputError: no text or an empty one, a letter that is no amino acid, more residues than `context`.

    Args:
        number, model: to name the sequence and the model. context: None: any length will do.
        way_out: from a sequence that is too long.
    """
    if not isinstance(text, str) or not text:
        raise InputError(f"Sequence {number} is {text!r:.60}. It must be a text of at least one residue.")
    wrong = next(((at, letter) for at, letter in enumerate(text, 1) if letter not in LETTERS), None)
    if wrong is not None:
        raise InputError(
            f"Sequence {number} has {wrong[1]!r} at position {wrong[0]}, which is no amino acid. Allowed are "
            f"{''.join(sorted(LETTERS))}, in upper case."
        )
    if context is not None and len(text) > context:
        raise InputError(f"Sequence {number} has {len(text)} residues; {model} takes {context}.{way_out}")
