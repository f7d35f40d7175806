"""Whether this machine can do the job: checks of a function each, none of which can hold up the others."""
