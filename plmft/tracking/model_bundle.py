"""What MLflow needs around a tuned model: its signature, an example, its requirements and the code that serves it.

Costs milliseconds: nothing is found out by running the model, and the weights are not copied here but uploaded as
they lie, to WEIGHTS beside the bundle.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

SERVING = Path(__file__).with_name("serving.py")
WEIGHTS = "artifacts/tuned"
PREDICTS = {
    "sequence_regression": "double",
    "sequence_classification": "string",
    "sequence_multilabel": "string",
    "residue_classification": "string",
    "pair_classification": "string",
    "contacts": "string",
}
REQUIREMENTS = ("plmft", "mlflow", "torch", "transformers", "peft", "safetensors", "pandas")


def write_bundle(
    destination: Path,
    *,
    run_id: str,
    logged: "LoggedModel",
    tuned: Path,
    kind: str,
    example: Mapping[str, Sequence[str]],
) -> None:
    """Write the MLflow model folder `destination`, all but the weights.

    Args:
        logged: the store's entry for this model. tuned: the folder of the saved tuned model.
        kind: the task's kind; it sets the type of `prediction`: double for regression, else text.
        example: of the input, by column; the columns are the signature.

    Raises: ValueError: a kind without a served form.
    """
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    if kind not in PREDICTS:
        raise ValueError(f"{kind}: such a model cannot be served. Kinds that can: {', '.join(PREDICTS)}.")
    model = Model(
        artifact_path=logged.artifact_location, run_id=run_id, model_uuid=logged.model_id, model_id=logged.model_id
    )
    mlflow.pyfunc.save_model(
        str(destination),
        mlflow_model=model,
        python_model=str(SERVING),
        signature=ModelSignature(
            inputs=Schema([ColSpec("string", column) for column in example]),
            outputs=Schema([ColSpec(PREDICTS[kind], "prediction")]),
        ),
        input_example=pd.DataFrame({column: list(values) for column, values in example.items()}),
        pip_requirements=requirements(),
    )
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = SERVING.name  # MLflow wrote this machine's path, and reads the name alone
    flavor["artifacts"] = {"tuned": {"path": WEIGHTS, "uri": WEIGHTS}}
    model.model_size_bytes = sum(file.stat().st_size for file in tuned.rglob("*") if file.is_file())
    model.save(str(destination / "MLmodel"))


def requirements() -> list[str]:
    """Pins of what serving imports; without local parts such as torch's +cpu, which no index serves."""
    return [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in REQUIREMENTS]
