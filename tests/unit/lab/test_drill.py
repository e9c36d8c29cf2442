"""What the driver decides by itself, without a chain."""

import signal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper import config
from keeper.config.feeds import RecordedSource
from keeper.domain import Fact, Phase
from keeper.errors import ConfigError
from keeper.lab.demo import run_demo
from keeper.lab.drill import (
    CONFIG,
    STEWARD,
    WICK_CLEARANCE,
    DrillFailed,
    Ears,
    Process,
    Tally,
    _block_of,
    base_fee_wei,
    draw_kills,
    ended_by_signal,
)
from keeper.lab.paths import BLOCK_S, generate

ACCOUNT = bytes(31) + b"\1"


def fact(act: str) -> Fact:
    return Fact(7, "0xaa", 0, act, (ACCOUNT,), {"account": ACCOUNT})


@pytest.mark.parametrize("blocks", [200, 600])
def test_the_base_fee_grows_no_faster_than_ethereum_lets_it(blocks: int) -> None:
    fees = [base_fee_wei(block, blocks) for block in range(1, blocks + 1)]
    assert min(fees) > 0
    assert all(after <= before * 1.125 for before, after in pairwise(fees))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), kills=st.integers(0, 300))
def test_kills_leave_the_false_print_alone(seed: int, kills: int) -> None:
    paths = generate(seed, fast=True)
    drawn = draw_kills(paths, kills)
    assert drawn == draw_kills(paths, kills)
    assert len(drawn) <= kills
    first = (paths.wick.first_s - paths.start_s) // BLOCK_S
    assert not [block for block in drawn if first - WICK_CLEARANCE <= block <= first + 4]


def test_a_tally_follows_an_account_from_alarm_to_cure() -> None:
    tally = Tally({ACCOUNT: Phase.HEALTHY})
    for act, phase in (
        ("Flagged", "flagged"),
        ("Confirmed", "confirmed"),
        ("Tranche", "confirmed"),
        ("Cured", "healthy"),
    ):
        tally.add([fact(act)])
        assert tally.phases[ACCOUNT] == phase
    assert tally.acts["Tranche"] == 1
    assert tally.count(Phase.HEALTHY) == 1


def test_the_configuration_that_a_drill_writes_is_one_that_the_keeper_takes(tmp_path: Path) -> None:
    path = tmp_path / "keeper.toml"
    text = CONFIG.format(
        http="http://127.0.0.1:1", ws="ws://127.0.0.1:1", chain_id=5, block_time_s=12, reader="0x" + "ab" * 20
    )
    path.write_text(text)
    loaded = config.load(path)
    assert loaded.chain.chain_id == 5
    assert loaded.deployment.reader == "0x" + "ab" * 20
    assert isinstance(loaded.feed, RecordedSource)
    assert loaded.feed.path == tmp_path / "prices.csv"
    path.write_text(text + STEWARD.format(half_life_s=3600) + '"BTC/USD" = 0.8\n')
    steward = config.load(path).steward
    assert (steward.half_life_s, steward.vols) == (3600, {"BTC/USD": 0.8})


def test_a_process_inherits_nothing_that_is_meant_for_another_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPER_CHAIN__HTTP", "http://elsewhere")
    process = Process("run", tmp_path, {"KEEPER_PRIVATE_KEY": "0x01"})
    mine = {name for name in process._environment if name.startswith("KEEPER_")}
    assert mine == {"KEEPER_PRIVATE_KEY"}


def test_a_process_that_ends_by_itself_fails_the_drill_with_its_last_words(tmp_path: Path) -> None:
    process = Process("run", tmp_path, {})  # there is no keeper.toml here
    process.start()
    assert process._process is not None
    process._process.wait(30)
    with pytest.raises(DrillFailed, match=r"keeper run ended with status 2\n.*keeper\.toml"):
        process.check()
    process.stop()


@pytest.mark.parametrize(
    ("line", "block"),
    [
        (b'{"event": "reporter.head_done", "block": 12}', 12),
        (b'{"event": "steward.head_done", "block": 7}', 7),
        (b'{"event": "other reporter.head_done", "block": 12}', -1),
        (b'{"event": "reporter.head_done"}', -1),
        (b'["reporter.head_done"]', -1),
        (b"reporter.head_done 12", -1),
    ],
)
def test_only_a_reporters_own_line_says_that_it_is_done(line: bytes, block: int) -> None:
    assert _block_of(line) == block


def test_ears_hear_nothing_while_there_is_no_journal(tmp_path: Path) -> None:
    ears = Ears(tmp_path / "journal.sqlite")
    assert not ears.done_with(0)
    (tmp_path / "journal.sqlite").touch()
    assert not ears.done_with(0)
    ears.close()


def test_sigterm_becomes_an_ordinary_way_out() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, ended_by_signal():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accounts": 19}, "--accounts must be 20 to 500, found 19"),
        ({"accounts": 501}, "--accounts must be 20 to 500, found 501"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"kills": -1}, "--kills must not be negative"),
        ({"json_path": Path("/nowhere/at/all.json")}, "--json: /nowhere/at/all.json cannot be written"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_demo(**options)  # type: ignore[arg-type]


def test_a_folder_to_keep_must_be_empty(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        run_demo(keep_dir=tmp_path)
