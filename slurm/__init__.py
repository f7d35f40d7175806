"""The job script that `e4t submit slurm` sends for every job of every stage."""
