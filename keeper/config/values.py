"""Kinds of values that settings take: addresses, names, lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode


def _as_list(value: object) -> object:
    """Take one URL for a list of one; in the environment, commas separate several."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _has_host(url: str) -> str:
    """Refuse a URL that can never be reached; nothing of it is told, whatever is where the port should be."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("a URL needs a host, and a port can only be 1 to 65535")
    return url


def as_key(name: str) -> str:
    """Write a token's address as the markets do."""
    return name.lower() if name.startswith("0x") else name


def _can_be_opened(path: Path) -> Path:
    """Refuse the one character that no system takes in a path."""
    if "\0" in str(path):
        raise ValueError("a path cannot hold the character NUL")
    return path


PathOf: TypeAlias = Annotated[Path, AfterValidator(_can_be_opened)]
"""Of a file."""
AccountName: TypeAlias = Annotated[
    str, Field(pattern=r"^0x([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})$"), AfterValidator(str.lower)
]
"""An owner, or the whole key of an account."""
T = TypeVar("T")
Several: TypeAlias = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_as_list)]
Urls: TypeAlias = Annotated[Several[T], Field(min_length=1)]
HttpUrl: TypeAlias = Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_has_host)]
PeerUrl: TypeAlias = Annotated[
    str, Field(pattern=r"^https?://[^/@?#\s]+(/[^@?#\s]*)?$"), AfterValidator(_has_host)
]
"""Without credentials: those of a group are its token."""
LISTEN = r"^([0-9A-Za-z.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}$"
WsUrl: TypeAlias = Annotated[str, Field(pattern=r"^wss?://"), AfterValidator(_has_host)]
