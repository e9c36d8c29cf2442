"""The lab on a real node: the deployment, the people, and the whole demo with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from keeper.cli.why import taped_scene
from keeper.domain import OracleView, Phase
from keeper.errors import ChainFault
from keeper.journal.reader import JournalReader
from keeper.lab import drill
from keeper.lab.anvil import Node, Tx, anvil, stop
from keeper.lab.demo import rehearse, run_demo
from keeper.lab.deploy import EARLY_SLOPE, QUOTE, Spec, deploy, find
from keeper.lab.drill import DrillFailed
from keeper.lab.hedges import Strategy
from keeper.lab.paths import Paths, generate, wad
from keeper.lab.world import HEALTH, SET_UP_S, Zone, fast_prices, person, populate, reporters
from keeper.protocols.hybrid import codec, math
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.portfolio import setting_at
from keeper.protocols.hybrid.rows import accounts_of
from keeper.replay.scene import Scene
from keeper.units import WAD
from keeper.why.explain import explain, words_of
from keeper.why.nearest import nearest
from tests.secrecy import command_lines, expect_nothing_of, written_in

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
GENESIS_S = 1_600_000_000
SIGNERS = [reporter.address for reporter in reporters(0)]
KEYS = [reporter.key for reporter in reporters(0)]


def keys(seed: int) -> list[bytes]:
    """Return the keys that the processes of a demo are given."""
    return [person(seed, "keeper").key, *(reporter.key for reporter in reporters(seed))]


def children(parent: int) -> dict[int, str]:
    """The command lines of a process's children by process id."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = {}
    for pid in map(int, listed):
        with suppress(FileNotFoundError, ProcessLookupError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return found


def test_anvil_mines_only_when_told_and_is_gone_afterwards() -> None:
    with anvil(timestamp_s=GENESIS_S) as node:
        assert (node.block_number(), node.timestamp_s()) == (0, GENESIS_S)
        node.mine(GENESIS_S + 12)
        assert (node.block_number(), node.timestamp_s()) == (1, GENESIS_S + 12)
        assert any("anvil" in line for line in children(os.getpid()).values())
    assert not any("anvil" in line for line in children(os.getpid()).values())
    with pytest.raises(ChainFault, match="does not answer"):
        node.block_number()


def test_anvil_is_stopped_when_the_test_fails() -> None:
    with pytest.raises(ZeroDivisionError), anvil(timestamp_s=GENESIS_S):
        raise ZeroDivisionError
    assert not any("anvil" in line for line in children(os.getpid()).values())


def test_a_failed_transaction_says_why() -> None:
    with anvil(timestamp_s=GENESIS_S) as node:
        deployed = deploy(node, signers=SIGNERS)
        stranger = "0x" + "11" * 20
        node.fund([stranger])
        call = codec.credit_call(deployed.protocol.vault, deployed.protocol.quote, stranger)
        assert codec.decode_amount(node.call(call.to, call.data)) == 0
        steal = deployed.tx(
            "Vault", "withdraw", deployed.protocol.vault, deployed.protocol.quote, WAD, stranger
        )
        with pytest.raises(ChainFault, match=r"failed: CreditTooLow\("):
            node.run([Tx(stranger, steal.to, steal.data)])


def test_a_deployment_is_found_again_from_its_reader() -> None:
    with anvil(timestamp_s=GENESIS_S) as node:
        first, second = deploy(node, signers=SIGNERS), deploy(node, signers=SIGNERS)
        assert find(node, first.protocol.reader) == first.protocol
        assert first.protocol.reader != second.protocol.reader
        assert first.protocol.rules.slopes == (Spec().slope, EARLY_SLOPE)
        assert first.perps == {"BTC/USD": 1, "ETH/USD": 2, "SYN/USD": 3}


def test_a_slow_source_counts_once_it_was_seen_to_agree_with_the_fast_price() -> None:
    prices = {"BTC/USD": 20_000 * WAD, "ETH/USD": 1_500 * WAD, "SYN/USD": 7 * WAD}
    with anvil(timestamp_s=GENESIS_S) as node:
        deployed = deploy(node, signers=SIGNERS)
        market = HybridMarket(deployed.protocol)
        call = market.prices_call()
        rounds = [deployed.slow_round(feed, price) for feed, price in prices.items()]
        with pytest.raises(ChainFault, match=r"failed: NotFresh\("):
            node.run([*rounds, deployed.prove("BTC/USD")], GENESIS_S + 60)
        far = prices | {"ETH/USD": 1_600 * WAD}
        node.run([*rounds, fast_prices(deployed, KEYS, far, GENESIS_S + 72)], GENESIS_S + 72)
        assert not any(view.slow_ok for view in market.decode_prices(node.call(call.to, call.data)).values())
        with pytest.raises(ChainFault, match=r"failed: TooFarApart\("):
            node.run([deployed.prove("ETH/USD")], GENESIS_S + 73)
        node.run([deployed.prove("BTC/USD")], GENESIS_S + 74)
        oracles = market.decode_prices(node.call(call.to, call.data))
        assert {feed: view.slow_ok for feed, view in oracles.items()} == {
            "BTC/USD": True,
            "ETH/USD": False,
            "SYN/USD": False,
        }


def test_a_deployment_that_is_not_what_was_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, asked = Spec(), Spec.rules
    cheaper = replace(
        spec, underlyings=(replace(spec.underlyings[0], mmr_wad=WAD // 100), *spec.underlyings[1:])
    )
    monkeypatch.setattr(Spec, "rules", lambda _, tokens: asked(cheaper, tokens))
    with (
        anvil(timestamp_s=GENESIS_S) as node,
        pytest.raises(ChainFault, match=r"differs from what was asked for in: underlyings$"),
    ):
        deploy(node, signers=SIGNERS, spec=spec)


def opened(node: Node, paths: Paths, accounts: int) -> dict[Zone, list[float]]:
    """Populate a chain; return the health of every owner's account by zone."""
    deployed = deploy(node, signers=[reporter.address for reporter in reporters(paths.seed)])
    world = populate(node, deployed, paths, accounts)
    call = codec.rows_call(deployed.protocol.reader, world.accounts)
    *owned, maker, keeper = accounts_of(node.call(call.to, call.data))
    prices = {feed: wad(price) for feed, price in paths.true_at(paths.start_s).items()}
    setting = setting_at(deployed.protocol.rules, OracleView(), paths.start_s)
    healths: dict[Zone, list[float]] = {zone: [] for zone in Zone}
    for owner, account in zip(world.owners, owned, strict=True):
        assert account.phase is Phase.HEALTHY
        found = math.maintenance(account, prices, setting)
        healths[owner.plan.zone].append(found.equity_wad / found.requirement_wad)
    assert len(maker.legs) == 3
    assert keeper.legs == ()
    assert keeper.cash_wad >= 100_000 * WAD
    credit = codec.credit_call(deployed.protocol.vault, deployed.tokens[QUOTE], world.keeper.address)
    assert codec.decode_amount(node.call(credit.to, credit.data)) >= 10_000 * WAD
    return healths


def test_hundreds_of_accounts_are_opened_in_seconds_and_stand_where_they_should() -> None:
    paths = generate(4)
    with anvil(timestamp_s=paths.start_s - SET_UP_S - 60) as node:
        began = time.monotonic()
        healths = opened(node, paths, 200)
        assert time.monotonic() - began < 15
        assert node.timestamp_s() == paths.start_s
    for zone, (low, high) in HEALTH.items():
        assert healths[zone]
        assert min(healths[zone]) > low - 0.01
        if zone is Zone.DANGER:
            assert max(healths[zone]) < high + 0.1


@pytest.mark.slow
def test_the_demo_keeps_every_promise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    kept = tmp_path / "kept"
    assert run_demo(seed=2, accounts=20, fast=True, options=True, json_path=figures, keep_dir=kept) == 0
    found = json.loads(figures.read_text())
    assert found["mode"] == "lockstep"
    assert found["violations"] == []
    assert (found["seed"], found["accounts"]) == (2, 20)
    assert found["false_closes"] == 0
    assert found["max_health_after_slice"] <= 1.15
    assert found["min_health_gain"] >= 0
    assert min(found["flagged"], found["confirmed"], found["tranches"], found["cured"], found["cleared"]) > 0
    assert found["wick"]["flagged"] > 0
    assert found["twin_checked"] == found["tranches"]
    assert found["tick_to_tx_ms"]["p50"] > 0
    assert (kept / "journal.sqlite").exists()
    hedges = {row["book"]: row for row in found["hedges"]}
    assert hedges.keys() == set(Strategy)
    assert all(row["books"] == 2 for row in found["hedges"])
    for row in found["hedges"]:
        assert row["sliced"] == 0 or row["lowest_health_both"] < 1
        assert row["flagged"] == 0 or row["lowest_health_fast"] < 1
    assert hedges[Strategy.IRON_FLY]["sliced"] == 0
    assert hedges[Strategy.COVERED_CALL]["sliced"] > 0
    assert sum(row["legs_reduced"] for row in found["hedges"]) >= len(Strategy)
    assert found["options_settled"] > 0
    assert found["risk_arrays"] > 100
    expect_explained(kept)
    expect_replayed(kept)
    expect_nothing_of(keys(2), written_in(tmp_path) + "".join(capfd.readouterr()).encode())


def expect_explained(folder: Path) -> None:
    """Ask of every account that was ever found, at the end and in the middle of the fall."""
    reader = JournalReader(folder / "journal.sqlite")
    kinds = set()
    for at in (None, 60, 120):
        scene = asyncio.run(taped_scene(reader, at))
        assert isinstance(scene, Scene)
        keys = scene.book.keys.tolist()
        assert len(keys) >= 20
        for key in keys:
            said = explain(reader, scene, f"0x{key.hex()}", at)
            assert f"0x{key.hex()}" in next(words_of(said))
            json.dumps(said)
            kinds |= {said["decision"]["kind"]} if "decision" in said else {"own"}
            decided = [
                event
                for case in said["cases"]
                for event in case["events"]
                if event["block"] == at and event["kind"] in {"Waited", "Refused", "Reserved"}
            ]
            assert not decided or is_of(decided[0], said["decision"]), (at, decided[0], said["decision"])
        assert nearest(reader, scene, 10)
    reader.close()
    assert kinds >= {"nothing", "own", "wait"}
    assert "unknown" not in kinds


def is_of(event: dict[str, Any], decision: dict[str, Any]) -> bool:
    """Tell whether an event says what was decided, or what kept a step from being sent."""
    data = event["data"]
    if decision["kind"] == "step":
        at_the_door = data.get("rule", "").startswith(("limit.", "simulation."))
        return at_the_door or data.get("kind") in {step["act"] for step in decision["steps"]}
    return bool(data.get("rule") == decision.get("rule"))


def expect_replayed(folder: Path) -> None:
    """Have the command line decide all of it again."""
    command = [sys.executable, "-m", "keeper", "replay", str(folder / "journal.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "equal, event for event" in done.stdout


@pytest.mark.slow
def test_killing_the_keeper_on_the_way_breaks_no_promise(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    assert run_demo(seed=4, accounts=20, fast=True, json_path=figures, kills=4) == 0
    found = json.loads(figures.read_text())
    assert found["kills"] == 4
    assert found["violations"] == []
    assert found["cured"] > 0


def test_a_keeper_that_dies_ends_the_demo_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "CONFIG", drill.CONFIG.replace("chain_id = {chain_id}", "chain_id = 7"))
    with pytest.raises(DrillFailed, match=r"(?s)keeper \S+ ended with status 2\n.*chain 7 is configured"):
        rehearse(generate(1, fast=True), 20, tmp_path, console=Console(quiet=True))
    assert children(os.getpid()) == {}


@pytest.mark.slow
def test_a_demo_that_is_told_to_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "keeper", "demo", "--accounts", "20", "--keep", str(tmp_path / "kept")]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert demo.stdout is not None
    try:
        for line in demo.stdout:
            if line.startswith("block 30/"):
                break
        started = children(demo.pid)
        assert len(started) == 3
        expect_nothing_of(keys(1), command_lines(demo.pid))
        demo.terminate()
        demo.stdout.read()
        assert demo.wait(60) == 128 + signal.SIGTERM
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    finally:
        stop(demo)  # type: ignore[arg-type]  # a text process is stopped like any other
        demo.stdout.close()
