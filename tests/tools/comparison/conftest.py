"""Made-up runs are of few detectors, whose multiply-accumulates are counted once."""

import pytest

from tests.tools.comparison.made_studies import write_runs, write_study
from tools.comparison import commands

_count, _counted = commands.detector_cost, {}


@pytest.fixture(autouse=True)
def counted_once(monkeypatch):
    def look_up(args):
        key = (args.backbone, args.dec_rpe, args.image_size)
        if key not in _counted:
            _counted[key] = _count(args)
        return _counted[key]

    monkeypatch.setattr(commands, "detector_cost", look_up)


@pytest.fixture
def path(tmp_path):
    return write_study(tmp_path)


@pytest.fixture
def root(tmp_path, path):
    return write_runs(tmp_path / "out", path)
