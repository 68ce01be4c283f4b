"""The version of the package; a library built from another version is not loaded."""

__version__ = "1.1.0"
