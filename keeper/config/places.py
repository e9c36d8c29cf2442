"""Where a keeper stands: its nodes, its journal, its book, and who hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from keeper.config.values import HttpUrl, PathOf, Urls, WsUrl
from keeper.deployments import Section
from keeper.execute.chains import L1Fee, rules_of


class Chain(Section):
    """The nodes: calls go over HTTP, heads and logs come over a websocket; each one URL, or a list."""

    http: Urls[HttpUrl]
    ws: Urls[WsUrl]
    chain_id: int = Field(gt=0)
    block_time_s: int = Field(default=12, gt=0, le=3600)
    requests_s: float | None = Field(default=None, ge=1)
    """Budget of each endpoint; each call of a batch counts."""
    hedge_ms: int = Field(default=250, gt=0)
    """After how long, at the least, a slow read is asked of a second endpoint as well."""
    broadcast: bool = False
    """Hand each signed transaction to every endpoint."""
    hand_over: Literal["http", "ws"] = "http"
    """``ws``: offer each signed transaction on a websocket first, which is quicker, and then as else."""
    fees: Literal["eip1559", "legacy"] = "eip1559"
    """``legacy``: a chain without base fee, where everybody pays a gas price."""
    l1_fee: L1Fee = "none"
    """Whether a transaction pays for its data: ``op`` asks the OP stack's GasPriceOracle for the fee besides
    its gas, ``arbitrum`` the node for the gas. Where it is left out, as the chain is known for."""
    l1_bytes: int = Field(default=1_000, gt=0, le=131_072)
    """How large a transaction is taken to be for that."""

    @property
    def flat_fees(self) -> bool:
        """Whether the chain has no base fee."""
        return self.fees == "legacy"

    @model_validator(mode="before")
    @classmethod
    def _is_like_the_chain(cls, values: Any) -> Any:
        """Take what is known of the chain where the file leaves it out."""
        if not isinstance(values, dict):
            return values
        try:
            rules = rules_of(int(values["chain_id"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return values
        return {"block_time_s": rules.block_time_s, "l1_fee": rules.l1_fee} | values


class JournalPlace(Section):
    """Where the case history is, and how much of it is kept."""

    path: PathOf = Path("journal.sqlite")
    """The SQLite file; of a shared journal, beside which a keeper keeps what is its own."""
    url: SecretStr | None = None
    """Of PostgreSQL: the journal is shared by several keepers, one of which leads."""
    schema_name: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,40}$")] = "keeper"
    lease_s: float = Field(default=5, ge=1, le=60)
    """How long a leader that is not heard of stays the leader."""
    tape: bool = True
    """Keep what decisions depend on, so that they can be explained and replayed."""
    keep_days: int = Field(default=30, ge=2)
    """What is over is forgotten after so long; open cases never are."""
    keep_mb: int = Field(default=2_000, ge=16)
    """Beyond so much the oldest of the tape goes earlier, and closed cases after it."""


class Mirror(Section):
    """The book of accounts: where it lies on disk, so that a start reads little, and how it is checked."""

    snapshot: PathOf = Path("book.snapshot")
    snapshot_blocks: int = Field(default=300, gt=0)
    """Written so often, and at the end."""
    check_blocks: int = Field(default=10, gt=0)
    """So often ``check_rows`` accounts are read again and compared, in turn."""
    check_rows: int = Field(default=200, gt=0, le=3200)


class Alerts(Section):
    """How many notices there may be; where they go is in KEEPER_ALERT_URLS."""

    burst: int = Field(default=20, ge=1, le=1_000)
    """At once,"""
    every_s: float = Field(default=30, gt=0, le=86_400)
    """and one more in so many seconds; the rest is summed up in one."""
    timeout_s: float = Field(default=15, gt=0, le=300)
    """How long a messenger may take."""


class Health(Section):
    """Where /metrics and /healthz of ``keeper run`` are served: on 127.0.0.1, and nowhere without a port."""

    port: int | None = Field(default=None, ge=0, lt=65_536)
