"""The tuned model as `mlflow models serve` runs it: a copy of this file travels with the model, so nothing is pickled.

MLflow executes it ("models from code"); that is why it registers its model when run.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext


class TunedModel(PythonModel):
    """Sequences in, predictions out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the tuned model that was logged beside this file; once, when a server starts."""
        from plmft.models.tuned import load  # here, because logging a model runs this file, too, and needs no model

        self.tuned = load(Path(context.artifacts["tuned"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predict every sequence.

        Args: model_input: a data frame with a text column `sequence`.
        Returns: a data frame with a column `prediction`: a float, a class name, or one letter a residue.
        """
        return pd.DataFrame({"prediction": self.tuned.predict(model_input["sequence"].tolist())})


mlflow.models.set_model(TunedModel())
