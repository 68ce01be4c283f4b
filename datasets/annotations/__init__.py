"""Annotation files, read and packed into arrays."""
