"""Compiled loops, wherever the keeper is installed."""

from importlib.util import find_spec, module_from_spec
from pathlib import Path

import numpy as np
import pytest
from numba.core import caching


def test_loops_are_compiled_where_no_folder_can_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> Path:
        raise PermissionError

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    spec = find_spec("keeper.trigger.compiled")
    assert spec is not None
    assert spec.loader is not None
    loops = module_from_spec(spec)
    spec.loader.exec_module(loops)
    assert loops._shelf(np.float32(0.0125)) == 12
