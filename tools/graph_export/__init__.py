"""Parts of export_onnx.py: a detector as a graph, files of graphs."""
