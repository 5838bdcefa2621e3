"""The tuned model as `mlflow models serve` runs it: a copy of this file travels with the model, so nothing is pickled.

MLflow executes it ("models from code"); that is why it registers its model when run.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
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

        Args: model_input: a data frame with a text column `sequence`, and `partner` where the task is about pairs.
        Returns: a data frame with a column `prediction`: see Tuned.predict.
        Raises: MlflowException: a sequence that the model can't take; a server answers with 400 and the message.
        """
        from plmft import InputError

        columns = [model_input[name].tolist() for name in ("sequence", "partner") if name in model_input]
        try:
            return pd.DataFrame({"prediction": self.tuned.predict(*columns)})
        except InputError as error:
            told = f"{error} A sequence's number is its row, counted from 0."
            raise MlflowException(told, error_code=INVALID_PARAMETER_VALUE) from None


mlflow.models.set_model(TunedModel())
