"""Settings of sending, held against what is known of the chain."""

from pathlib import Path

import pytest

from keeper.config import Config, load
from keeper.doctor.finding import Mark
from keeper.doctor.sending import look_at_sending
from keeper.execute.levy import Arbitrum, Levy, OpStack

READER = "0x" + "11" * 20
WALLET = "0x" + "22" * 20
RELAYED = '[send]\nvia = ["bundle", "public"]\nrelay = "https://relay.example"\nraise_after_blocks = 4\n'
FREE = '[limits]\npriority_fee_gwei = "0"\n'


def config_of(folder: Path, chain_id: int, more: str, chain: str = "") -> Config:
    (folder / "prices.csv").write_text("timestamp_s,feed,price\n")
    path = folder / "keeper.toml"
    path.write_text(
        f'[chain]\nhttp = "http://127.0.0.1:1"\nws = "ws://127.0.0.1:1"\nchain_id = {chain_id}\n{chain}'
        f'[deployment]\nreader = "{READER}"\n[feed]\npath = "prices.csv"\n{more}'
    )
    return load(path)


@pytest.mark.parametrize(
    ("chain_id", "more", "found"),
    [
        (1, "", {"sending": (Mark.OK, "Ethereum: a public mempool; a transaction pays nothing but gas")}),
        (
            8453,
            "",
            {"sending": (Mark.OK, "a fee for its bytes on Ethereum besides its gas; a block is final")},
        ),
        (42161, FREE, {"sending": (Mark.OK, "no pool: the sequencer takes what comes")}),
        (
            42161,
            "",
            {"sending": (Mark.OK, "Arbitrum"), "tip": (Mark.WARN, "1 gwei buys nothing on Arbitrum One")},
        ),
        (31337, "", {"sending": (Mark.OK, "nothing is known of sending on chain 31337")}),
        (1, RELAYED, {"sending": (Mark.OK, "Ethereum"), "relay key": (Mark.OK, "signs requests")}),
        (
            8453,
            RELAYED,
            {
                "sending": (Mark.BAD, "no relay of Base is known to take bundle"),
                "relay key": (Mark.OK, "signs requests"),
            },
        ),
        (
            31337,
            RELAYED,
            {"sending": (Mark.WARN, "known to take bundle"), "relay key": (Mark.OK, "signs requests")},
        ),
    ],
)
def test_what_a_chain_lacks_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chain_id: int,
    more: str,
    found: dict[str, tuple[Mark, str]],
) -> None:
    monkeypatch.setenv("KEEPER_RELAY_KEY", "0x" + "7e" * 32)
    findings = {each.what: each for each in look_at_sending(config_of(tmp_path, chain_id, more), WALLET)}
    assert findings.keys() == found.keys()
    for what, (mark, text) in found.items():
        assert findings[what].mark is mark
        assert text in findings[what].found
        assert bool(findings[what].mend) == (mark is not Mark.OK)


def test_a_relay_without_a_key_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPER_RELAY_KEY", raising=False)
    findings = {each.what: each for each in look_at_sending(config_of(tmp_path, 1, RELAYED), WALLET)}
    assert findings["relay key"].mark is Mark.BAD


def test_the_block_time_of_another_chain_is_told_and_left_out_it_is_the_chains_own(tmp_path: Path) -> None:
    other = config_of(tmp_path, 8453, "", "block_time_s = 12\n")
    findings = {each.what: each for each in look_at_sending(other, WALLET)}
    assert findings["block time"].mark is Mark.WARN
    assert "is 12, blocks of Base take 2 s" in findings["block time"].found
    assert config_of(tmp_path, 8453, "").chain.block_time_s == 2


@pytest.mark.parametrize(
    ("via", "private", "raises", "found"),
    [
        (("public",), 25, 1, None),
        (("bundle", "public"), 3, 4, None),
        (("bundle", "public"), 3, 3, "public 3 blocks after its permit, and outbid after 3"),
        (("bundle", "private", "public"), 2, 4, "public 4 blocks after"),
        (("bundle", "private"), 1, 1_000, "no transaction ever becomes public"),
    ],
)
def test_a_private_transaction_becomes_public_before_it_is_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    via: tuple[str, ...],
    private: int,
    raises: int,
    found: str | None,
) -> None:
    monkeypatch.setenv("KEEPER_RELAY_KEY", "0x" + "7e" * 32)
    more = RELAYED.replace('["bundle", "public"]', str([*via])).replace("blocks = 4", f"blocks = {raises}")
    config = config_of(tmp_path, 1, f"{more}private_blocks = {private}\n")
    findings = {each.what: each for each in look_at_sending(config, WALLET)}
    assert ("fallback" in findings) == (found is not None)
    if found is not None:
        assert findings["fallback"].mark is Mark.WARN
        assert found in findings["fallback"].found


@pytest.mark.parametrize(
    ("chain_id", "l1_fee", "is_told"), [(8453, "none", True), (8453, "op", False), (1, "op", True)]
)
def test_a_fee_of_data_that_the_chain_does_not_have_or_that_is_left_out_is_told(
    tmp_path: Path, chain_id: int, l1_fee: str, is_told: bool
) -> None:
    config = config_of(tmp_path, chain_id, "", f'l1_fee = "{l1_fee}"\n')
    findings = {each.what: each for each in look_at_sending(config, WALLET)}
    assert ("fee of data" in findings) == is_told


@pytest.mark.parametrize(
    ("chain_id", "levy"),
    [(10, OpStack(1_000)), (8453, OpStack(1_000)), (42161, Arbitrum(1_000)), (31337, None)],
)
def test_the_fee_of_data_is_the_chains_own_where_it_is_left_out(
    tmp_path: Path, chain_id: int, levy: Levy | None
) -> None:
    config = config_of(tmp_path, chain_id, "")
    assert config.sender_params(dry_run=False).levy == levy
    assert "fee of data" not in {each.what for each in look_at_sending(config, WALLET)}
