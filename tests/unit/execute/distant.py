"""A signer that can fall silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eth_account import Account

from keeper.errors import SignerFault
from keeper.execute.keys import LocalSigner
from keeper.execute.signer import Signed


class Distant:
    """Signs as the wallet does, unless it is told to be silent."""

    fault: str | None = None
    at_once = None

    def __init__(self, key: str) -> None:
        self._near = LocalSigner(Account.from_key(key))
        self.address = self._near.address
        self.silent_for: set[int] = set()
        """Nonces that are not signed."""
        self.asked: list[int] = []
        self.on_sign: Callable[[], object] = int

    async def sign(self, tx: Mapping[str, Any]) -> Signed:
        self.asked.append(tx["nonce"])
        self.on_sign()
        if tx["nonce"] in self.silent_for:
            raise SignerFault("the signer is silent")
        return await self._near.sign(tx)
