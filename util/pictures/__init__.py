"""Pictures of what a detector finds: boxes, masks and panoptic segments drawn on images."""
