"""Small helpers that every part of the project may use; none of them knows about training."""

VERSION = "1.0.0"  # of this project; checkpoints carry it
