"""How the assets of a book are meant: by their own names, or by what stands before the dash of a feed's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from keeper.errors import ConfigError

T = TypeVar("T")

STABLE = frozenset(
    {"USD", "USDC", "USDT", "DAI", "USDS", "USDE", "GHO", "PYUSD", "TUSD", "FRAX", "LUSD", "CRVUSD", "FDUSD"}
)
"""What is to stay at its price where nothing is said of it."""


def short(asset: str) -> str:
    """Return BTC of BTC/USD."""
    return asset.partition("/")[0]


def free(asset: str) -> bool:
    """Tell whether a price moves with the market: not of what is stable, nor of one asset in another."""
    _, dash, quoted = asset.partition("/")
    return short(asset).upper() not in STABLE and (not dash or quoted.upper() in STABLE)


def means(name: str, asset: str) -> bool:
    """Tell whether a name means an asset: its own, or in short; ETH is no short name of ETH/BTC."""
    return name == asset or (name == short(asset) and free(name) == free(asset))


def resolved(said: Mapping[str, T], assets: Sequence[str], where: str) -> dict[str, T]:
    """Return by the book's own names what is said of assets, each by its whole name or in short.

    Raises ConfigError for one that the book does not have, or that could be several.
    """
    found: dict[str, T] = {}
    for name, value in said.items():
        meant = [name] if name in assets else [each for each in assets if means(name, each)]
        if len(meant) != 1:
            which = "is none of" if not meant else f"could be {' or '.join(meant)}, of"
            raise ConfigError(f"{where}: {name} {which} the book's assets {', '.join(assets)}")
        found[meant[0]] = value
    return found
