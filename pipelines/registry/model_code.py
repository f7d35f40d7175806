"""Code file of a registered version; MLflow runs it to serve the version (models from code: nothing is pickled)."""

from mlflow.models import set_model

from pipelines.registry.pyfunc_model import ServedRelease

set_model(ServedRelease())
