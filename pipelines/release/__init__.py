"""Turn a checkpoint into a release folder, register it with MLflow, push it to the hub, and trace its lineage."""
