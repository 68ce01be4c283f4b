"""Jobs of Slurm: what they do, how a command submits them, and what Slurm says about them."""
