"""What becomes of compiled loops where nothing can be compiled."""

import sys
from collections.abc import Callable
from typing import Any

import numba
import pytest

import keeper.trigger
from keeper.errors import ConfigError
from keeper.trigger.engine import engine


def test_where_numba_finds_no_folder_to_write_to_the_refusal_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def njit(**_: Any) -> Callable[[object], object]:
        raise RuntimeError("cannot cache function 'sieve': no locator available")

    monkeypatch.setattr(numba, "njit", njit)
    monkeypatch.delitem(sys.modules, "keeper.trigger.compiled", raising=False)
    monkeypatch.delattr(keeper.trigger, "compiled", raising=False)
    with pytest.raises(ConfigError, match=r"no locator available; set NUMBA_CACHE_DIR"):
        engine()
