"""What `e4t submit slurm` sends: one script, which every job of every stage runs."""
