"""Reads a file of settings; what cannot be used is refused with its place, and never with its value."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from keeper.config.mistakes import mistakes
from keeper.config.places import JournalPlace, Mirror
from keeper.config.sending import Spending
from keeper.config.whole import Config
from keeper.errors import ConfigError


def load(path: Path) -> Config:
    """Read a configuration file; raise ConfigError where it is missing, malformed or incomplete.

    Relative paths in it are taken from the folder that the file is in.
    """
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} is not valid TOML: {error}") from error
    _resolve(raw, path.resolve().parent)
    _expect_sections(os.environ)
    try:
        return Config(**raw)
    except ValidationError as error:
        told = "; ".join(mistakes(error, Config))
        raise ConfigError(f"the configuration {path} cannot be used: {told}") from None
    except SettingsError as error:
        raise ConfigError(f"the environment cannot be used: {error}") from None


PATHS = (
    ("feed", "path"),
    ("journal", "path"),
    ("limits", "kill_file"),
    ("mirror", "snapshot"),
    ("reporter", "closes"),
    ("wallet", "keystore"),
    ("wallet", "passphrase_file"),
    ("signer", "ca_file"),
    ("signer", "cert_file"),
    ("signer", "key_file"),
)
DEFAULT_PATHS = (
    ("journal", "path", JournalPlace().path),
    ("limits", "kill_file", Spending().kill_file),
    ("mirror", "snapshot", Mirror().snapshot),
)


def _resolve(raw: dict[str, Any], folder: Path) -> None:
    """Take relative paths from ``folder``; the defaults too, wherever the keeper is started."""
    for section, key, default in DEFAULT_PATHS:
        if isinstance(values := raw.setdefault(section, {}), dict):
            values.setdefault(key, str(default))
    for section, key in PATHS:
        values = raw.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            values[key] = folder / values[key]


def _expect_sections(environment: Iterable[str]) -> None:
    """Raise ConfigError for a variable of a section that there is not: it would change nothing."""
    for name in environment:
        section, divided, _ = name.lower().partition("__")
        known = section.removeprefix("keeper_") in Config.model_fields
        if divided and section.startswith("keeper_") and not known:
            raise ConfigError(f"the environment cannot be used: {name} is of no section of the configuration")
