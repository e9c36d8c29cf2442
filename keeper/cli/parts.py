"""What daemons are made of: a node, the deployment found there, and who decides for its protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.chain.stream import expect_chain
from keeper.chain.wire import head_of
from keeper.config import Config
from keeper.deployments import ForeignDeployment
from keeper.desk.hybrid import HybridDesk
from keeper.desk.lending import LendingDesk
from keeper.desk.perp import PerpDesk
from keeper.desk.port import Desk
from keeper.doctor import foreign, hybrid
from keeper.domain import ChainTime, Head, Quote, Unknown
from keeper.errors import ConfigError
from keeper.execute.keys import load_exchange_token
from keeper.journal.tape import Recorder
from keeper.pipeline import PAGE
from keeper.ports import LendingMarket, Market, PerpMarket, Reports
from keeper.protocols.hybrid.market import HybridMarket
from keeper.reports import Exchange, Roll, hearing
from keeper.risk.marks import Marks
from keeper.units import AccountKey, FeedId, UnixS

MarketT = TypeVar("MarketT", bound=Market[Any, Any])
MOST_FAILURES = 8
"""In a row, within some ten seconds, after which a command gives up a search of logs."""
PERP_PAGE = 50
"""A row of Perpetual takes some 200,000 gas to read: nodes bound a call by 50 million or so."""


@dataclass(frozen=True, slots=True)
class Parts(Generic[MarketT]):
    """What all daemons need: a node, and the deployment it was found to hold."""

    config: Config
    rpc: Pool
    reader: ChainReader
    market: MarketT
    head: Head
    open: AsyncExitStack
    """What is opened on the way is closed with it."""
    tape: Recorder | None = None
    """What takes down all that is read."""
    reports: Reports | None = None
    """Who hears reporters, where that is not the keeper itself."""


Find: TypeAlias = Callable[[ChainReader, Config, Head], Awaitable[MarketT]]


@dataclass(frozen=True, slots=True)
class Kind(Generic[MarketT]):
    """What it takes to keep one kind of protocol: how its deployment is found, and who decides."""

    find: Find[MarketT]
    desk: Callable[[Parts[MarketT], str], Awaitable[Desk[MarketT, Any]]]
    """For a wallet."""
    marks: Callable[[MarketT, Any, Mapping[FeedId, Quote | Unknown], UnixS], Marks]
    """As ``Desk.marks``, which asks for no wallet."""
    page: int = PAGE
    """Accounts per bulk read."""


async def _hybrid_desk(parts: Parts[HybridMarket], wallet: str) -> HybridDesk:
    config = parts.config
    taker: AccountKey = bytes.fromhex(wallet[2:]) + config.wallet.sub_account.to_bytes(12)
    reports = parts.reports
    if config.reports.endpoints and reports is None:
        exchange = Exchange(
            config.reports.endpoints, load_exchange_token(), parts.market, await read_roll(parts)
        )
        reports = await parts.open.enter_async_context(hearing(exchange))
        reports = parts.tape.reports(reports) if parts.tape else reports
    return HybridDesk(wallet, taker, config.desk_params(), reports)


async def _lending_desk(parts: Parts[LendingMarket[Any, Any]], wallet: str) -> LendingDesk:
    config = parts.config
    if config.closing.liquidator is not None:
        await foreign.expect_operator(parts.reader, config, wallet, parts.head)
    pools = await foreign.read_pools(parts.reader, config, parts.market, parts.head)
    return LendingDesk(wallet, config.lending_params(), pools)


async def _perp_desk(parts: Parts[PerpMarket[Any, Any]], wallet: str) -> PerpDesk:
    config = parts.config
    if config.closing.liquidator is not None:
        await foreign.expect_operator(parts.reader, config, wallet, parts.head)
    return PerpDesk(wallet, config.perp_params())


PROTOCOLS: Mapping[str, Kind[Any]] = {
    "hybrid": Kind(hybrid.find, _hybrid_desk, HybridDesk.marks),
    "aave_v3": Kind(foreign.find_aave, _lending_desk, LendingDesk.marks),
    "morpho_blue": Kind(foreign.find_morpho, _lending_desk, LendingDesk.marks),
    "compound_v2": Kind(foreign.find_venus, _lending_desk, LendingDesk.marks),
    "perp_curie": Kind(foreign.find_perp, _perp_desk, PerpDesk.marks, page=PERP_PAGE),
}
"""By ``deployment.protocol``."""


@asynccontextmanager
async def connected(config: Config, find: Find[MarketT]) -> AsyncIterator[Parts[MarketT]]:
    """Reach the node, and find the deployment; everything in the configuration is checked on the way.

    Who asks once does not wait for ever for a past that the nodes do not tell.
    """
    async with (
        Pool(config.chain.http, config.pool_params()) as rpc,
        reached(rpc, config, find, search_failures=MOST_FAILURES) as parts,
    ):
        yield parts


@asynccontextmanager
async def reached(
    rpc: Pool,
    config: Config,
    find: Find[MarketT],
    tape: Recorder | None = None,
    *,
    search_failures: int | None = None,
) -> AsyncIterator[Parts[MarketT]]:
    """Find the deployment at a node, as ``connected`` does; its reader waits for the past as it is told."""
    scout = ChainReader(rpc, config.chain.ws, [])
    await scout.verify(config.chain.chain_id, {config.deployment.setting: config.deployment.address})
    await expect_chain(config.chain.ws, config.chain.chain_id)
    head = head_of(
        await rpc.request("eth_getBlockByNumber", ["latest", False]), flat_fees=config.chain.flat_fees
    )
    if config.deployment.from_block > head.number:
        bound = f"the chain's head is block {head.number}"
        raise ConfigError(f"deployment.from_block is {config.deployment.from_block}, but {bound}")
    if isinstance(config.deployment, ForeignDeployment):
        await foreign.expect_code(rpc, config.deployment)
    market = await find(tape.reader(scout) if tape else scout, config, head)
    beacons: tuple[str, ...] = ()
    if isinstance(config.deployment, ForeignDeployment):
        beacons = await foreign.beacons_of(rpc, market.addresses)
    params = replace(config.reader_params(), search_failures=search_failures)
    reader = ChainReader(rpc, config.chain.ws, market.addresses, params, lent=scout.lent, always=beacons)
    async with AsyncExitStack() as stack:
        yield Parts(config, rpc, tape.reader(reader) if tape else reader, market, head, stack, tape)


async def read_roll(parts: Parts[HybridMarket]) -> Roll:
    """Read who may sign fast prices."""
    roll, head = Roll(parts.reader, parts.market.deployment.fast_oracle), parts.head
    await roll.read(ChainTime(head.number + 1, head.timestamp_s + parts.config.chain.block_time_s))
    return roll
