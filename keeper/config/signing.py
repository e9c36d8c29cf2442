"""Whose wallet it is, and who signs for it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from keeper.config.values import PathOf, PeerUrl
from keeper.deployments import Address, Section
from keeper.execute import kms, web3signer
from keeper.execute.signers import Elsewhere


class Wallet(Section):
    """Where the key is (or in KEEPER_PRIVATE_KEY), whose, and which sub-account takes positions over."""

    address: Address | None = None
    """Whose key it has to be; needed where the key is elsewhere."""
    keystore: PathOf | None = None
    passphrase_file: PathOf | None = None
    sub_account: int = Field(default=0, ge=0, lt=2**96)


class Signer(Section):
    """Who signs: the keeper itself, or whoever holds the wallet's key elsewhere."""

    kind: Literal["local", "web3signer", "aws_kms"] = "local"
    timeout_ms: int = Field(default=1_000, ge=50, le=60_000)
    url: PeerUrl | None = None
    ca_file: PathOf | None = None
    cert_file: PathOf | None = None
    key_file: PathOf | None = None
    key_id: str | None = Field(default=None, min_length=1)
    region: str | None = None
    endpoint: PeerUrl | None = None

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> Self:
        named = {name for name in SIGNER_OF if getattr(self, name) is not None}
        if strange := {name for name in named if SIGNER_OF[name] != self.kind}:
            raise ValueError(f"{', '.join(sorted(strange))}: not of the kind {self.kind}")
        needed = {"web3signer": "url", "aws_kms": "key_id"}.get(self.kind)
        if needed is not None and needed not in named:
            raise ValueError(f"{needed} is needed for the kind {self.kind}")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")
        return self

    def elsewhere(self) -> Elsewhere | None:
        """Return how to ask whoever holds the key; None where the keeper does."""
        timeout_s = self.timeout_ms / 1e3
        if self.url is not None:
            return web3signer.Params(self.url, timeout_s, self.ca_file, self.cert_file, self.key_file)
        if self.key_id is not None:
            return kms.Params(self.key_id, self.region, self.endpoint, timeout_s)
        return None


SIGNER_OF = {
    **dict.fromkeys(("url", "ca_file", "cert_file", "key_file"), "web3signer"),
    **dict.fromkeys(("key_id", "region", "endpoint"), "aws_kms"),
}
"""Which kind of signer each of its settings is for."""
