"""Tasks side by side: models of a table, cells of a sweep, in processes of this machine or on a Slurm cluster."""
