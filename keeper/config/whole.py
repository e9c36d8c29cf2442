"""All settings of one keeper, and what each room is given of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from keeper import pipeline
from keeper.alerts import Params as AlertParams
from keeper.chain.handing import Handing
from keeper.chain.pool import Params as PoolParams
from keeper.chain.reader import Params as ReaderParams
from keeper.config.acting import Closing, DepthOf, Economics, Exchange, Pacing
from keeper.config.confirmation import Confirmation
from keeper.config.feeds import FeedSource
from keeper.config.places import Alerts, Chain, Health, JournalPlace, Mirror
from keeper.config.reporting import Reporter, Reports, Steward
from keeper.config.sending import Send, Spending
from keeper.config.signing import Signer, Wallet
from keeper.config.values import as_key
from keeper.config.watching import Ladder, Trigger
from keeper.confirm.policy import Policies
from keeper.deployments import Deployment, name_of
from keeper.desk.hybrid import Params as DeskParams
from keeper.desk.lending import Params as LendingDeskParams
from keeper.desk.perp import Params as PerpDeskParams
from keeper.errors import ConfigError
from keeper.execute.chains import rules_of
from keeper.execute.fees import GWEI, FeeParams
from keeper.execute.keys import KeyParams
from keeper.execute.levy import Arbitrum, Levy, OpStack
from keeper.execute.sender import Params as SenderParams
from keeper.execute.signers import SignerParams
from keeper.execute.stuck import Patience
from keeper.feeds import AnyFeed
from keeper.journal.db import Shared
from keeper.journal.guard import Limits
from keeper.journal.retention import Keep
from keeper.lending.words import Lender
from keeper.oracles.panel import Panel
from keeper.plan import hybrid as plan
from keeper.plan import lending, perp
from keeper.plan.economics import Prudence
from keeper.plan.pace import Pace
from keeper.plan.rest import Rest
from keeper.ports import Feed
from keeper.reporter import Params as ReporterParams
from keeper.risk.liquidity import Depth
from keeper.risk.parameters import Policy
from keeper.steward.arrays import EwmaVols, FixedVols, Vols
from keeper.steward.arrays import Params as StewardParams
from keeper.steward.margins import Params as MarginParams
from keeper.units import WAD, FeedId

TEST_CHAINS = frozenset({1337, 31337})
"""Ids of chains on which nothing has a worth."""


class Config(BaseSettings):
    """One keeper on one deployment."""

    model_config = SettingsConfigDict(
        env_prefix="KEEPER_", env_nested_delimiter="__", env_ignore_empty=True, extra="forbid", frozen=True
    )

    chain: Chain
    deployment: Deployment
    feed: FeedSource
    wallet: Wallet = Wallet()
    signer: Signer = Signer()
    journal: JournalPlace = JournalPlace()
    mirror: Mirror = Mirror()
    trigger: Trigger = Trigger()
    ladder: Ladder = Ladder()
    alerts: Alerts = Alerts()
    health: Health = Health()
    limits: Spending = Spending()
    send: Send = Send()
    economics: Economics = Economics()
    depth: dict[Annotated[FeedId, AfterValidator(as_key)], DepthOf] = Field(default={})
    pace: Pacing = Pacing()
    closing: Closing = Closing()
    exchange: Exchange = Exchange()
    confirmation: Confirmation = Confirmation()
    reporter: Reporter = Reporter()
    reports: Reports = Reports()
    steward: Steward = Steward()

    @model_validator(mode="after")
    def _can_share(self) -> Self:
        url = self.journal.url.get_secret_value() if self.journal.url else "postgresql://"
        if not url.startswith(("postgresql://", "postgres://")):
            raise ValueError("journal.url is no URL of PostgreSQL: postgresql://user:password@host/database")
        return self

    @model_validator(mode="after")
    def _can_convert(self) -> Self:
        needed = (self.closing.into, self.exchange.router, self.exchange.uniswap_v3)
        if self.closing.seized == "convert" and None in needed:
            raise ValueError(
                'closing.seized = "convert" needs closing.into, exchange.router and exchange.uniswap_v3'
            )
        return self

    @model_validator(mode="after")
    def _has_witnesses(self) -> Self:
        for feed, asked in self.confirmation.feeds.items():
            there = 1 + len(self.confirmation.witnesses.get(feed, {}))
            if isinstance(asked.agree, int) and asked.agree > there:
                raise ValueError(f"confirmation.feeds.{feed}: agree = {asked.agree}, and {there} are there")
        return self

    @model_validator(mode="after")
    def _can_post(self) -> Self:
        if self.reports.endpoints and self.deployment.protocol != "hybrid":
            raise ValueError("reports.endpoints: other protocols than hybrid take no reports")
        return self

    @model_validator(mode="after")
    def _can_batch(self) -> Self:
        if self.send.batch > 1 and self.deployment.protocol != "hybrid":
            raise ValueError("send.batch: no contract of other protocols than hybrid carries several acts")
        return self

    @model_validator(mode="after")
    def _can_borrow(self) -> Self:
        lends = self.closing.liquidator is None or self.closing.lender is not Lender.UNISWAP_V3
        if self.deployment.protocol == "perp_curie" and not lends:
            raise ValueError('on Perpetual closing.lender is "morpho" or "aave": no pool is looked up there')
        return self

    @model_validator(mode="after")
    def _is_of_one_chain(self) -> Self:
        preset = self.deployment.chain_id
        if preset is not None and preset != self.chain.chain_id:
            raise ValueError(f"the preset is of chain {preset}, chain.chain_id is {self.chain.chain_id}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment (``KEEPER_CHAIN__HTTP``) outrank the file, for endpoints that hold a secret."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    def pool_params(self) -> PoolParams:
        """Return how the endpoints are asked."""
        return PoolParams(
            requests_s=self.chain.requests_s,
            hedge_s=self.chain.hedge_ms / 1e3,
            broadcast=self.chain.broadcast,
            survey_s=self.chain.block_time_s,
        )

    def handing(self) -> Handing | None:
        """Return the socket on which signed transactions are offered, where there is to be one."""
        return Handing(self.chain.ws, self.chain.chain_id) if self.chain.hand_over == "ws" else None

    def reader_params(self) -> ReaderParams:
        """Return how the chain is read."""
        return ReaderParams(block_time_s=self.chain.block_time_s, flat_fees=self.chain.flat_fees)

    def limits_for_guard(self) -> Limits:
        """Return the guard's limits in its own units."""
        limits = self.limits
        days = {market: each.notional_day for market, each in limits.markets.items()}
        inventories = {market: each.inventory for market, each in limits.markets.items()}
        return Limits(
            halted=limits.halted,
            kill_file=limits.kill_file,
            spend_day_wei=int(limits.spend_day_native * WAD),
            spend_hour_wei=_wad(limits.spend_hour_native),
            floor_wei=int(limits.wallet_floor_native * WAD),
            max_fee_wei=int(limits.max_fee_gwei * GWEI),
            notional_block_wad=int(limits.notional_block * WAD),
            notional_hour_wad=_wad(limits.notional_hour),
            market_day_wad={market: int(most * WAD) for market, most in days.items() if most is not None},
            inventory_wad={
                market: int(most * WAD) for market, most in inventories.items() if most is not None
            },
            loss_hour_wad=_wad(limits.loss_hour),
            loss_day_wad=_wad(limits.loss_day),
            attempts_hour=limits.attempts_hour,
            backoff_s=limits.backoff_s,
            backoff_max_s=limits.backoff_max_s,
            solvency_day_wad=int(self.economics.solvency_day * WAD),
            in_flight=self.send.in_flight,
            foreign_stops=self.send.foreign == "stop",
            depth_minute_wad={feed: depth.most_wad for feed, depth in self.depths().items()},
            accounts_allow=frozenset(limits.accounts_allow),
            accounts_deny=frozenset(limits.accounts_deny),
            markets_allow=frozenset(limits.markets_allow),
            markets_deny=frozenset(limits.markets_deny),
            breakers=limits.breakers.bounds(),
            breaker_rest_s=limits.breakers.rest_s,
        )

    def depths(self) -> dict[FeedId, Depth]:
        """Return how deep markets are, by feed or token."""
        return {feed: each.depth() for feed, each in self.depth.items()}

    def prudence(self) -> Prudence:
        """Return what is asked of every step, whatever the protocol."""
        economics, pace = self.economics, self.pace
        return Prudence(
            depth=self.depths(),
            pace=Pace(pace.kind, int(pace.share * WAD), int(pace.full_fall * WAD)),
            rest=Rest(economics.rest_s, int(economics.rest_band * WAD), self.chain.block_time_s),
            at_worst_fee=economics.at_worst_fee,
            solvency_day_wad=int(economics.solvency_day * WAD),
            old_blocks=pace.old_blocks,
        )

    def sender_params(self, *, dry_run: bool) -> SenderParams:
        """Return the sender's parameters."""
        return SenderParams(
            dry_run=dry_run,
            fees=self.fee_params(),
            via=self.send.via,
            private_blocks=self.send.private_blocks,
            patience=Patience(self.send.raise_after_blocks, outbids=rules_of(self.chain.chain_id).outbids),
            levy=self._levy(),
        )

    def _levy(self) -> Levy | None:
        kinds: Mapping[str, type[OpStack | Arbitrum]] = {"op": OpStack, "arbitrum": Arbitrum}
        kind = kinds.get(self.chain.l1_fee)
        return kind(self.chain.l1_bytes) if kind else None

    def fee_params(self) -> FeeParams:
        """Return how much to bid."""
        return FeeParams(
            priority_fee_wei=int(self.limits.priority_fee_gwei * GWEI),
            max_fee_cap_wei=int(self.limits.max_fee_gwei * GWEI),
            tip_percentile=self.send.tip_percentile,
            max_priority_fee_wei=int(self.send.max_priority_fee_gwei * GWEI),
            full_blocks=self.send.full_blocks,
        )

    def journal_path(self, *, dry_run: bool) -> Path:
        """Return the journal's file; a dry run has one of its own beside it."""
        return _own(self.journal.path, dry_run=dry_run)

    def journal_place(self, *, dry_run: bool) -> Path | Shared:
        """Return the journal's file, or the schema of a shared one; a dry run has one of its own."""
        path, url = self.journal_path(dry_run=dry_run), self.journal.url
        if url is None:
            return path
        schema = self.journal.schema_name + ("_dry_run" if dry_run else "")
        return Shared(url.get_secret_value(), schema, path)

    def keep(self) -> Keep:
        """Return how much of the journal is kept."""
        return Keep(self.journal.keep_days, self.journal.keep_mb)

    def told(self) -> dict[str, Any]:
        """Return the settings as a tape keeps them: endpoints, which may hold a secret, are not told."""
        told: dict[str, Any] = _without_urls(self.model_dump(mode="json", by_alias=True))
        return told

    def shelf(self, *, dry_run: bool) -> pipeline.Shelf:
        """Return where the book lies on disk; a dry run has one of its own beside it."""
        return pipeline.Shelf(
            path=_own(self.mirror.snapshot, dry_run=dry_run),
            chain_id=self.chain.chain_id,
            deployment=name_of(self.deployment),
            every_blocks=self.mirror.snapshot_blocks,
        )

    def key_params(self) -> KeyParams:
        """Return where a key of this process is."""
        return KeyParams(self.wallet.keystore, self.wallet.passphrase_file, self.wallet.address)

    def signer_params(self) -> SignerParams:
        """Return whose transactions are signed, and by whom."""
        return SignerParams(self.key_params(), self.signer.elsewhere())

    @property
    def is_rehearsal(self) -> bool:
        """Whether the chain is one on which nothing has a worth."""
        return self.chain.chain_id in TEST_CHAINS

    def open_feed(self, *, dry_run: bool = False) -> AnyFeed:
        """Open the source of fast prices; nobody acts on invented ones where they could do harm."""
        if self.feed.kind == "generated" and not (dry_run or self.is_rehearsal):
            raise ConfigError(
                f'feed.kind = "generated" is for --dry-run and test chains, not for {self.chain.chain_id}'
            )
        return self.feed.open()

    def known_markets(self) -> tuple[str, ...]:
        """Return what an account may hang on: feeds that have a price, and the protocol's own markets."""
        return *sorted(self.feed.open().latest(0)), *self.deployment.own_markets

    def pipeline_params(self, *, dry_run: bool, page: int = pipeline.PAGE) -> pipeline.Params:
        """Return the parameters of the loop."""
        return pipeline.Params(
            block_time_s=self.chain.block_time_s,
            dry_run=dry_run,
            page=page,
            check_blocks=self.mirror.check_blocks,
            check_rows=self.mirror.check_rows,
            alarms=pipeline.AlarmParams(
                last=self.confirmation.last_alarms,
                least=self.confirmation.least_alarms,
                most_false=self.confirmation.most_false,
                rest_s=self.confirmation.chosen().timeout_s,
            ),
            depth=self.depths(),
            flow_fall=self.pace.flow_fall,
            batch=self.send.batch,
            climb=self.ladder.climb(),
            tide=self.ladder.book.book(),
            scope=self.deployment.scope,
            part=self.deployment.accounts,
            **self.trigger.model_dump(exclude={"announced"}),
        )

    def alert_params(self) -> AlertParams:
        """Return how many notices there may be."""
        return AlertParams(**self.alerts.model_dump())

    def desk_params(self) -> DeskParams:
        """Return the parameters of what decides."""
        return DeskParams(
            native_feed=self.economics.native_feed,
            deviation_bps=self.reports.deviation_bps,
            confirm=self.policies(),
            plan=plan.Params(
                min_profit_wad=int(self.economics.min_profit * WAD),
                upkeep=self.economics.upkeep,
                prudence=self.prudence(),
                block_time_s=self.chain.block_time_s,
            ),
        )

    def panel(self) -> Panel:
        """Return who on chain is asked besides the protocol's own oracle."""
        feeds = self.confirmation.witnesses.items()
        return Panel(
            {feed: tuple(each.called(name, feed) for name, each in some.items()) for feed, some in feeds}
        )

    def policies(self) -> Policies:
        """Return by which policy each feed is confirmed."""
        asked = self.confirmation
        feeds = {feed: each.chosen(asked) for feed, each in asked.feeds.items()}
        return Policies(asked.chosen(), feeds, self.chain.block_time_s)

    def lending_params(self) -> LendingDeskParams:
        """Return the parameters of what decides about loans."""
        closing = self.closing
        return LendingDeskParams(
            native_feed=self.economics.native_feed,
            confirm=self.policies(),
            plan=lending.Params(
                policy=closing.policy,
                target_health_wad=int(closing.target_health * WAD),
                slippage_wad=int(closing.slippage * WAD),
                min_profit_wad=int(self.economics.min_profit * WAD),
                flash=self._flash(),
                convert=self._conversion(),
                prudence=self.prudence(),
            ),
        )

    def _flash(self) -> lending.FlashParams | None:
        at = self.closing.liquidator
        return None if at is None else lending.FlashParams(at, self.closing.lender)

    def _conversion(self) -> lending.ConvertParams | None:
        router, into = self.exchange.router, self.closing.into
        if self.closing.seized == "keep" or router is None or into is None:
            return None
        return lending.ConvertParams(router, into)

    def perp_params(self) -> PerpDeskParams:
        """Return the parameters of what decides about Perpetual v2."""
        closing = self.closing
        return PerpDeskParams(
            native_feed=self.economics.native_feed,
            confirm=self.policies(),
            plan=perp.Params(
                policy=closing.policy,
                target_wad=int(closing.target_health * WAD),
                min_profit_wad=int(self.economics.min_profit * WAD),
                flash=self._flash(),
                prudence=self.prudence(),
            ),
        )

    def reporter_params(self) -> ReporterParams:
        """Return when the reporter posts; refuse observations that the next block would call future ones."""
        if self.reporter.lead_s > self.chain.block_time_s:
            bound = f"at most chain.block_time_s, {self.chain.block_time_s} s"
            raise ConfigError(f"reporter.lead_s must be {bound}, found {self.reporter.lead_s} s")
        block_time_s = self.chain.block_time_s
        patience_s = self.reporter.patience_s or block_time_s
        if patience_s < block_time_s:
            bound = f"at least chain.block_time_s, {block_time_s} s"
            raise ConfigError(f"reporter.patience_s must be {bound}, found {patience_s} s")
        when = self.reporter.model_dump(exclude={"listen", "peers", "patience_s", "closes", "closes_s"})
        return ReporterParams(block_time_s=block_time_s, patience_s=patience_s, **when)

    def steward_params(self) -> StewardParams:
        """Return when the steward posts."""
        return StewardParams(
            deviation_bps=self.steward.deviation_bps,
            heartbeat_s=self.steward.heartbeat_s,
            validity_s=self.steward.validity_s,
            most_arrays=self.steward.most_arrays,
            block_time_s=self.chain.block_time_s,
        )

    def margin_params(self) -> MarginParams:
        """Return how margins are estimated and published."""
        given = self.steward.margins.model_dump()
        policy = Policy(**{each.name: given.pop(each.name) for each in fields(Policy)})
        return MarginParams(policy=policy, block_time_s=self.chain.block_time_s, **given)

    def open_vols(self, feed: Feed) -> Vols:
        """Open the source of volatilities, estimated from ``feed`` where a half-life is given."""
        if self.steward.half_life_s is None:
            return FixedVols(self.steward.vols)
        return EwmaVols(feed, initial=self.steward.vols, half_life_s=self.steward.half_life_s)


def _wad(amount: Decimal | None) -> int | None:
    return None if amount is None else int(amount * WAD)


def _without_urls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_urls(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_urls(each) for each in value]
    is_url = isinstance(value, str) and "://" in value
    return f"{value.partition('://')[0]}://not-told" if is_url else value


def _own(path: Path, *, dry_run: bool) -> Path:
    return path.with_name(f"{path.stem}.dry-run{path.suffix}") if dry_run else path
