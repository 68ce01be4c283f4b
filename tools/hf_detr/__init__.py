"""Hugging Face's DETR, for convert.py."""
