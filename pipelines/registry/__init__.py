"""MLflow's registry: versions of releases and their aliases, where to find one, and the model that serves it."""
