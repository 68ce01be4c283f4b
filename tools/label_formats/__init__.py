"""Label files that are no COCO annotations, read for tools/convert_data.py."""
