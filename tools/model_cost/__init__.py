"""Parts of tools/cost.py."""
