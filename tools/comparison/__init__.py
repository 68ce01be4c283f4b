"""Parts of compare.py: configurations that are compared over seeds."""
