"""Small models and data that many tests share. Nothing here needs a network, a GPU or the real data."""

import os

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def random_sequence(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list(AMINO_ACIDS), length))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
