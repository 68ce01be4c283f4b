"""Checks of annotations, on plain values: what training stops at and tools/check_data.py lists."""
