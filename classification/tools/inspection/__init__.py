"""Parts of show_rpe.py: what the tokens of a classifier attend to, and how far away that is."""
