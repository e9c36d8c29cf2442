"""One file, read whole or refused with the place and the reason; never with the value."""

import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest

from keeper import pipeline
from keeper.chain.pool import Params as PoolParams
from keeper.config import Config, load
from keeper.config.confirmation import FIELDS
from keeper.config.feeds import GeneratedSource, LiveSource, RecordedSource
from keeper.confirm.policy import BALANCED, CAUTIOUS, FAST, Policies, Policy, tuned
from keeper.deployments import (
    AaveDeployment,
    HybridDeployment,
    MorphoDeployment,
    PerpDeployment,
    Section,
    VenusDeployment,
    presets,
)
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import Kind, Quote, Unknown
from keeper.errors import ConfigError
from keeper.execute import kms, web3signer
from keeper.execute.fees import FeeParams
from keeper.execute.keys import KeyParams
from keeper.execute.sender import Params as SenderParams
from keeper.execute.signers import SignerParams
from keeper.execute.stuck import Patience
from keeper.execute.transports import Via
from keeper.feeds import GeneratedFeed, LiveComposite
from keeper.journal.guard import Limits
from keeper.ladder import NEVER, Bounds
from keeper.lending.words import Lender
from keeper.oracles.aggregator import Aggregator, Delayed
from keeper.oracles.delayed import Queued
from keeper.plan import hybrid as plan
from keeper.plan.economics import Prudence
from keeper.plan.lending import FlashParams
from keeper.plan.rest import Rest
from keeper.reporter import Params as ReporterParams
from keeper.risk.scenarios import Option
from keeper.steward.arrays import EwmaVols, FixedVols
from keeper.steward.arrays import Params as StewardParams
from keeper.units import WAD, FeedId, UnixS

GWEI = 10**9
READER = "0x" + "Ab" * 20
SECRET = "4c" * 32
LEAST = f"""\
[chain]
http = "http://127.0.0.1:8545"
ws = "ws://127.0.0.1:8545"
chain_id = 31337

[deployment]
reader = "{READER}"

[feed]
path = "prices.csv"
"""
READER_LINE = f'reader = "{READER}"\n'
DOCUMENTED = Path(__file__).parents[3] / "docs" / "configuration.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
"""The whole file, then a section [deployment] for each of the other protocols."""


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("KEEPER_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keeper.toml"


def loaded(path: Path, text: str = LEAST) -> Config:
    path.write_text(text)
    return load(path)


def refusal(path: Path, text: str) -> str:
    """Return why a file is refused, in its one line."""
    with pytest.raises(ConfigError) as caught:
        loaded(path, text)
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    return said


# --- a good file ---------------------------------------------------------------------------------


def test_the_least_file_is_enough_and_the_rest_has_its_defaults(path: Path) -> None:
    config = loaded(path)
    assert config.chain.chain_id == 31337
    assert config.deployment.reader == READER.lower()
    assert config.limits_for_guard() == Limits(kill_file=path.parent / "keeper.halt")
    assert config.sender_params(dry_run=False) == SenderParams()
    assert config.key_params() == KeyParams()
    assert config.reporter_params() == ReporterParams()
    assert config.steward_params() == StewardParams()
    assert config.pipeline_params(dry_run=False) == pipeline.Params()
    assert config.desk_params() == DeskParams(native_feed="ETH/USD")


def test_a_deployment_is_known_by_its_reader_or_else_by_its_clearing(path: Path) -> None:
    by_reader, by_clearing = loaded(path), loaded(path, LEAST.replace("reader", "clearing"))
    assert by_reader.deployment.setting == "deployment.reader"
    assert by_clearing.deployment.setting == "deployment.clearing"
    for config in (by_reader, by_clearing):
        assert config.deployment.address == READER.lower()
        assert config.shelf(dry_run=False).deployment == READER.lower()


def test_relative_paths_are_taken_from_the_folder_of_the_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    path.write_text(LEAST + '[wallet]\nkeystore = "wallet.json"\npassphrase_file = "/run/passphrase"\n')
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load(Path("..") / path.name)
    assert isinstance(config.feed, RecordedSource)
    assert config.feed.path == tmp_path / "prices.csv"
    assert config.key_params() == KeyParams(tmp_path / "wallet.json", Path("/run/passphrase"))
    assert config.journal.path == tmp_path / "journal.sqlite"
    named = loaded(path, LEAST + '[journal]\npath = "cases/journal.sqlite"\n')
    assert named.journal.path == tmp_path / "cases" / "journal.sqlite"


def test_every_setting_is_documented_with_its_default(path: Path) -> None:
    block, *_ = BLOCKS
    documented = tomllib.loads(block)
    settings = {
        "deployment": set(HybridDeployment.model_fields),
        "feed": set(RecordedSource.model_fields),
    } | {
        section: set(field.annotation.model_fields)
        for section, field in Config.model_fields.items()
        if field.annotation is not None and hasattr(field.annotation, "model_fields")
    }
    optional = {
        "chain": {"requests_s"},
        "confirmation": {*FIELDS},
        "deployment": {"clearing"},
        "closing": {"liquidator", "into"},
        "exchange": {"uniswap_v3", "uniswap_v2", "router"},
        "health": {"port"},
        "send": {"relay", "hints"},
        "limits": {"spend_hour_native", "notional_hour", "loss_hour", "loss_day"},
        "signer": {"url", "ca_file", "cert_file", "key_file", "key_id", "region", "endpoint"},
        "wallet": {"address", "keystore", "passphrase_file"},
        "trigger": {"announced"},
        "journal": {"url"},
        "steward": {"half_life_s"},
        "reporter": {"patience_s", "listen", "closes"},
    }
    shown = {section: set(values) | optional.get(section, set()) for section, values in documented.items()}
    assert shown == settings
    found, least = loaded(path, block), loaded(path)
    for section in settings.keys() - {"chain", "deployment"}:
        assert getattr(found, section) == getattr(least, section)


FOREIGN = (AaveDeployment, MorphoDeployment, VenusDeployment, PerpDeployment)
POOL = "0x" + "50" * 20


def of_protocol(deployment: str, chain_id: int = 31337) -> str:
    """Return the least file, with another deployment."""
    text = LEAST.replace("31337", str(chain_id))
    return text.replace(f'reader = "{READER}"', deployment)


@pytest.mark.parametrize("kind", FOREIGN)
def test_every_other_protocol_has_a_section_that_names_all_its_settings(
    path: Path, kind: type[Section]
) -> None:
    [protocol] = get_args(kind.model_fields["protocol"].annotation)
    [block] = [block for block in BLOCKS[1:] if f'protocol = "{protocol}"' in block]
    assert set(re.findall(r"^(?:# )?(\w+) = ", block, re.MULTILINE)) == {*kind.model_fields} - {"chain_id"}
    assert isinstance(loaded(path, LEAST.replace("[deployment]\n" + READER_LINE, block)).deployment, kind)


@pytest.mark.parametrize("protocol", ["aave_v3", "morpho_blue"])
@pytest.mark.parametrize("chain", ["ethereum", "base", "arbitrum"])
def test_a_preset_names_the_contracts_of_a_public_deployment(path: Path, protocol: str, chain: str) -> None:
    markets = f'markets = ["0x{"01" * 32}"]' if protocol == "morpho_blue" else ""
    known = presets(protocol)[chain]
    text = of_protocol(f'protocol = "{protocol}"\npreset = "{chain}"\n{markets}', known["chain_id"])
    deployment = loaded(path, text).deployment
    assert {name: getattr(deployment, name) for name in known} == known
    assert deployment.address == known["pool" if protocol == "aave_v3" else "morpho"]
    assert deployment.setting in {"deployment.pool", "deployment.morpho"}


def test_perpetual_takes_over_with_borrowed_margin_where_a_liquidator_is_named(path: Path) -> None:
    named = of_protocol(
        f'protocol = "perp_curie"\nclearing_house = "{POOL}"\n[deployment.markets]\n"{POOL}" = ""'
    )
    closing = f'[closing]\nliquidator = "{POOL}"\nlender = "aave"\n'
    assert loaded(path, named).perp_params().plan.flash is None
    assert loaded(path, named + closing).perp_params().plan.flash == FlashParams(POOL, Lender.AAVE)
    with pytest.raises(ConfigError, match=r'on Perpetual closing\.lender is "morpho" or "aave"'):
        loaded(path, named + closing.replace("aave", "uniswap_v3"))


def test_what_is_given_outranks_the_preset(path: Path) -> None:
    text = of_protocol(f'protocol = "aave_v3"\npreset = "base"\npool = "{POOL}"', 8453)
    assert loaded(path, text).deployment.address == POOL


@pytest.mark.parametrize(
    ("deployment", "why"),
    [
        ('protocol = "aave_v3"\npreset = "base"', "the preset is of chain 8453, chain.chain_id is 31337"),
        ('protocol = "aave_v3"\npreset = "mars"', "no preset mars: expected one of ethereum, base, arbitrum"),
        ('protocol = "compound_v2"\npreset = "bnb"', "no preset bnb: this protocol has none"),
        ('protocol = "aave_v3"', "deployment.pool: is missing"),
        (
            'protocol = "morpho_blue"\nmarkets = []',
            "deployment.markets: expected at least 1 of them, found 0",
        ),
        ('protocol = "morpho_blue"\nmarkets = ["0x1"]', "deployment.markets.0: expected an id"),
        (
            'protocol = "aave_v3"\ncliff = 1',
            "deployment.cliff: there is no such setting; there are chain_id, feeds",
        ),
    ],
)
def test_another_deployment_with_a_mistake_is_refused_with_its_place(
    path: Path, deployment: str, why: str
) -> None:
    assert why in refusal(path, of_protocol(deployment))


class NoFeed:
    def latest(self, now_s: UnixS) -> Mapping[FeedId, Quote | Unknown]:
        del now_s
        return {}


# --- what each room gets -------------------------------------------------------------------------

WHOLE = """
[wallet]
sub_account = 7

[limits]
halted = true
spend_day_native = "0.123456789012345678"
notional_block = "1234567.89"
attempts_hour = 3
priority_fee_gwei = "0.5"
max_fee_gwei = 77

[economics]
min_profit = "-1.5"
upkeep = false
native_feed = "BTC/USD"

[confirmation]
max_divergence = "0.25"
min_blocks = 4

[reporter]
deviation_bps = 1
heartbeat_s = 2
validity_s = 3
lead_s = 1
confidence_bps = 5

[steward]
deviation_bps = 50
heartbeat_s = 60
validity_s = 40
most_arrays = 8
half_life_s = 3600
vols = { "BTC/USD" = 0.75 }
"""


@pytest.fixture
def whole(path: Path) -> Config:
    text = LEAST.replace("chain_id = 31337", "chain_id = 31337\nblock_time_s = 2")
    text = text.replace('path = "prices.csv"', 'path = "prices.csv"\nmax_age_s = 9')
    (path.parent / "prices.csv").write_text("timestamp_s,feed,price\n100,ETH/USD,3000\n")
    return loaded(path, text + WHOLE)


def test_the_guard_gets_exact_limits_in_its_own_units(whole: Config, path: Path) -> None:
    assert whole.limits_for_guard() == Limits(
        halted=True,
        kill_file=path.parent / "keeper.halt",
        spend_day_wei=123_456_789_012_345_678,
        max_fee_wei=77 * GWEI,
        notional_block_wad=1_234_567_890 * 10**15,
        attempts_hour=3,
    )


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_sender_gets_its_fees(whole: Config, dry_run: bool) -> None:
    fees = FeeParams(priority_fee_wei=GWEI // 2, max_fee_cap_wei=77 * GWEI)
    assert whole.sender_params(dry_run=dry_run) == SenderParams(dry_run=dry_run, fees=fees)
    assert whole.fee_params() == fees


@pytest.mark.parametrize(("chain_id", "outbids"), [(1, True), (42161, False)])
def test_where_no_higher_bid_is_included_sooner_none_is_made(
    path: Path, chain_id: int, outbids: bool
) -> None:
    config = loaded(path, LEAST.replace("31337", str(chain_id)))
    assert config.sender_params(dry_run=False).patience == Patience(2, outbids=outbids)


RELAY = 'relay = "https://relay.example"'


def test_the_sender_gets_its_transports_in_their_order(path: Path) -> None:
    asked = f'[send]\nvia = ["bundle", "private", "public"]\nprivate_blocks = 2\n{RELAY}'
    params = loaded(path, LEAST + asked).sender_params(dry_run=False)
    assert (params.via, params.private_blocks) == ((Via.BUNDLE, Via.PRIVATE, Via.PUBLIC), 2)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('via = ["bundle", "public"]', "need send.relay"),
        (f'via = ["auction", "public"]\n{RELAY}', "auction needs send.hints and send.oracles"),
        (
            f'via = ["public", "auction"]\n{RELAY}\nhints = "https://h.example"\noracles = "0x{"0a" * 20}"',
            "cannot end with auction",
        ),
        (f'via = ["public", "public"]\n{RELAY}', "names each transport once"),
        ("via = []", "expected at least 1 of them, found 0"),
        ('via = ["pigeon"]', "'public', 'bundle', 'private' or 'auction'"),
        ("private_blocks = 26", "expected at most 25, found 26"),
        ('relay = "ws://relay.example"', "expected text that matches ^https?://"),
    ],
)
def test_transports_that_could_not_work_are_refused(path: Path, lines: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"send.*{re.escape(why)}"):
        loaded(path, f"{LEAST}[send]\n{lines}")


def test_a_dry_run_has_a_journal_of_its_own(whole: Config, tmp_path: Path) -> None:
    assert whole.journal_path(dry_run=False) == tmp_path / "journal.sqlite"
    assert whole.journal_path(dry_run=True) == tmp_path / "journal.dry-run.sqlite"


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_pipeline_gets_what_the_loop_needs(whole: Config, dry_run: bool) -> None:
    assert whole.pipeline_params(dry_run=dry_run) == pipeline.Params(block_time_s=2, dry_run=dry_run)


def test_the_desk_gets_the_parameters_of_every_stage(whole: Config) -> None:
    assert whole.desk_params() == DeskParams(
        native_feed="BTC/USD",
        confirm=Policies(tuned(BALANCED, max_divergence_wad=WAD // 4, min_blocks=4), block_time_s=2),
        plan=plan.Params(
            min_profit_wad=-3 * WAD // 2,
            upkeep=False,
            block_time_s=2,
            prudence=Prudence(rest=Rest(block_time_s=2)),
        ),
    )


def test_the_reporter_gets_when_to_post(whole: Config) -> None:
    assert whole.reporter_params() == ReporterParams(
        deviation_bps=1, heartbeat_s=2, validity_s=3, lead_s=1, confidence_bps=5, block_time_s=2, patience_s=2
    )
    assert whole.wallet.sub_account == 7


def test_the_steward_gets_when_to_post_and_its_volatilities(path: Path, whole: Config) -> None:
    assert whole.steward_params() == StewardParams(
        deviation_bps=50, heartbeat_s=60, validity_s=40, most_arrays=8, block_time_s=2
    )
    option = Option(4, Kind.PUT, WAD, 10**10)
    estimated = whole.open_vols(NoFeed())
    assert isinstance(estimated, EwmaVols)
    assert estimated.vol("BTC/USD", option, 0) == 0.75
    fixed = loaded(path, LEAST + '[steward.vols]\n"BTC/USD" = 0.5\n').open_vols(NoFeed())
    assert isinstance(fixed, FixedVols)
    assert fixed.vol("BTC/USD", option, 0) == 0.5


def test_each_reporter_has_its_turn_for_a_block_at_least(path: Path) -> None:
    slow = LEAST.replace("chain_id = 31337", "chain_id = 31337\nblock_time_s = 20")
    assert loaded(path, slow).reporter_params().patience_s == 20
    assert loaded(path, slow + "\n[reporter]\npatience_s = 40\n").reporter_params().patience_s == 40
    config = loaded(path, slow + "\n[reporter]\npatience_s = 19\n")
    with pytest.raises(ConfigError, match=r"patience_s must be at least chain\.block_time_s, 20 s, found 19"):
        config.reporter_params()


@pytest.mark.parametrize(
    "line",
    [
        'peers = ["https://user:word@b.example"]',
        'peers = ["https://b.example/?key=1"]',
        'listen = "9478"',
        'listen = "localhost"',
        'listen = "a b:1"',
        'peers = ["b.example:9478"]',
    ],
)
def test_where_reports_are_served_and_asked_for_is_checked(path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"reporter\.(listen|peers)"):
        loaded(path, f"{LEAST}\n[reporter]\n{line}\n")


def test_only_a_protocol_whose_contract_has_batches_takes_them(path: Path) -> None:
    lending = LEAST.replace(f'reader = "{READER}"', f'protocol = "aave_v3"\npool = "{READER}"')
    with pytest.raises(ConfigError, match=r"send\.batch: no contract of other protocols than hybrid"):
        loaded(path, f"{lending}\n[send]\nbatch = 2\n")
    assert loaded(path, f"{lending}\n[send]\nbatch = 1\n").send.batch == 1
    found = loaded(path, f"{LEAST}\n[send]\nbatch = 16\n")
    assert found.pipeline_params(dry_run=False).batch == 16


def test_other_protocols_take_no_reports(path: Path) -> None:
    lending = LEAST.replace(f'reader = "{READER}"', f'protocol = "aave_v3"\npool = "{READER}"')
    with pytest.raises(ConfigError, match="other protocols than hybrid take no reports"):
        loaded(path, f'{lending}\n[reports]\nendpoints = ["http://127.0.0.1:1"]\n')


def test_a_reporter_that_looks_beyond_the_next_block_is_refused(path: Path) -> None:
    config = loaded(path, LEAST.replace("chain_id = 31337", "chain_id = 31337\nblock_time_s = 9"))
    with pytest.raises(ConfigError, match=r"lead_s must be at most chain\.block_time_s, 9 s, found 10 s"):
        config.reporter_params()


def test_the_feed_is_opened_with_its_bound(whole: Config) -> None:
    feed = whole.open_feed()
    assert feed.latest(109) == {"ETH/USD": Quote("ETH/USD", 3_000 * WAD, 100)}
    assert not isinstance(feed.latest(110)["ETH/USD"], Quote)


FEED = '[feed]\npath = "prices.csv"\n'
LIVE_BLOCK, GENERATED_BLOCK = (
    next(block for block in BLOCKS if f'kind = "{kind}"' in block) for kind in ("live", "generated")
)


def with_feed(feed: str, chain_id: int = 31337) -> str:
    assert FEED in LEAST
    return LEAST.replace("31337", str(chain_id)).replace(FEED, feed)


@pytest.mark.parametrize(("block", "kind"), [(LIVE_BLOCK, LiveSource), (GENERATED_BLOCK, GeneratedSource)])
def test_every_other_feed_has_a_section_that_names_all_its_settings_with_their_defaults(
    path: Path, block: str, kind: type[Section]
) -> None:
    assert set(tomllib.loads(block)["feed"]) == set(kind.model_fields)
    feed = loaded(path, with_feed(block)).feed
    assert isinstance(feed, kind)
    for name, field in kind.model_fields.items():
        assert field.is_required() or getattr(feed, name) == field.default, name


def test_a_live_feed_is_opened_with_its_sources_and_its_bounds(path: Path) -> None:
    feed = loaded(path, with_feed(LIVE_BLOCK.replace("min_venues = 2", "min_venues = 1"))).open_feed()
    assert isinstance(feed, LiveComposite)
    latest = feed.latest(0)
    silent = "coinbase: not connected yet; kraken: not connected yet"
    assert latest["USDT/USD"] == Unknown("USDT/USD", f"0 of 2 venues agree, 1 needed; {silent}")
    assert isinstance(latest["ETH/USD"], Unknown)
    assert latest["ETH/USD"].why.count("not connected yet") == 5


def test_an_endpoint_with_a_key_comes_from_the_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPER_FEED__URLS__PYTH", f"https://hermes.example/{SECRET}")
    feed = loaded(path, with_feed(LIVE_BLOCK)).feed
    assert isinstance(feed, LiveSource)
    assert feed.urls.pyth == f"https://hermes.example/{SECRET}"
    monkeypatch.setenv("KEEPER_FEED__URLS__PYTH", f"wss://{SECRET}")
    assert SECRET not in refusal(path, with_feed(LIVE_BLOCK))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            'in = "USDT/USD"',
            'at = "USDT/USD"',
            "feed.sources.ETH/USD.binance.at: there is no such setting; there are in, symbol",
        ),
        (
            "coinbase =",
            "coinbace =",
            "feed.sources.ETH/USD.coinbace: there is no such setting; there are binance, coin",
        ),
        ("outlier_bps = 100", "outlier_bps = 0", "feed.outlier_bps: expected at least 1, found 0"),
        ("# binance = ", "bitmex = ", "feed.urls.bitmex: there is no such setting; there are binance, "),
        ('# pyth = "https', 'pyth = "wss', "feed.urls.pyth: expected text that matches ^https?://"),
        ('# pyth = "https://', 'pyth = "https://[', "feed.urls.pyth: a URL needs a host"),
        ('# okx = "wss://...', f'okx = "wss://h:{SECRET}', "feed.urls.okx: a URL needs a host"),
    ],
)
def test_a_live_feed_with_a_mistake_is_refused_with_its_place(
    path: Path, old: str, new: str, why: str
) -> None:
    assert old in LIVE_BLOCK
    assert why in refusal(path, with_feed(LIVE_BLOCK.replace(old, new, 1)))


def test_a_price_of_nothing_is_refused(path: Path) -> None:
    tiny = GENERATED_BLOCK.replace('"3000"', '"1e-400"')
    assert "feed.start.ETH/USD: expected at least 1E-8, found '1e-400'" in refusal(path, with_feed(tiny))


def test_invented_prices_are_for_dry_runs_and_test_chains_only(path: Path) -> None:
    assert isinstance(loaded(path, with_feed(GENERATED_BLOCK)).open_feed(), GeneratedFeed)
    config = loaded(path, with_feed(GENERATED_BLOCK, chain_id=1))
    assert isinstance(config.open_feed(dry_run=True), GeneratedFeed)
    with pytest.raises(ConfigError, match=r'feed\.kind = "generated" is for --dry-run and test chains, not'):
        config.open_feed()


def test_a_missing_price_file_is_a_configuration_error(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the price file .*prices\.csv cannot be read"):
        loaded(path).open_feed()


# --- bad files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^the configuration {re.escape(str(tmp_path / name))} cannot be read: "
    ):
        load(tmp_path / name)


@pytest.mark.parametrize("text", [b"[chain\n", b"a = \n", b"a = 1\na = 2\n", b"\xff\xfe", b"a = 1\x00"])
def test_a_file_that_is_no_toml_is_refused(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"is not valid TOML: [^\n]+$"):
        load(path)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("chain_id = 31337", "", "chain.chain_id: is missing"),
        ("[feed]\n", "[feeed]\n", "feed: is missing; feeed: there is no such"),
        ("chain_id", "chain_Id", "chain.chain_id: is missing; chain.chain_Id: there is no"),
        ("chain_id = 31337", "chain_id = inf", "chain.chain_id: expected a finite number, found inf"),
        ("chain_id = 31337", "chain_id = 0", "chain.chain_id: expected more than 0, found 0"),
        ("chain_id = 31337", 'chain_id = "x"', "chain.chain_id: expected a whole number, found 'x'"),
        ('"http://', '"ws://', "chain.http.0: "),
        ('"ws://', '"http://', "chain.ws.0: "),
        (READER, READER[:-1], "deployment.reader: expected an address: 0x and 40"),
        (READER, "0x" + "g" * 40, "deployment.reader: expected an address"),
        (f'"{READER}"', "7", "deployment.reader: expected text"),
        (f'reader = "{READER}"', "", "deployment: expected either reader, or clearing where no"),
        ("[feed]", f'clearing = "{READER}"\n[feed]', "deployment: expected either reader"),
        ("reader", "clearing_", "deployment.clearing_: there is no such setting; there are clearing, from_b"),
        ("[feed]", 'protocol = "cliff"\n[feed]', "deployment: protocol should be 'hybrid', 'aave_v3', "),
        ("[feed]\n", '[feed]\nkind = "live"\n', "feed.sources: is missing; feed.path: there is no"),
        ("[feed]\n", '[feed]\nkind = "wild"\n', "feed: kind should be 'recorded', 'live' or 'generated'"),
        ('path = "prices.csv"', "path = 7", "feed.path: "),
        ("[feed]\n", "[[feed]]\n", "feed: kind should be 'recorded', 'live' or 'generated'"),
        ("[deployment]\n", "[[deployment]]\n", "deployment: protocol should be 'hybrid', "),
        ("127.0.0.1:8545", "[::1", "chain.http.0: a URL needs a host"),
        ("127.0.0.1:8545", "", "chain.http.0: a URL needs a host"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_its_place(path: Path, old: str, new: str, place: str) -> None:
    assert old in LEAST
    assert place in refusal(path, LEAST.replace(old, new, 1))


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("journal", "path = 3"),
        ("wallet", "sub_account = -1"),
        ("wallet", f"sub_account = {2**96}"),
        ("limits", 'spend_day_native = "-0.1"'),
        ("limits", "spend_day_native = nan"),
        ("limits", "spend_day_native = inf"),
        ("limits", 'spend_day_native = "much"'),
        ("limits", "notional_block = -1"),
        ("limits", "attempts_hour = 0"),
        ("limits", "attempts_hour = 1.5"),
        ("limits", "priority_fee_gwei = -1"),
        ("limits", "priority_fee_gwei = 10001"),
        ("limits", "max_fee_gwei = 0"),
        ("limits", 'max_fee_gwei = "0.0001"'),
        ("limits", "max_fee_gwei = 1000001"),
        ("limits", "halted = 7"),
        ("limits", "spend_day = 1"),
        ("economics", "min_profit = nan"),
        ("confirmation", 'max_divergence = "0.31"'),
        ("confirmation", "max_divergence = 0"),
        ("confirmation", "min_blocks = 0"),
        ("confirmation", "min_blocks = 101"),
        ("reporter", "deviation_bps = -1"),
        ("reporter", "heartbeat_s = 0"),
        ("reporter", "validity_s = -30"),
        ("reporter", "lead_s = -1"),
        ("reporter", "confidence_bps = 101"),
        ("steward", "deviation_bps = 0"),
        ("steward", "deviation_bps = 201"),
        ("steward", "heartbeat_s = 600"),
        ("steward", "validity_s = 0"),
        ("steward", "most_arrays = 0"),
        ("steward", "half_life_s = 0"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_place(path: Path, section: str, setting: str) -> None:
    name = setting.partition(" = ")[0]
    assert f"cannot be used: {section}.{name}: " in refusal(path, f"{LEAST}[{section}]\n{setting}\n")


@pytest.mark.parametrize("vol", ["0", "5.1", "nan", "-0.5"])
def test_a_volatility_out_of_bounds_is_refused_with_its_feed(path: Path, vol: str) -> None:
    said = refusal(path, f'{LEAST}[steward.vols]\n"BTC/USD" = {vol}\n')
    assert "cannot be used: steward.vols.BTC/USD: " in said


def test_every_mistake_is_named_at_once(path: Path) -> None:
    said = refusal(path, LEAST + "[limits]\nattempts_hour = 0\nmax_fee_gwei = -1\n")
    assert "limits.attempts_hour: " in said
    assert "limits.max_fee_gwei: " in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"http://127.0.0.1:8545"', f'"{SECRET}"'),
        ('"http://127.0.0.1:8545"', f"https://user:{SECRET}@host"),
        ('"http://127.0.0.1:8545"', f"0x{SECRET}"),
        ('"ws://127.0.0.1:8545"', f'"https://host/{SECRET}"'),
        ("31337", f'"{SECRET}"'),
        ("31337", f"-0x{SECRET}"),
        ("31337", f'"{SECRET}'),
        (READER, f"0x{SECRET}"),
        ("[feed]\n", f'[feed]\nkind = "{SECRET}"\n'),
        ("[feed]\n", f'[feed]\nmax_age_s = "{SECRET}"\n'),
        ("[feed]\n", f'[wallet]\nprivate_key = "0x{SECRET}"\n[feed]\n'),
        ("[feed]\n", f"[wallet]\nprivate_key = 0x{SECRET}\n[feed]\n"),
        ("[feed]\n", f'[wallet]\nkeystore = ["{SECRET}"]\n[feed]\n'),
        ("[feed]\n", f'[limits]\nspend_day_native = "{SECRET}"\n[feed]\n'),
        ("[feed]\n", f'[economics]\nupkeep = "{SECRET}"\n[feed]\n'),
    ],
)
def test_a_refusal_never_shows_a_value(path: Path, old: str, new: str) -> None:
    said = refusal(path, LEAST.replace(old, new, 1))
    assert SECRET not in said
    assert str(int(SECRET, 16)) not in said


# --- the environment -----------------------------------------------------------------------------


def test_the_environment_outranks_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_CHAIN__HTTP", "https://node.example/key")
    monkeypatch.setenv("KEEPER_LIMITS__SPEND_DAY_NATIVE", "0.25")
    monkeypatch.setenv("KEEPER_WALLET__KEYSTORE", "wallet.json")
    config = loaded(path)
    assert config.chain.http == ("https://node.example/key",)
    assert config.chain.ws == ("ws://127.0.0.1:8545",)
    assert config.limits.spend_day_native == Decimal("0.25")
    assert config.wallet.keystore == Path("wallet.json")


def test_the_environment_may_hold_what_the_file_lacks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_CHAIN__CHAIN_ID", "5")
    assert loaded(path, LEAST.replace("chain_id = 31337\n", "")).chain.chain_id == 5


def test_an_empty_variable_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_CHAIN__HTTP", "")
    assert loaded(path).chain.http == ("http://127.0.0.1:8545",)


def test_several_endpoints_are_a_list_in_the_file_and_have_commas_in_the_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = ("https://a.example/key", "https://b.example/key")
    several = LEAST.replace('http = "http://127.0.0.1:8545"', f"http = {list(two)}")
    assert loaded(path, several).chain.http == two
    monkeypatch.setenv("KEEPER_CHAIN__HTTP", ", ".join(two))
    monkeypatch.setenv("KEEPER_CHAIN__WS", "wss://a.example/key")
    chain = loaded(path).chain
    assert (chain.http, chain.ws) == (two, ("wss://a.example/key",))
    monkeypatch.setenv("KEEPER_CHAIN__HTTP", f"{two[0]},")
    with pytest.raises(ConfigError, match=r"chain\.http\.1: "):
        load(path)


def test_the_urls_of_reporters_have_commas_in_the_environment_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPER_REPORTER__PEERS", "https://b.example, https://c.example")
    monkeypatch.setenv("KEEPER_REPORTS__ENDPOINTS", "https://a.example")
    config = loaded(path)
    assert config.reporter.peers == ("https://b.example", "https://c.example")
    assert config.reports.endpoints == ("https://a.example",)


def test_transactions_go_over_a_socket_where_the_configuration_says_so(path: Path) -> None:
    assert loaded(path).handing() is None
    by_socket = LEAST.replace("chain_id = 31337", 'chain_id = 31337\nhand_over = "ws"')
    handing = loaded(path, by_socket).handing()
    assert handing is not None
    assert handing.endpoint == loaded(path).chain.ws[0]
    assert "chain.hand_over" in refusal(path, by_socket.replace('"ws"', '"post"'))


def test_the_pool_is_as_patient_as_the_configuration_says(path: Path) -> None:
    settings = "chain_id = 31337\nrequests_s = 25\nhedge_ms = 100\nbroadcast = true\nblock_time_s = 2"
    config = loaded(path, LEAST.replace("chain_id = 31337", settings))
    assert config.pool_params() == PoolParams(requests_s=25, hedge_s=0.1, broadcast=True, survey_s=2)
    assert config.reader_params().block_time_s == 2
    assert "chain.requests_s" in refusal(
        path, LEAST.replace("chain_id = 31337", settings.replace("25", "0.5"))
    )


def test_a_signer_elsewhere_is_known_by_its_kind(path: Path, tmp_path: Path) -> None:
    assert loaded(path).signer_params() == SignerParams()
    wallet = f'{LEAST}[wallet]\naddress = "{READER}"\n[signer]\n'
    tls = 'ca_file = "ca.pem"\ncert_file = "keeper.pem"\nkey_file = "/run/key"\n'
    url = "https://signer.example:9000"
    found = loaded(path, f'{wallet}kind = "web3signer"\nurl = "{url}"\ntimeout_ms = 250\n{tls}')
    files = (tmp_path / "ca.pem", tmp_path / "keeper.pem", Path("/run/key"))
    there = web3signer.Params(url, 0.25, *files)
    assert found.signer_params() == SignerParams(KeyParams(address=READER.lower()), there)
    assert Config(**found.told()).signer.url == "https://not-told"
    found = loaded(path, f'{wallet}kind = "aws_kms"\nkey_id = "alias/keeper"\nregion = "eu-west-1"\n')
    assert found.signer_params().elsewhere == kms.Params("alias/keeper", "eu-west-1")


@pytest.mark.parametrize(
    ("signer", "why"),
    [
        ('kind = "hsm"', "signer.kind: "),
        ('kind = "web3signer"', "url is needed for the kind web3signer"),
        ('kind = "aws_kms"', "key_id is needed for the kind aws_kms"),
        ('url = "https://a"', "url: not of the kind local"),
        ('kind = "aws_kms"\nkey_id = "a"\nca_file = "b"', "ca_file: not of the kind aws_kms"),
        ('kind = "web3signer"\nurl = "https://a"\nkey_file = "b"', "cert_file and key_file belong together"),
        (f'kind = "web3signer"\nurl = "https://user:{SECRET}@a"', "signer.url: "),
        (f'kind = "web3signer"\nurl = "https://a/?token={SECRET}"', "signer.url: "),
        ("timeout_ms = 1", "signer.timeout_ms: "),
    ],
)
def test_a_signer_that_is_not_whole_is_refused(path: Path, signer: str, why: str) -> None:
    said = refusal(path, f"{LEAST}[signer]\n{signer}\n")
    assert why in said
    assert SECRET not in said


def test_keys_in_the_environment_are_no_settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_PRIVATE_KEY", SECRET)
    monkeypatch.setenv("KEEPER_REPORTER_KEYS", SECRET)
    assert SECRET not in repr(loaded(path))


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        ("KEEPER_CHAIN__HTTP", f"ftp://{SECRET}", "chain.http.0: "),
        ("KEEPER_CHAIN__HTPP", f"http://{SECRET}", "chain.htpp: there is no such setting"),
        ("KEEPER_CHIAN__HTTP", f"http://{SECRET}", "KEEPER_CHIAN__HTTP is of no section"),
        ("KEEPER_CHAIN", SECRET, '"chain"'),
        ("KEEPER_FEED", SECRET, "feed: kind should be"),
        ("KEEPER_REPORTER__PEERS", f"http://h:{SECRET}", "reporter.peers.0: a URL needs a host"),
        ("KEEPER_REPORTS__ENDPOINTS", f"http://[{SECRET}", "reports.endpoints.0: a URL"),
        ("KEEPER_LIMITS", f'["{SECRET}"]', "limits: "),
    ],
)
def test_a_mistake_in_the_environment_is_refused_without_the_value(
    path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, place: str
) -> None:
    monkeypatch.setenv(variable, value)
    path.write_text(LEAST)
    with pytest.raises(ConfigError) as caught:
        load(path)
    said = str(caught.value)
    assert place in said
    assert SECRET not in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[limits]\nhalted = 3", "limits.halted: expected true or false, found 3"),
        ("[limits]\nmax_fee_gwei = 0", "limits.max_fee_gwei: expected at least 0.001, found 0"),
        (
            '[signer]\nkind = "paper"',
            "signer.kind: expected 'local', 'web3signer' or 'aws_kms', found 'paper'",
        ),
        (f'[mirror]\ncheck_rows = "{SECRET}"', "mirror.check_rows: expected a whole number"),
        (
            f'[wallet]\nprivate_key = "{SECRET}"',
            "wallet.private_key: there is no such setting; there are addr",
        ),
        (f'[signer]\nurl = "{SECRET}"', "signer.url: expected text that matches ^https?"),
        (f'mirror = "{SECRET}"', "mirror: expected a section"),
        ('[limits]\nkill_file = "a\\u0000b"', "limits.kill_file: a path cannot hold the character NUL"),
        ('[wallet]\nkeystore = "\\u0000"', "wallet.keystore: a path cannot hold the character NUL"),
    ],
)
def test_a_mistake_is_told_with_what_is_expected_and_what_was_found_but_for_secrets(
    path: Path, lines: str, said: str
) -> None:
    refused = refusal(path, f"{lines}\n{LEAST}")
    assert said in refused
    assert SECRET not in refused


def test_no_setting_of_any_section_is_told_with_a_value_that_is_long(path: Path) -> None:
    number = int("7" * 77)
    refused = refusal(path, LEAST.replace("chain_id = 31337", f"chain_id = {-number}"))
    assert "chain.chain_id: expected" in refused
    assert str(number) not in refused


def test_settings_do_not_change_once_they_are_read(path: Path) -> None:
    config: Any = loaded(path)
    with pytest.raises(ValueError, match="frozen"):
        config.chain.chain_id = 1


# --- confirmation --------------------------------------------------------------------------------

ONE = "0x" + "00" * 19 + "01"


def test_a_policy_is_a_preset_with_bounds_of_its_own(path: Path) -> None:
    told = '[confirmation]\npolicy = "fast"\nmin_delay_s = 5\nagree = "all"\ntrust_chain_after_s = "never"\n'
    policy = loaded(path, LEAST + told).policies().default
    own = {"agree": None, "min_delay_s": 5, "trust_chain_after_s": None}
    assert policy == tuned(FAST, **own)
    assert policy.name == "fast (own agree, min_delay_s, trust_chain_after_s)"
    assert loaded(path).policies() == Policies()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("min_delay_s = 60", tuned(FAST, min_blocks=9, min_delay_s=60)),
        ('policy = "fast"', tuned(FAST, min_blocks=9)),
        ('policy = "cautious"', CAUTIOUS),
        ('policy = "cautious"\nmin_blocks = 5', tuned(CAUTIOUS, min_blocks=5)),
    ],
)
def test_a_feed_has_what_all_have_unless_it_names_another_preset(
    path: Path, told: str, expected: Policy
) -> None:
    common = '[confirmation]\npolicy = "fast"\nmin_blocks = 9\n'
    config = loaded(path, f'{LEAST}{common}[confirmation.feeds."ETH/USD"]\n{told}\n')
    assert config.policies().feeds == {"ETH/USD": expected}


def test_witnesses_are_named_by_feed(path: Path) -> None:
    [block] = [each for each in BLOCKS if "[confirmation.witnesses" in each]
    config = loaded(path, LEAST + block)
    link, late, pool = config.panel().feeds["LINK/USD"]
    assert link == Aggregator("chainlink", ONE, 3_600, WAD // 200)
    assert late == Delayed("late", ONE, 600, 3_600, WAD // 200)
    assert (pool.witness, getattr(pool, "window_s", None)) == ("pool", 1_800)
    queue = loaded(path, LEAST + block.replace("delay_s = 600 ", "")).panel().feeds["LINK/USD"][1]
    assert queue == Queued("late", ONE, "LINK/USD", 3_600, WAD // 200)


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ('[confirmation]\npolicy = "brave"', "confirmation.policy"),
        ("[confirmation]\nagree = 0", "confirmation.agree"),
        ('[confirmation]\nagree = "most"', "confirmation.agree"),
        ("[confirmation]\ntrust_chain_after_s = -1", "confirmation.trust_chain_after_s"),
        ('[confirmation]\ndivergence = "panic"', "confirmation.divergence"),
        ("[confirmation]\ntimeout_s = 59", "confirmation.timeout_s"),
        ("[confirmation]\nmost_false = 1.1", "confirmation.most_false"),
        ('[confirmation.feeds."ETH/USD"]\nagree = 2', "agree = 2, and 1 are there"),
        ('[confirmation.feeds."ETH/USD"]\nwait = 2', "confirmation.feeds.ETH/USD.wait"),
        ('[confirmation.witnesses."ETH/USD".x]\nkind = "oracle"', "confirmation.witnesses.ETH/USD.x"),
        (
            '[confirmation.witnesses."ETH/USD".x]\nkind = "aggregator"\naddress = "0x12"',
            "address",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(path: Path, section: str, place: str) -> None:
    assert place in refusal(path, f"{LEAST}{section}\n")


# --- the ladders ---------------------------------------------------------------------------------


def test_the_ladders_are_those_of_the_file(path: Path) -> None:
    text = (
        "[ladder.call]\nhealth = 1.2\nsigmas = 3\nleave_health = 1.3\nleave_sigmas = 4\nleave_after_s = 9\n"
    )
    found = loaded(path, LEAST + text + "[ladder.book]\nreverts = [0.1, 0.2]\n").pipeline_params(
        dry_run=False
    )
    assert found.climb.call == Bounds(1.2, 3.0, 1.3, 4.0, 9)
    assert found.tide.reverts == (0.1, 0.2, NEVER)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[ladder.call]\nhealth = 1.2\nsigmas = 3\nleave_health = 1.2\nleave_sigmas = 4\nleave_after_s = 9\n",
         "leave_health and leave_sigmas must be more"),
        ("[ladder.call]\nhealth = 2\nsigmas = 3\nleave_health = 3\nleave_sigmas = 4\nleave_after_s = 9\n",
         "call must lie within watch"),
        ("[ladder.book]\nreverts = [0.1, 0.2, 0.3, 0.4]\n", "ladder.book.reverts"),
        ("[ladder.book]\nreverts = [0.3, 0.2]\n", "expected bounds that rise"),
    ],
)  # fmt: skip
def test_a_ladder_that_makes_no_sense_is_refused(path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        loaded(path, LEAST + text).pipeline_params(dry_run=False)
