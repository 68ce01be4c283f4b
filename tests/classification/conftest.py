"""Without timm no test of classification is collected but those of test_needs_timm.py."""

from pathlib import Path

try:
    import timm  # noqa: F401
except ImportError:
    HAS_TIMM = False
else:
    HAS_TIMM = True


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave test files out that cannot be imported; test_needs_timm.py says so once."""
    name = collection_path.name
    left_out = name.startswith("test_") and name != "test_needs_timm.py"
    return True if left_out and not HAS_TIMM else None
