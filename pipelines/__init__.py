"""The jobs, one file a stage; the only place where the method and the data meet."""
