"""How the cells of a sweep run: one by one, in processes of this machine, on a Slurm cluster."""
