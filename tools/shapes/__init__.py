"""What make_shapes.py draws."""
