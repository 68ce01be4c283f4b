"""Average precision and panoptic quality."""
