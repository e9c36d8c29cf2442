"""Commands that sign and post what keepers go by."""

from __future__ import annotations

from pathlib import Path

import structlog
import uvloop

from keeper.cli.daemons import Work, until_stopped, until_told
from keeper.cli.options import ConfigOption
from keeper.cli.output import log_to_stdout
from keeper.cli.parts import connected, read_roll
from keeper.config import load
from keeper.doctor import hybrid
from keeper.errors import ConfigError
from keeper.execute.keys import load_exchange_token, load_reporter_keys, signer_of
from keeper.execute.plain import PlainSender
from keeper.feeds import listening
from keeper.feeds.closes import Closes, keeping
from keeper.protocols.hybrid.signing import address_of
from keeper.reporter import Reporter
from keeper.reports import Exchange, served
from keeper.steward.arrays import Steward

log = structlog.get_logger()

REPORT_GAS = 1_500_000
"""Gas limit of a transaction that posts bundles of several feeds."""
ARRAY_GAS = 180_000
"""Gas for each risk array of a post; the first one of an option takes some 140,000."""


def report_prices(config: ConfigOption) -> None:
    """Sign and post fast prices with the keys in KEEPER_REPORTER_KEYS; the first key pays the gas."""
    log_to_stdout()
    uvloop.run(until_told(_report(config)))


def report_options(config: ConfigOption) -> None:
    """Value, sign and post what options are worth, and settle them, with the keys in KEEPER_REPORTER_KEYS.

    The last key pays the gas, so that its wallet is not the one of report-prices.
    """
    log_to_stdout()
    uvloop.run(until_told(_report_options(config)))


async def _report(path: Path) -> None:
    keys, config = load_reporter_keys(), load(path)
    exchanges = config.reporter.peers or config.reporter.listen
    token = load_exchange_token() if exchanges else ""
    async with connected(config, hybrid.find) as parts:
        market = parts.market
        wallet = signer_of(keys[0])
        roll, feed = await read_roll(parts), config.open_feed()
        if strangers := {address_of(key) for key in keys} - {*roll.quorum.signers}:
            at = f"the oracle {market.deployment.fast_oracle}"
            raise ConfigError(f"{', '.join(sorted(strangers))} is no signer of {at}")
        peers = None
        if config.reporter.peers:
            exchange = Exchange(config.reporter.peers, token, market, roll)
            peers = await parts.open.enter_async_context(exchange)
        reporter = Reporter(
            reader=parts.reader,
            oracle=market,
            feed=feed,
            postman=PlainSender(
                parts.rpc,
                wallet,
                chain_id=config.chain.chain_id,
                gas_limit=REPORT_GAS,
                fees=config.fee_params(),
            ),
            keys=keys,
            roll=roll,
            params=config.reporter_params(),
            peers=peers,
        )
        if config.reporter.listen:
            serving = served(config.reporter.listen, token, lambda: reporter.reports, market.fast_domain)
            await parts.open.enter_async_context(serving)
        if config.reporter.closes:
            closes = Closes(config.reporter.closes, market.feeds, step_s=config.reporter.closes_s)
            await parts.open.enter_async_context(keeping(feed, closes))
        log.info("reporter.started", wallet=wallet.address, keys=len(keys), quorum=roll.quorum.size)
        async with listening(feed):
            await until_stopped(Work(parts.reader, reporter, parts.head.number))


async def _report_options(path: Path) -> None:
    keys = load_reporter_keys()
    async with connected(load(path), hybrid.find) as parts:
        config, market = parts.config, parts.market
        rules, wallet = market.deployment.rules, signer_of(keys[-1])
        if not rules.options:
            raise ConfigError(f"{config.deployment.setting} {config.deployment.address} lists no option")
        feeds = {rules.markets[number].feed for number in rules.options}
        if unvalued := sorted(feeds - config.steward.vols.keys()):
            raise ConfigError(f"steward.vols has no volatility for {', '.join(unvalued)}")
        roll, feed, params = await read_roll(parts), config.open_feed(), config.steward_params()
        steward = Steward(
            reader=parts.reader,
            venue=market,
            feed=feed,
            vols=config.open_vols(feed),
            publish=PlainSender(
                parts.rpc,
                wallet,
                chain_id=config.chain.chain_id,
                gas_limit=REPORT_GAS + ARRAY_GAS * params.most_arrays,
                fees=config.fee_params(),
            ),
            keys=keys,
            quorum=roll.quorum.size,
            params=params,
        )
        log.info("steward.started", wallet=wallet.address, keys=len(keys), options=len(rules.options))
        async with listening(feed):
            await until_stopped(Work(parts.reader, steward, parts.head.number))
