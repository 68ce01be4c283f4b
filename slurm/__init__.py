"""What run_with_submitit.py needs to know about jobs of Slurm."""
