"""MLflow: client, tracker, queue of unsent events, and one run per stage."""
