"""Jobs of Slurm, as run_with_submitit.py starts them."""
