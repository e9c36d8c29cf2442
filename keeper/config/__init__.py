"""Typed settings, read from a TOML file, with endpoints and secrets from the environment where wanted.

Each section is composed of what its room needs. A file that cannot be used is refused before the first
act, with the place and the reason; unknown names are refused as well, for a typing error must not
silently leave a default in force.
"""

from keeper.config.loading import load
from keeper.config.whole import Config

__all__ = ["Config", "load"]
