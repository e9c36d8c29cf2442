"""Finding the program and the addresses, without starting anything."""

from pathlib import Path

import pytest
from eth_typing import HexAddress, HexStr
from web3.types import Nonce
from web3.utils.address import get_create_address

from keeper.errors import ChainFault, ConfigError
from keeper.lab.anvil import Node, find_anvil
from keeper.lab.deploy import created_address

SENDER = "0x6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"


def program(folder: Path, content: bytes) -> Path:
    path = folder / "anvil"
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def test_the_environment_names_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path, b"\x7fELF...")
    monkeypatch.setenv("KEEPER_ANVIL", str(path))
    assert find_anvil() == path


def test_a_missing_program_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_ANVIL", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"no Anvil program at .*nowhere: run scripts/setup"):
        find_anvil()


def test_npms_script_around_the_program_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_ANVIL", str(program(tmp_path, b"#!/usr/bin/env node\n")))
    with pytest.raises(ConfigError, match="no Anvil program"):
        find_anvil()


def test_a_silent_node_is_a_chain_fault() -> None:
    node = Node(port=1, chain_id=1)
    with pytest.raises(ChainFault, match="does not answer"):
        node.block_number()


# A well-known example: ethereum.stackexchange.com/questions/760.
@pytest.mark.parametrize(
    ("nonce", "address"),
    [
        (0, "0xcd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"),
        (1, "0x343c43a37d37dff08ae8c4a11544c718abb4fcf8"),
        (2, "0xf778b86fa74e846c4f0a1fbd1335fe81c00a0c91"),
        (3, "0xfffd933a0bc612844eaf0c6fe3e5b8e9b6c1d19c"),
    ],
)
def test_a_created_contracts_address_is_known_beforehand(nonce: int, address: str) -> None:
    assert created_address(SENDER, nonce) == address


@pytest.mark.parametrize("nonce", [0, 1, 127, 128, 255, 256, 65_536])
def test_created_addresses_are_those_of_web3(nonce: int) -> None:
    expected = get_create_address(HexAddress(HexStr(SENDER)), Nonce(nonce))
    assert created_address(SENDER, nonce) == expected.lower()
