"""What MLflow keeps as a version's code and runs to serve it (models from code: nothing is pickled)."""

from mlflow.models import set_model

from pipelines.registry.pyfunc_model import ServedRelease

set_model(ServedRelease())
