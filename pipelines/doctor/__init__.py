"""``e4t doctor``: check whether this machine can run training jobs."""
