"""A search for other tools: Optuna's dashboard, spreadsheets, MLflow, TensorBoard."""

from enum import StrEnum


class Target(StrEnum):
    """What an export is for."""

    optuna = "optuna"
    csv = "csv"
    mlflow = "mlflow"
    tensorboard = "tensorboard"
