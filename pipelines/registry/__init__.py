"""MLflow model registry: resolve release locations, and serve a registered release."""
