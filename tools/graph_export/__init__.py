"""Graphs of a detector and their files, for export_onnx.py."""
