"""Parts of convert.py: options, folders and tensor names of Hugging Face's DETR."""
