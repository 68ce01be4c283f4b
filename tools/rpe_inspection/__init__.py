"""Parts of show_rpe.py: attention, tables and their figures."""
