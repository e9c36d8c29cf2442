"""What the doctor finds: each fault by its own name, with what mends it, and no key in any of it."""

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from eth_abi.abi import encode
from eth_account import Account
from rich.console import Console

from keeper.cli.parts import PROTOCOLS
from keeper.config import Config, load
from keeper.config.signing import Signer, Wallet
from keeper.deployments import KINDS
from keeper.doctor.examine import (
    LOOKS,
    MEND_DAMAGE,
    Doctor,
    examine,
    look_at_alerts,
    look_at_clock,
    look_at_disk,
    look_at_signer,
    look_at_witnesses,
    without_silent,
)
from keeper.doctor.finding import Finding, Mark, table_of
from keeper.doctor.foreign import look_at_deposit
from keeper.doctor.hybrid import look_at_code, look_at_oracles
from keeper.domain import Head, OracleView, Unknown, Witnessed
from keeper.execute import web3signer
from keeper.journal.db import Shared
from keeper.journal.shared import PostgresJournal
from keeper.journal.store import SqliteJournal
from keeper.protocols.hybrid.abi import CONTRACTS, artifact
from keeper.units import WAD
from tests.postgres import drop
from tests.stub_node import StubNode, Tree
from tests.unit.execute.stub_web3signer import StubWeb3Signer
from tests.unit.protocols.hybrid.books import NOW_S, feed_view
from tests.unit.protocols.perp_curie.perps import MARKET, account, key, page_of

KEY = "0x" + "4c" * 32
READER = "0x" + "11" * 20


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KEEPER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KEEPER_PRIVATE_KEY", KEY)


def config_of(folder: Path, http: str, ws: str, chain_id: int = 31337, named_by: str = "reader") -> Config:
    (folder / "prices.csv").write_text("timestamp_s,feed,price\n")
    path = folder / "keeper.toml"
    path.write_text(
        f'[chain]\nhttp = "{http}"\nws = "{ws}"\nchain_id = {chain_id}\n'
        f'[deployment]\n{named_by} = "{READER}"\n[feed]\npath = "prices.csv"\n'
    )
    return load(path)


def by_name(findings: list[Finding]) -> Mapping[str, Finding]:
    for each in findings:
        assert bool(each.mend) == (each.mark is not Mark.OK), each
        assert KEY[2:] not in f"{each}"
    return {each.what: each for each in findings}


# --- the nodes -----------------------------------------------------------------------------------


async def test_a_node_without_the_deployment_is_told_apart_from_no_node(tmp_path: Path) -> None:
    tree = Tree(genesis_s=int(time.time()) - 5)
    async with StubNode(tree) as node:
        found = by_name(await examine(config_of(tmp_path, node.http_url, node.ws_url)))
        address = f"127.0.0.1:{node.port}"
    assert found[f"node http://{address}"].mark is Mark.OK
    assert found[f"websocket ws://{address}"].mark is Mark.OK
    assert found["clock"].mark is Mark.OK
    assert found["deployment"].mark is Mark.BAD
    assert f"deployment.reader {READER} does not answer as a MarginReader" in found["deployment"].found
    assert "deployment.reader" in found["deployment"].mend
    found = by_name(await examine(config_of(tmp_path, node.http_url, node.ws_url)))
    assert found[f"node http://{address}"].mark is Mark.BAD
    assert "chain.http" in found[f"node http://{address}"].mend
    assert found["chain"].mark is Mark.BAD


async def test_a_node_of_another_chain_is_bad(tmp_path: Path) -> None:
    async with StubNode(Tree(), chain_id=5) as node:
        found = by_name(await examine(config_of(tmp_path, node.http_url, node.ws_url)))
        address = f"127.0.0.1:{node.port}"
    for what in (f"node http://{address}", f"websocket ws://{address}"):
        assert found[what].mark is Mark.BAD
        assert "chain.chain_id" in found[what].mend


async def test_a_node_that_cannot_call_what_is_not_deployed_is_named(tmp_path: Path) -> None:
    async with StubNode(Tree(), eth_call=lambda *_: "0x" + "00" * 31 + "07", takes_overrides=False) as node:
        found = by_name(await examine(config_of(tmp_path, node.http_url, node.ws_url, named_by="clearing")))
        address = f"127.0.0.1:{node.port}"
    assert found["deployment"].mark is Mark.BAD
    lacks = f"http://{address} cannot call a contract that is not deployed: eth_call at http://{address}: too"
    assert found["deployment"].found.startswith(lacks)
    assert "deploy MarginReader and give its address as deployment.reader" in found["deployment"].mend


# --- key, journal, disk --------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "0x1234", KEY + "00"])
async def test_a_bad_key_is_told_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("KEEPER_PRIVATE_KEY", key)
    config = config_of(tmp_path, "http://127.0.0.1:1", "ws://127.0.0.1:1")
    found = by_name([await Doctor(config)._key()])
    assert found["key"].mark is Mark.BAD
    assert not key or key[2:] not in found["key"].found


@pytest.mark.parametrize(("chain_id", "mark"), [(31337, Mark.OK), (1, Mark.WARN)])
async def test_a_key_in_the_environment_is_for_rehearsals(tmp_path: Path, chain_id: int, mark: Mark) -> None:
    config = config_of(tmp_path, "http://127.0.0.1:1", "ws://127.0.0.1:1", chain_id)
    found = by_name([await Doctor(config)._key()])["key"]
    assert found.mark is mark
    assert found.found.startswith(f"signs for {Account.from_key(KEY).address.lower()}")


@pytest.mark.parametrize(
    ("key", "signs_with", "address", "found"),
    [
        (KEY, KEY, "", "a signer elsewhere signs for 0x"),
        (KEY, "0x" + "05" * 32, "", "what it returned is no signature of"),
        ("0x" + "05" * 32, KEY, "", "it holds no key of"),
        (None, KEY, "", "it cannot be asked: Cannot connect"),
        (KEY, KEY, None, "wallet.address is not set; Web3Signer at http"),
    ],
)
async def test_a_signer_elsewhere_is_asked_for_a_signature(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    signs_with: str,
    address: str | None,
    found: str,
) -> None:
    monkeypatch.delenv("KEEPER_PRIVATE_KEY")
    stub = StubWeb3Signer(bytes.fromhex((key or KEY)[2:]), signs_with=bytes.fromhex(signs_with[2:]))
    async with AsyncExitStack() as serving:
        await serving.enter_async_context(stub.serving())
        if key is None:
            await serving.aclose()
        config = config_of(tmp_path, "http://127.0.0.1:1", "ws://127.0.0.1:1")
        ours = Account.from_key(KEY).address.lower() if address is not None else None
        there = {"wallet": Wallet(address=ours), "signer": Signer(kind="web3signer", url=stub.url)}
        told = by_name([await Doctor(config.model_copy(update=there))._key()])["key"]
    assert found in told.found
    assert told.mark is (Mark.OK if "signs for 0x" in found else Mark.BAD)


@pytest.mark.parametrize(
    ("url", "mark"),
    [
        ("http://127.0.0.1:9000", Mark.OK),
        ("http://[::1]:9000", Mark.OK),
        ("http://signer:9000", Mark.WARN),
        ("https://signer:9000", Mark.OK),
    ],
)
def test_an_open_line_to_a_signer_is_told(url: str, mark: Mark) -> None:
    assert look_at_signer(web3signer.Params(url), READER).mark is mark


async def test_the_journal_of_another_keeper_is_told(tmp_path: Path) -> None:
    config = config_of(tmp_path, "http://127.0.0.1:1", "ws://127.0.0.1:1")
    looked = Doctor(config)
    assert by_name(list(looked._journal()))["journal"].mark is Mark.OK
    identity = {"chain_id": "31337", "deployment": READER, "wallet": "0x" + "22" * 20}
    SqliteJournal(config.journal.path, identity=identity).close()
    assert by_name(list(looked._journal()))["journal"].found.endswith("is whole")
    await looked._key()
    assert "another wallet" in by_name(list(looked._journal()))["journal"].found
    with closing(sqlite3.connect(config.journal.path)) as db:
        [page] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()
    with config.journal.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    looked._wallet = None
    damaged = by_name(list(looked._journal()))["journal"]
    assert "is damaged" in damaged.found
    assert damaged.mend == MEND_DAMAGE
    config.journal.path.write_bytes(b"no database, " * 100)
    foreign = by_name(list(looked._journal()))["journal"]
    assert foreign.mark is Mark.BAD
    assert foreign.mend.startswith("name another file in journal.path; where it was")


def test_a_shared_journal_is_looked_at_and_who_leads_is_told(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPER_JOURNAL__URL", server)
    config = config_of(tmp_path, "http://127.0.0.1:1", "ws://127.0.0.1:1")
    looked, place = Doctor(config), config.journal_place(dry_run=False)
    assert isinstance(place, Shared)
    assert by_name(list(looked._journal()))["journal"].found.endswith("will be made")
    identity = {"chain_id": "31337", "deployment": READER, "wallet": "0x" + "22" * 20}
    with closing(PostgresJournal(place, identity=identity, holder="a")):
        told = by_name(list(looked._journal()))
        assert told["journal"].found.endswith("is whole")
        assert told["lease"].found == "a leads: a keeper started now stands by"
    assert "lease" not in by_name(list(looked._journal()))
    drop(place.url, place.schema)
    monkeypatch.setenv("KEEPER_JOURNAL__URL", "postgresql://keeper:hunter2@127.0.0.1:1/none")
    config = config_of(tmp_path, "http://127.0.0.1:1", "ws://127.0.0.1:1")
    away = by_name(list(Doctor(config)._journal()))["journal"]
    assert away.mark is Mark.BAD
    assert "hunter2" not in repr((config, away, config.told()))


def test_a_folder_that_is_not_there_or_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name(list(look_at_disk(tmp_path / "nowhere")))["disk"].mark is Mark.BAD
    assert by_name(list(look_at_disk(tmp_path)))["disk"].mark is not Mark.BAD
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**27))
    assert by_name(list(look_at_disk(tmp_path)))["disk"].mark is Mark.WARN
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert by_name(list(look_at_disk(tmp_path)))["disk"].mark is Mark.BAD


# --- clock, code, oracles ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "mark"), [(0, Mark.OK), (38, Mark.OK), (-2, Mark.OK), (-3, Mark.BAD), (39, Mark.WARN)]
)
def test_the_clock_is_held_against_the_head(age_s: int, mark: Mark) -> None:
    head = Head(7, "0xab", "0xaa", NOW_S, 7)
    assert by_name([look_at_clock(head, NOW_S + age_s, 12)])["clock"].mark is mark


@pytest.mark.parametrize("name", CONTRACTS)
def test_code_is_known_by_the_functions_that_it_dispatches(name: str) -> None:
    published = str(artifact(name)["deployedBytecode"]).removeprefix("0x")
    code = bytes.fromhex(published.replace("_", "0").replace("$", "0"))
    assert by_name([look_at_code(name, READER, code)])[name].mark is Mark.OK
    others = [each for each in CONTRACTS if each != name]
    assert all(look_at_code(each, READER, code).mark is Mark.BAD for each in others)
    assert "no code" in look_at_code(name, READER, b"").found


def test_an_oracle_that_does_not_count_is_told_with_its_age() -> None:
    fresh = replace(
        feed_view("BTC/USD", 200 * WAD, 200 * WAD), fast_observed_at_s=NOW_S, slow_updated_at_s=NOW_S - 9
    )
    stale = replace(fresh, fast_observed_at_s=NOW_S - 1_000)
    frozen = replace(fresh, slow_ok=False)
    found = [
        by_name(list(look_at_oracles(OracleView({"BTC/USD": view}), ("BTC/USD",), NOW_S)))["oracle BTC/USD"]
        for view in (fresh, stale, frozen)
    ]
    assert [each.mark for each in found] == [Mark.OK, Mark.WARN, Mark.WARN]
    assert "1000 s old" in found[1].found
    assert "report-prices" in found[1].mend
    assert "slow feed" in found[2].mend


# --- what positions of Perpetual are taken over with ---------------------------------------------


async def looked_at_deposit(folder: Path, closing: str, *answers: bytes) -> Finding:
    """Look at what a keeper of Perpetual has, where these are the chain's answers."""
    (folder / "prices.csv").write_text("timestamp_s,feed,price\n")
    path = folder / "keeper.toml"
    path.write_text(
        f'{closing}[chain]\nhttp = "http://node"\nws = "ws://node"\nchain_id = 1\n'
        f'[feed]\npath = "prices.csv"\n[deployment]\nprotocol = "perp_curie"\n'
        f'clearing_house = "{READER}"\nmarkets = {{ "{READER}" = "" }}\n'
    )

    async def answer(*_: object) -> bytes:
        return answers[0]

    async def answer_many(*_: object) -> tuple[bytes, ...]:
        return answers

    reader: Any = SimpleNamespace(call=answer, call_many=answer_many)
    wallet, head = "0x" + key(9)[:20].hex(), Head(1, "0x", "0x", NOW_S, 0)
    [found] = [each async for each in look_at_deposit(MARKET, load(path), wallet, reader, head)]
    return found


@pytest.mark.parametrize(("dollars", "mark"), [(0, Mark.WARN), (5, Mark.OK)])
async def test_without_a_liquidator_a_deposit_is_needed(tmp_path: Path, dollars: int, mark: Mark) -> None:
    found = await looked_at_deposit(tmp_path, "", page_of([account(9, dollars, {})]))
    assert (found.what, found.mark) == ("deposit", mark)


@pytest.mark.parametrize(("operator", "mark"), [(9, Mark.OK), (8, Mark.BAD)])
async def test_with_a_liquidator_no_deposit_is_needed_but_its_operator_is_the_wallet(
    tmp_path: Path, operator: int, mark: Mark
) -> None:
    answers = [encode(["address"], ["0x" + each[:20].hex()]) for each in (key(operator), key(7))]
    found = await looked_at_deposit(tmp_path, f'[closing]\nliquidator = "{READER}"\n', *answers)
    assert (found.what, found.mark) == ("FlashLiquidator", mark)


def test_a_witness_tells_what_it_says_or_why_it_says_nothing() -> None:
    said = Witnessed("link", 2_000 * WAD, 940, 3_600, WAD // 100)
    heard = {"ETH/USD": (said, Unknown("pool", "no history of 1800 s"))}
    assert list(look_at_witnesses(heard, 1_000)) == [
        Finding("witness ETH/USD link", Mark.OK, "2,000, 60 s old"),
        Finding(
            "witness ETH/USD pool",
            Mark.WARN,
            "no history of 1800 s",
            "correct it in [confirmation.witnesses], or leave it out",
        ),
    ]


@pytest.mark.parametrize(
    ("own", "comes_to"),
    [
        ("", "nothing that hangs on it is ever closed"),
        ("[confirmation]\ntrust_chain_after_s = 60\n", "its print counts after 60 s"),
    ],
    ids=["by a preset", "by the operator's own word"],
)
async def test_a_feed_that_nobody_else_speaks_of_is_named_with_what_that_comes_to(
    own: str, comes_to: str, tmp_path: Path
) -> None:
    (tmp_path / "prices.csv").write_text("timestamp_s,feed,price\n1700000000,ETH/USD,2000\n")
    path = tmp_path / "keeper.toml"
    path.write_text(
        '[chain]\nhttp = "http://127.0.0.1:1"\nws = "ws://127.0.0.1:1"\nchain_id = 1\n'
        f'[deployment]\nprotocol = "aave_v3"\npool = "{READER}"\nfrom_block = 1\n'
        f'[feed]\npath = "prices.csv"\n{own}'
        f'[confirmation.witnesses."BTC/USD".link]\nkind = "aggregator"\naddress = "{READER}"\n'
    )
    market: Any = SimpleNamespace(feeds=("BTC/USD", "ETH/USD", "GHO/USD"))
    head = Head(7, "0x77", "0x66", 1_700_000_000, 10**9)
    found = by_name([each async for each in Doctor(load(path))._feed(market, head)])
    assert [what for what in found if what.startswith("confirmation")] == ["confirmation GHO/USD"]
    assert found["confirmation GHO/USD"] == Finding(
        "confirmation GHO/USD",
        Mark.WARN,
        f"no price source and no witness speaks of it: {comes_to}",
        "name a price source in [feed], or a witness in [confirmation.witnesses]",
    )


def test_brackets_in_a_finding_are_shown() -> None:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(table_of([Finding("x", Mark.BAD, "found [feed]", "see to [feed]")]))
    console.file.close()
    assert "see to [feed]" in console.export_text()


def test_one_silent_endpoint_of_several_is_no_reason_not_to_run() -> None:
    well = Finding("node a", Mark.OK, "chain 1")
    silent = Finding("node b", Mark.BAD, "no answer", "start it", silent=True)
    wrong = Finding("node c", Mark.BAD, "another chain", "correct it")
    assert [each.mark for each in without_silent([well, silent, wrong])] == [Mark.OK, Mark.WARN, Mark.BAD]
    assert [each.mark for each in without_silent([silent, wrong])] == [Mark.BAD, Mark.BAD]


def test_every_protocol_that_can_be_configured_is_looked_at_and_kept() -> None:
    named = {get_args(kind.model_fields["protocol"].annotation)[0] for kind in KINDS}
    assert {*LOOKS} == {*PROTOCOLS} == named


@pytest.mark.parametrize(
    ("urls", "marks"),
    [("", []), ("json://127.0.0.1:1/hush", [Mark.OK]), ("json://127.0.0.1:1 tgram:/hush", [Mark.BAD])],
)
def test_services_that_cannot_be_told_are_found_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, urls: str, marks: list[Mark]
) -> None:
    monkeypatch.setenv("KEEPER_ALERT_URLS", urls)
    found = list(look_at_alerts())
    assert [each.mark for each in found] == marks
    assert "hush" not in str(found)
