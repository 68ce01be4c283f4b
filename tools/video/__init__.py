"""Parts of tools/predict.py that read videos and cameras, and write videos."""
