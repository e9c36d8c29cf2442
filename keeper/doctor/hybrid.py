"""What a keeper of HybridMargin needs of its deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from keeper.chain.pool import Pool
from keeper.chain.reader import ChainReader
from keeper.chain.rpc import Unreachable, without_secrets
from keeper.chain.wire import data
from keeper.config import Config
from keeper.deployments import HybridDeployment
from keeper.doctor.finding import Finding, Mark, NoDeployment, amount
from keeper.domain import ChainTime, FeedView, Head, OracleView
from keeper.errors import ChainFault, ConfigError
from keeper.execute.keys import load_exchange_token
from keeper.ports import Reader, read_through
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.codec import reader_creation
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.params import LENT_READER, Deployment, read_deployment, read_liquidator
from keeper.protocols.hybrid.rows import accounts_of
from keeper.reports import Exchange, Roll
from keeper.units import WAD, AccountKey

PUSH0 = 0x5F


async def find(reader: ChainReader, config: Config, head: Head) -> HybridMarket:
    """Read the deployment that is configured, through its reader, or one lent to the nodes with every call.

    Raises NoDeployment where that is not to be had, and Unreachable where no node answers.
    """
    named = config.deployment
    assert isinstance(named, HybridDeployment)
    address, contract = named.reader or LENT_READER, "MarginReader" if named.reader else "Clearing"
    try:
        if named.clearing:
            liquidator = await read_through(reader, read_liquidator(named.clearing), head.hash)
            await reader.lend(address, reader_creation(named.clearing, liquidator))
        rounds = read_deployment(config.chain.chain_id, address)
        return HybridMarket(await read_through(reader, rounds, head.hash))
    except Unreachable:
        raise
    except ConfigError as error:
        mend = "deploy MarginReader and give its address as deployment.reader, or use another node"
        raise NoDeployment(str(error), mend) from error
    except ChainFault as fault:
        found = f"{named.setting} {named.address} does not answer as a {contract}: {fault}"
        raise NoDeployment(found, f"correct {named.setting}, or chain.chain_id") from fault


async def look(market: HybridMarket, rpc: Pool, reader: ChainReader, head: Head) -> AsyncIterator[Finding]:
    """Yield what there is to say of every contract, and of both oracles of every feed."""
    for name, address in addresses_of(market.deployment).items():
        if address == LENT_READER:
            yield Finding(name, Mark.OK, "not deployed; the nodes take its code with every call")
            continue
        code = data(await rpc.request("eth_getCode", [address, "latest"]))
        yield look_at_code(name, address, code)
    oracles = market.decode_prices(await reader.call(market.prices_call(), head.hash))
    for finding in look_at_oracles(oracles, market.feeds, head.timestamp_s):
        yield finding


async def look_at_means(
    market: HybridMarket, config: Config, wallet: str, reader: ChainReader, head: Head
) -> AsyncIterator[Finding]:
    """Yield what the wallet has to act with, beside gas."""
    taker: AccountKey = bytes.fromhex(wallet[2:]) + config.wallet.sub_account.to_bytes(12)
    credit, page = await reader.call_many([market.credit_call(wallet), market.rows_call([taker])], head.hash)
    market.shape.check_names(page, [taker])
    [account] = accounts_of(page)
    funded = account.cash_wad > 0 or bool(account.holdings)
    yield amount("credit for bonds", int.from_bytes(credit), f"deposit quote for {wallet} into the Vault")
    yield Finding(
        "margin account",
        Mark.OK if funded else Mark.WARN,
        f"cash {account.cash_wad / WAD:,.2f}, {len(account.holdings)} collaterals",
        "" if funded else f"deposit collateral into 0x{taker.hex()} in Clearing",
    )
    async for finding in look_at_reports(market, config.reports.endpoints, reader, head):
        yield finding


async def look_at_reports(
    market: HybridMarket, endpoints: Sequence[str], reader: Reader, head: Head
) -> AsyncIterator[Finding]:
    """Yield of every endpoint whether it tells reports that count."""
    if not endpoints:
        return
    try:
        token = load_exchange_token()
    except ConfigError as error:
        yield Finding("exchange token", Mark.BAD, str(error), "ask the group of reporters for it")
        return
    roll = Roll(reader, market.deployment.fast_oracle)
    await roll.read(ChainTime(head.number + 1, head.timestamp_s))
    for url in endpoints:
        async with Exchange((url,), token, market, roll) as exchange:
            reports, faults = await exchange.ask(), exchange.faults
        what, signers = f"reports {without_secrets(url)}", sorted({report.signer for report in reports})
        if faults or not reports:
            found = "; ".join(faults) or "it has nothing to tell"
            yield Finding(what, Mark.WARN, found, "see to that reporter, or correct reports.endpoints")
        else:
            yield Finding(what, Mark.OK, f"{len(reports)} reports by {', '.join(signers)}")


def look_at_code(name: str, address: str, code: bytes) -> Finding:
    """Tell whether there is code at an address, and whether it dispatches every function of the interface.

    By its selectors, for immutables and libraries make the bytes of each deployment its own.
    """
    what, mend = f"{name}", "correct [deployment]; or use the release that belongs to this deployment"
    if not code:
        return Finding(what, Mark.BAD, f"no code at {address}", mend)
    missing = [each.name for each in load(name).functions.values() if not _pushes(code, each.selector)]
    if missing:
        return Finding(what, Mark.BAD, f"{address} has no {', '.join(missing[:3])}", mend)
    return Finding(what, Mark.OK, f"{address}, {len(load(name).functions)} functions")


def _pushes(code: bytes, selector: bytes) -> bool:
    short = selector.lstrip(b"\0")
    return bytes([PUSH0 + len(short)]) + short in code


def look_at_oracles(oracles: OracleView, feeds: tuple[str, ...], now_s: int) -> Iterator[Finding]:
    """Yield for every feed whether both clocks count, by the contract's own rules."""
    for feed in feeds:
        view = oracles[feed]
        yield _oracle(view, now_s)


def _oracle(view: FeedView, now_s: int) -> Finding:
    fast_s, slow_s = now_s - view.fast_observed_at_s, now_s - view.slow_updated_at_s
    fast = f"fast {fast_s} s old, bound {view.fast_max_age_s}" if view.fast_wad > 0 else "fast none"
    slow = f"slow {slow_s} s old, heartbeat {view.slow_heartbeat_s}" if view.slow_wad > 0 else "slow none"
    faults = {
        "have a quorum of reporters run `keeper report-prices`": not view.fast_fresh(now_s),
        "see to the slow feed: without it nothing is confirmed": not view.slow_ok,
    }
    mend = "; ".join(text for text, is_amiss in faults.items() if is_amiss)
    return Finding(f"oracle {view.feed}", Mark.WARN if mend else Mark.OK, f"{fast}; {slow}", mend)


def addresses_of(deployment: Deployment) -> Mapping[str, str]:
    """Return where each contract is whose interface the keeper relies on."""
    return {
        "MarginReader": deployment.reader,
        "Clearing": deployment.clearing,
        "Liquidator": deployment.liquidator,
        "MarginEngine": deployment.engine,
        "Instruments": deployment.instruments,
        "Slopes": deployment.slopes,
        "RiskArrays": deployment.risk_arrays,
        "OracleRouter": deployment.router,
        "FastOracle": deployment.fast_oracle,
        "Vault": deployment.vault,
        "Backstop": deployment.backstop,
        "Breaker": deployment.breaker,
    }
