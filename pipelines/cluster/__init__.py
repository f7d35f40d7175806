"""Sending a stage to a cluster: what its jobs are, the submission's folder, and each scheduler's own words."""
