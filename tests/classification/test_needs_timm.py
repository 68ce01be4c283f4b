"""Without timm, or with one that is too old, one line says how to install it."""

import importlib
import sys

import pytest
import timm

from util.errors import UserError


def import_classification(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "classification"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.import_module("classification")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"classification needs timm .*: pip install 'timm>=1\.0"):
        import_classification(monkeypatch)


def test_with_an_old_one(monkeypatch):
    monkeypatch.setattr(timm, "__version__", "0.4.12")
    with pytest.raises(UserError, match=r"a newer timm than 0\.4\.12: pip install"):
        import_classification(monkeypatch)
