"""The command that proposes margins, says why and whom they bring nearer, and has them published."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
import uvloop

from keeper.chain.rpc import RpcError
from keeper.chain.wire import head_of
from keeper.cli.options import ConfigOption, Json
from keeper.cli.output import empty_table, log_to, terminal
from keeper.cli.parts import Parts, connected, read_roll
from keeper.cli.price_files import Columns, read_prices
from keeper.cli.reporting import ARRAY_GAS, REPORT_GAS
from keeper.config import load
from keeper.doctor import hybrid
from keeper.domain import Call, ChainTime, Head, Quote, Refuse
from keeper.errors import ChainFault, ConfigError, InvariantBroken
from keeper.execute.keys import load_reporter_keys, signer_of
from keeper.execute.plain import PlainSender
from keeper.feeds import AnyFeed, RecordedFeed, listening
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.signing import address_of
from keeper.risk.prices import Prices
from keeper.steward.arrays import Expiry, Post, Steward
from keeper.steward.margins import Findings, MarginSteward, health, signed_call
from keeper.steward.telling import as_data, is_amiss, lines, nearer
from keeper.trigger.mirrored import named
from keeper.units import WAD, FeedId

log = structlog.get_logger()

MARGIN_GAS = 300_000
"""Gas limit of a change of margins, which takes some 130,000."""
PATIENCE_BLOCKS = 10
"""How long a transaction may take to be included."""
OPTIONS = "options"
"""What the transaction changes that posts risk arrays, or settles."""
HEARING_S = 10.0
"""How long a live feed is given to know its prices."""

Closes = Annotated[
    list[Path],
    typer.Option(
        "--prices",
        help="Closes as a CSV: a column of times, one of each feed. Again for each source that must agree.",
    ),
]
Rehearsal = Annotated[bool, typer.Option("--dry-run", help="Say it all; sign and send nothing.")]
Top = Annotated[int, typer.Option(min=0, help="How many accounts to show that come nearer.")]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run has found, and what became of it."""

    found: Findings
    arrays: Post | Expiry | None
    sent: Mapping[str, str]
    """Transactions by what they change; none of a dry run."""
    fault: ChainFault | None
    """What kept the rest from being published."""
    horizon_s: int


def publish_risk(
    config: ConfigOption,
    prices: Closes,
    *,
    columns: Columns = None,
    top: Top = 5,
    dry_run: Rehearsal = False,
    as_json: Json = False,
) -> None:
    """Propose margins by recorded closes, say why, and publish them with the keys in KEEPER_REPORTER_KEYS.

    Risk arrays that are due go with them. Ends with 1 where an underlying was refused for its data, for
    accounts that would be in breach, or by a bound of the chain. The last key pays the gas.
    """
    log_to(sys.stderr)
    run = uvloop.run(_run(config, [read_prices(path, columns) for path in prices], dry_run=dry_run))
    if as_json:
        told = as_data(run.found, top) | {"arrays": _valued(run.arrays), "sent": dict(run.sent)}
        told |= {"fault": str(run.fault) if run.fault else None, "dry_run": dry_run}
        typer.echo(json.dumps(told, indent=2))
    else:
        _show(run, top, dry_run=dry_run)
    if run.fault:
        raise run.fault
    raise typer.Exit(int(is_amiss(run.found)))


async def _run(path: Path, sources: Sequence[Prices], *, dry_run: bool) -> Run:
    keys = () if dry_run else load_reporter_keys()
    async with connected(load(path), hybrid.find) as parts:
        config, feed = parts.config, parts.config.open_feed()
        desk = None if dry_run else await _Desk.of(parts, keys)
        steward = MarginSteward(
            reader=parts.reader,
            market=parts.market,
            sources=sources,
            volumes_day={
                name: depth.volume_day for name, depth in config.depths().items() if depth.volume_day
            },
            vols=config.open_vols(feed),
            from_block=config.deployment.from_block,
            params=config.margin_params(),
        )
        found = await steward.find(parts.head)
        arrays, fault = None, None
        try:
            if desk:
                await desk.publish(found)
            if parts.market.deployment.rules.options:
                arrays = await _arrays(parts, feed, desk)
        except ChainFault as error:
            fault = error
        return Run(found, arrays, desk.sent if desk else {}, fault, config.steward.margins.horizon_s)


@dataclass(frozen=True, slots=True)
class _Desk:
    """A quorum's keys, and the wallet that pays."""

    parts: Parts[HybridMarket]
    keys: Sequence[bytes]
    quorum: int
    sender: PlainSender
    sent: dict[str, str] = field(default_factory=dict)
    """Transactions that were included, by what they change."""

    @classmethod
    async def of(cls, parts: Parts[HybridMarket], keys: Sequence[bytes]) -> _Desk:
        """Check the keys against the oracle's signers. Raises ConfigError where they are no quorum."""
        roll, config = await read_roll(parts), parts.config
        signers = [key for key in dict.fromkeys(keys) if address_of(key) in roll.quorum.signers]
        if len(signers) < roll.quorum.size:
            found = f"{len(signers)} keys of its signers given"
            raise ConfigError(
                f"{found}, the quorum of {parts.market.deployment.fast_oracle} is {roll.quorum.size}"
            )
        sender = PlainSender(
            parts.rpc,
            signer_of(keys[-1]),
            chain_id=config.chain.chain_id,
            gas_limit=max(MARGIN_GAS, REPORT_GAS + ARRAY_GAS * config.steward.most_arrays),
            fees=config.fee_params(),
        )
        return cls(parts, signers, roll.quorum.size, sender)

    async def publish(self, found: Findings) -> None:
        """Send one change after the other, each once the one before is included."""
        parts = self.parts
        for change in found.changes:
            head = await _newest(parts)
            call = signed_call(
                change, found.stewardship, self.keys[: self.quorum], parts.market.deployment.chain_id
            )
            at = ChainTime(head.number + 1, head.timestamp_s + parts.config.chain.block_time_s)
            tried = await parts.reader.simulate(self.sender.address, call, at, MARGIN_GAS)
            if isinstance(tried, Refuse):
                raise ChainFault(f"{change.feed}: the chain refuses it: {parts.market.explain(tried).reason}")
            await self._send(change.feed, call, head)

    async def post(self, call: Call, head: Head) -> str:
        """Send what risk arrays or a settlement ask for, as `arrays.Publisher` does, and see it included."""
        return await self._send(OPTIONS, call, head)

    async def _send(self, what: str, call: Call, head: Head) -> str:
        try:
            tx_hash = await self.sender.post(call, head)
        except RpcError as refusal:
            if not await self.sender.has_pending():
                raise
            waits = f"another transaction of {self.sender.address} waits to be included"
            raise ChainFault(f"{waits}; run again once it is: {refusal}") from refusal
        log.info("steward.sent", what=what, tx=tx_hash)
        await self._included(tx_hash)
        self.sent[what] = tx_hash
        return tx_hash

    async def _included(self, tx_hash: str) -> None:
        """Wait for a transaction; raise ChainFault where it reverted, or is not there in time."""
        block_time_s = self.parts.config.chain.block_time_s
        for _ in range(PATIENCE_BLOCKS * 4):
            receipt = await self.parts.rpc.request("eth_getTransactionReceipt", [tx_hash])
            if receipt is not None:
                if int(receipt["status"], 16) != 1:
                    raise ChainFault(f"{tx_hash} has reverted; nothing has changed")
                return
            await asyncio.sleep(block_time_s / 4)
        waited = f"{PATIENCE_BLOCKS * block_time_s} s"
        raise ChainFault(f"{tx_hash} was not included within {waited}; run again: a change counts once")


class _Nobody:
    """Publishes for a dry run, which never asks it to."""

    async def post(self, call: Call, head: Head) -> str:
        """Raise InvariantBroken."""
        raise InvariantBroken(f"a dry run sends nothing, found a call to {call.to} at block {head.number}")


async def _arrays(parts: Parts[HybridMarket], feed: AnyFeed, desk: _Desk | None) -> Post | Expiry | None:
    """Post the risk arrays that are due, or settle; without a desk only say which these are."""
    rules = parts.market.deployment.rules
    steward = Steward(
        reader=parts.reader,
        venue=parts.market,
        feed=feed,
        vols=parts.config.open_vols(feed),
        publish=desk or _Nobody(),
        keys=desk.keys if desk else (),
        quorum=desk.quorum if desk else 0,
        params=parts.config.steward_params(),
    )
    async with listening(feed):
        head = await _newest(parts)
        await _until_heard(feed, {rules.markets[number].feed for number in rules.options}, head)
        return await (steward.on_head(head) if desk else steward.propose(head))


async def _until_heard(feed: AnyFeed, names: set[FeedId], head: Head) -> None:
    """Wait until a live feed knows its prices, or for so long as that may take."""
    for _ in range(int(HEARING_S * 4)):
        known = feed.latest(head.timestamp_s)
        if isinstance(feed, RecordedFeed) or all(isinstance(known.get(name), Quote) for name in names):
            return
        await asyncio.sleep(0.25)


async def _newest(parts: Parts[HybridMarket]) -> Head:
    raw = await parts.rpc.request("eth_getBlockByNumber", ["latest", False])
    return head_of(raw, flat_fees=parts.config.chain.flat_fees)


def _valued(found: Post | Expiry | None) -> dict[str, Any]:
    """Say which options are valued, or which expiry is settled."""
    if isinstance(found, Post):
        return {"markets": [each.market for each in found.arrays]}
    return {"settles": found.feed, "expiry_s": found.expiry_s} if found else {}


def _due(found: Post | Expiry) -> str:
    """Say to a person which risk arrays or which settlement there is to be."""
    if isinstance(found, Post):
        return f"risk arrays due: markets {', '.join(str(each.market) for each in found.arrays)}"
    expired = datetime.fromtimestamp(found.expiry_s, UTC)
    return f"settlement due: {found.feed}, expired {expired:%Y-%m-%d %H:%M}"


def _show(run: Run, top: int, *, dry_run: bool) -> None:
    console = terminal()
    for line in lines(run.found, run.horizon_s):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if shown := nearer(run.found.effects)[:top]:
        table = empty_table("account", "equity", "required", "then", "health", "then", words={"account"})
        for each in shown:
            amounts = (each.now.equity_wad, each.now.requirement_wad, each.then.requirement_wad)
            healths = (health(each.now), health(each.then))
            table.add_row(
                named(each.account),
                *(f"{wad / WAD:,.2f}" for wad in amounts),
                *(f"{part:.3f}" for part in healths),
            )
        console.print(table)
    if run.arrays:
        console.print(_due(run.arrays), highlight=False, markup=False, soft_wrap=True)
    for what, tx_hash in run.sent.items():
        console.print(f"{what}: published in {tx_hash}", highlight=False, markup=False, soft_wrap=True)
    if dry_run:
        console.print("dry run: nothing was signed or sent")
