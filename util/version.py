"""The version of this project, which checkpoints carry."""

VERSION = "1.0.0"
