"""Submission of stages to a cluster: the jobs of a stage, the submission folder, and the schedulers."""
