"""What a keeper of somebody else's protocol needs of its deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

from keeper import abi
from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.chain.rpc import Unreachable
from keeper.chain.wire import data
from keeper.columns.shape import rows_of
from keeper.config import Config
from keeper.deployments import (
    AaveDeployment,
    ForeignDeployment,
    MorphoDeployment,
    PerpDeployment,
    VenusDeployment,
)
from keeper.doctor.finding import Finding, Mark, NoDeployment, amount
from keeper.domain import Call, Head
from keeper.errors import ChainFault, ConfigError
from keeper.lending import flash, tokens
from keeper.lending.routes import NOBODY, Pools, find_pools
from keeper.lending.words import Lender
from keeper.ports import LendingMarket, Market, PerpMarket, read_through
from keeper.protocols.aave_v3 import abi as aave_abi
from keeper.protocols.aave_v3 import params as aave
from keeper.protocols.aave_v3.market import AaveMarket
from keeper.protocols.compound_v2 import codec as venus_codec
from keeper.protocols.compound_v2 import params as venus
from keeper.protocols.compound_v2.market import VenusMarket
from keeper.protocols.morpho_blue import codec as morpho_codec
from keeper.protocols.morpho_blue import params as morpho
from keeper.protocols.morpho_blue.market import MorphoMarket
from keeper.protocols.perp_curie import params as perp
from keeper.protocols.perp_curie.market import PerpCurieMarket
from keeper.units import AccountKey

IMPLEMENTATION_SLOT = "0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc"
"""Where a proxy by ERC-1967 keeps the address of its code."""
BEACON_SLOT = "0xa3f0ad74e5423aebfd80d3ef4346578335a9a72aeaee59ff6cb3582b35133d50"
"""Where it keeps who tells the address instead."""
IMPLEMENTATION = abi.function("implementation()", "address")
IS_PRE_LIQUIDATION = abi.function("isPreLiquidation(address)", "bool")
"""Of Morpho's factory of pre-liquidation contracts."""
LENDERS = {Lender.MORPHO: "morpho", Lender.AAVE: "aave", Lender.UNISWAP_V3: "v3Factory"}
"""What a FlashLiquidator knows each of its lenders by."""
NAMED = TypeVar("NAMED", bound=ForeignDeployment)
MarketT = TypeVar("MarketT", bound=Market[Any, Any])
MarketT_co = TypeVar("MarketT_co", covariant=True)
Found = TypeVar("Found")
Rounds = Generator[list[Call], list[bytes], Found]


class Finder(Protocol[MarketT_co]):
    """Finds a deployment as it is configured."""

    def __call__(self, reader: ChainReader, config: Config, head: Head) -> Awaitable[MarketT_co]:
        """Return its market; raise NoDeployment where it is not to be had, Unreachable without a node."""
        ...


def finder(
    kind: type[NAMED],
    lent_at: str,
    creation: Callable[[NAMED], bytes],
    rounds: Callable[[NAMED, str], Rounds[MarketT]],
) -> Finder[MarketT]:
    """Return what finds deployments of one kind, through a reader of ours that is deployed or lent."""

    async def find(reader: ChainReader, config: Config, head: Head) -> MarketT:
        named = config.deployment
        assert isinstance(named, kind)
        try:
            if named.reader is None:
                await reader.lend(lent_at, creation(named))
            await reader.lend(tokens.LENT_READER, tokens.reader_creation())
            asked = rounds(named, named.reader or lent_at)
            return await read_through(reader, asked, head.hash)
        except Unreachable:
            raise
        except ConfigError as error:
            raise NoDeployment(str(error), "correct [deployment], or use another node") from error
        except ChainFault as fault:
            found = f"{named.setting} {named.address} does not answer as one of {named.protocol}: {fault}"
            raise NoDeployment(found, "correct [deployment], or chain.chain_id") from fault

    return find


def _aave(named: AaveDeployment, reader: str) -> Rounds[AaveMarket]:
    return AaveMarket((yield from aave.read_deployment(named.pool, named.feeds, reader)))


def _morpho(named: MorphoDeployment, reader: str) -> Rounds[MorphoMarket]:
    chosen = morpho.Chosen(
        morpho=named.morpho,
        markets=named.markets,
        pres=named.pre_liquidations,
        feeds=named.feeds,
        tokens=named.tokens,
        reader=reader,
    )
    yield from expect_made(named)
    return MorphoMarket((yield from morpho.read_listing(chosen)))


def expect_made(named: MorphoDeployment) -> Rounds[None]:
    """Raise ConfigError where a pre-liquidation contract does not come from the factory that is named."""
    factory, pres = named.pre_liquidation_factory, named.pre_liquidations
    if factory is None or not pres:
        return
    answers = yield [IS_PRE_LIQUIDATION.call(factory, each) for each in pres]
    for pre, answer in zip(pres, answers, strict=True):
        if not IS_PRE_LIQUIDATION.result(answer)[0]:
            raise ConfigError(f"deployment.pre_liquidations: {pre} was not made by the factory {factory}")


find_aave = finder(AaveDeployment, aave.LENT_READER, lambda _: aave_abi.reader_creation(), _aave)
find_morpho = finder(MorphoDeployment, morpho.LENT_READER, lambda _: morpho_codec.reader_creation(), _morpho)


def _venus(named: VenusDeployment, reader: str) -> Rounds[VenusMarket]:
    chosen = venus.Chosen(named.comptroller, named.feeds, reader=reader)
    return VenusMarket((yield from venus.read_listing(chosen)))


find_venus = finder(VenusDeployment, venus.LENT_READER, lambda _: venus_codec.reader_creation(), _venus)


def _perp(named: PerpDeployment, reader: str) -> Rounds[PerpCurieMarket]:
    return PerpCurieMarket((yield from perp.read_deployment(named.clearing_house, named.markets, reader)))


find_perp = finder(
    PerpDeployment, perp.LENT_READER, lambda named: perp.reader_creation(named.clearing_house), _perp
)


# --- what stands behind the address ---------------------------------------------------------------


async def code_behind(rpc: Pool, address: str) -> str:
    """Return the address of the code that a proxy runs; the zero address where it is no proxy."""
    slots = (IMPLEMENTATION_SLOT, BEACON_SLOT)
    words = [data(await rpc.request("eth_getStorageAt", [address, slot, "latest"])) for slot in slots]
    code, beacon = ("0x" + word[-20:].hex() for word in words)
    if code != NOBODY or beacon == NOBODY:
        return code
    asked = {"to": beacon, "data": "0x" + IMPLEMENTATION.selector.hex()}
    told: str = IMPLEMENTATION.result(data(await rpc.request("eth_call", [asked, "latest"])))[0]
    return told.lower()


async def beacons_of(rpc: Pool, addresses: Sequence[str]) -> tuple[str, ...]:
    """Return the beacons by which some contracts find their code, each once: these tell of upgrades."""
    words = await rpc.batch([("eth_getStorageAt", [each, BEACON_SLOT, "latest"]) for each in addresses])
    found = dict.fromkeys("0x" + data(word)[-20:].hex() for word in words)
    return tuple(each for each in found if each != NOBODY)


async def expect_code(rpc: Pool, named: ForeignDeployment) -> None:
    """Raise ConfigError where other code stands behind a deployment than the one that is trusted."""
    if named.implementation is None:
        return
    found = await code_behind(rpc, named.address)
    if found != named.implementation:
        trusted = f"deployment.implementation trusts {named.implementation}"
        raise ConfigError(f"{named.setting} {named.address} runs the code of {found}, but {trusted}")


# --- looks ----------------------------------------------------------------------------------------


async def look_at_code(rpc: Pool, named: ForeignDeployment) -> AsyncIterator[Finding]:
    """Yield that there is no code at a deployment, or other code behind it than the one that is trusted."""
    if not data(await rpc.request("eth_getCode", [named.address, "latest"])):
        found = f"no code at {named.setting} {named.address}"
        yield Finding("code", Mark.BAD, found, f"correct {named.setting}, or chain.chain_id")
        return
    try:
        await expect_code(rpc, named)
    except ConfigError as error:
        yield Finding("code", Mark.BAD, str(error), "look at what changed, then at deployment.implementation")


async def look(
    market: LendingMarket[Any, Any] | PerpMarket[Any, Any], rpc: Pool, reader: ChainReader, head: Head
) -> AsyncIterator[Finding]:
    """Yield what there is to say of the contracts, and of the prices that both clocks go by."""
    address = market.addresses[0]
    code, behind = (
        data(await rpc.request("eth_getCode", [address, "latest"])),
        await code_behind(rpc, address),
    )
    proxied = "" if behind == NOBODY else f", a proxy of {behind}"
    yield Finding("contract", Mark.OK, f"{address}, {len(code):,} bytes{proxied}")
    for why in market.untraced:
        found = f"{why}: the chain's price stands at both clocks, and nobody else speaks of it"
        mend = "name its feed in [deployment]; else only trust_chain_after_s closes what hangs on it"
        yield Finding("oracle", Mark.WARN, found, mend)
    market.decode_prices(await reader.call(market.prices_call(), head.hash))
    yield Finding("prices", Mark.OK, f"read at block {head.number}, {len(market.feeds)} feeds traced")


async def look_at_purse(
    market: LendingMarket[Any, Any], config: Config, wallet: str, reader: ChainReader, head: Head
) -> AsyncIterator[Finding]:
    """Yield what there is to close loans with: a FlashLiquidator and its pools, or tokens of the wallet."""
    at = config.closing.liquidator
    if at is None:
        answer = await reader.call(tokens.purse_call(wallet, market.spending), head.hash)
        pockets = zip(market.spending, tokens.purse(answer), strict=True)
        held = {token for (token, _), (balance, _) in pockets if balance}
        found = f"{len(held)} of {len({token for token, _ in market.spending})} tokens that may be owed"
        mend = "" if held else f"send tokens to repay with to {wallet}, or name closing.liquidator"
        yield Finding("purse", Mark.OK if held else Mark.WARN, found, mend)
        return
    operated = await _look_at_operator(config, wallet, reader, head)
    yield operated
    if operated.mark is Mark.BAD:
        return
    pools = await read_pools(reader, config, market, head)
    count = sum(map(len, pools.by_pair.values()))
    mend = "" if count else "name exchange.uniswap_v3 and exchange.bridges"
    found = f"{count} pools of {len(pools.by_pair)} pairs"
    yield Finding("exchange", Mark.OK if count else Mark.WARN, found, mend)


async def look_at_deposit(
    market: PerpMarket[Any, Any], config: Config, wallet: str, reader: ChainReader, head: Head
) -> AsyncIterator[Finding]:
    """Yield what positions are taken over with: a FlashLiquidator, or the deposit of the wallet's account."""
    if config.closing.liquidator is not None:
        yield await _look_at_operator(config, wallet, reader, head)
        return
    taker: AccountKey = bytes.fromhex(wallet[2:]) + bytes(12)
    page = await reader.call(market.rows_call([taker]), head.hash)
    market.shape.check_names(page, [taker])
    rows = rows_of(market.shape, page)
    cash_wad = rows[0].trader.cash_wad if rows else 0
    yield amount("deposit", max(0, cash_wad), f"deposit into Perpetual's Vault for {wallet}")


async def _look_at_operator(config: Config, wallet: str, reader: ChainReader, head: Head) -> Finding:
    try:
        await expect_operator(reader, config, wallet, head)
    except ConfigError as error:
        mend = "correct closing.liquidator, or have its owner set the operator"
        return Finding("FlashLiquidator", Mark.BAD, str(error), mend)
    return Finding("FlashLiquidator", Mark.OK, f"{config.closing.liquidator}, operated by this wallet")


async def expect_operator(reader: ChainReader, config: Config, wallet: str, head: Head) -> None:
    """Raise ConfigError where the FlashLiquidator cannot be used by this wallet, or cannot borrow."""
    at = config.closing.liquidator
    assert at is not None
    functions = abi.load(*flash.CONTRACT).functions
    asked = [functions["operator"], functions[LENDERS[config.closing.lender]]]
    try:
        answers = await reader.call_many([each.call(at) for each in asked], head.hash)
        operator, lends = (each.result(answer)[0] for each, answer in zip(asked, answers, strict=True))
    except Unreachable:
        raise
    except ChainFault as fault:
        raise ConfigError(f"closing.liquidator {at} does not answer as a FlashLiquidator: {fault}") from fault
    if operator.lower() != wallet:
        raise ConfigError(f"closing.liquidator {at} is operated by {operator}, not by {wallet}")
    if lends == NOBODY:
        raise ConfigError(f"closing.liquidator {at} knows no lender {config.closing.lender}")


async def read_pools(
    reader: ChainReader, config: Config, market: LendingMarket[Any, Any], head: Head
) -> Pools:
    """Find the pools that tokens of the market can be sold in now; none where no exchange is named."""
    exchange = config.exchange
    v3, v2 = exchange.uniswap_v3 or "", exchange.uniswap_v2 or ""
    rounds = find_pools(market.tokens, exchange.bridges, v3_factory=v3, v2_factory=v2)
    return await read_through(reader, rounds, head.hash)
