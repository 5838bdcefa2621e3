"""A predicted contact map as a picture, for a protein whose structure is not known."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def draw_map(probabilities: np.ndarray, name: str, file: Path) -> None:
    """Write a PNG. probabilities: (L, L) float in [0, 1], symmetric."""
    length = len(probabilities)
    figure = Figure(figsize=(6.4, 5.6), dpi=100, layout="constrained")
    ax = figure.subplots()
    edges = (0.5, length + 0.5)
    image = ax.imshow(probabilities, cmap="Blues", vmin=0, vmax=1, extent=(*edges, *edges[::-1]), interpolation="none")
    ax.set(xlabel="residue", ylabel="residue", title=f"{name[:60]}, {length:,} residues")
    figure.colorbar(image, label="probability of a contact")
    figure.savefig(file, metadata={"Software": None})
