"""Parts of make_shapes.py: outlines, backgrounds, annotations."""
