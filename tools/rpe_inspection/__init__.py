"""What show_rpe.py looks at and draws."""
