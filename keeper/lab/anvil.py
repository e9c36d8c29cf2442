"""A throw-away chain: one Anvil process of our own, on loopback, that mines when it is told to."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import randbelow
from typing import IO, Any

from keeper.errors import ChainFault, ConfigError
from keeper.protocols.hybrid.codec import revert_name
from keeper.units import UnixS, Wei

VARIABLE = "KEEPER_ANVIL"
GAS_LIMIT = 2_000_000_000
"""Of a block: a whole set-up of hundreds of accounts fits into one."""
BATCH = 400
"""Requests in one JSON-RPC batch."""
BLOCK_TXS = 150
"""Transactions in one block of a set-up: Anvil's receipts cost the square of it."""
GWEI: Wei = 10**9
MAX_FEE: Wei = 1_000 * GWEI
STARTUP_S = 10.0
CHAIN_ID_FLOOR = 10_000_000
"""Chain ids are drawn from above here, where no public chain lives."""


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction from any address: the node impersonates the sender."""

    sender: str
    to: str | None
    data: bytes
    gas: int = 1_500_000


class Node:
    """JSON-RPC to the throw-away chain over one kept connection; every fault is a ChainFault."""

    def __init__(self, port: int, chain_id: int) -> None:
        self.http_url = f"http://127.0.0.1:{port}"
        self.ws_url = f"ws://127.0.0.1:{port}"
        self.chain_id = chain_id
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def close(self) -> None:
        self._connection.close()

    def rpc(self, method: str, *params: Any) -> Any:
        """Call one method."""
        return _result(self._post(_request(0, method, params)), method)

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Call several methods; results in the order of the calls."""
        results: list[Any] = []
        for start in range(0, len(calls), BATCH):
            part = calls[start : start + BATCH]
            answers = self._post([_request(i, method, params) for i, (method, params) in enumerate(part)])
            if not isinstance(answers, list):
                raise ChainFault(f"a batch of {len(part)} requests was answered with {answers!r:.200}")
            by_id = {answer["id"]: answer for answer in answers}
            results += [_result(by_id.get(i), method) for i, (method, _) in enumerate(part)]
        return results

    def call(self, to: str, data: bytes, block: str | int = "latest") -> bytes:
        """Run ``eth_call``."""
        return self.call_many([(to, data)], block)[0]

    def call_many(self, calls: Sequence[tuple[str, bytes]], block: str | int = "latest") -> list[bytes]:
        """Run several ``eth_call`` at one block."""
        at = hex(block) if isinstance(block, int) else block
        found = self.batch([("eth_call", ({"to": to, "data": "0x" + data.hex()}, at)) for to, data in calls])
        return [bytes.fromhex(result[2:]) for result in found]

    def block_number(self) -> int:
        return int(self.rpc("eth_blockNumber"), 16)

    def timestamp_s(self) -> UnixS:
        """Return the timestamp of the newest block."""
        return int(self.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def fund(self, addresses: Sequence[str], wei: Wei = 1_000 * 10**18) -> None:
        """Give native balance."""
        self.batch([("anvil_setBalance", (address, hex(wei))) for address in addresses])

    def mine(self, timestamp_s: UnixS | None = None) -> None:
        """Mine one block, at ``timestamp_s`` where given."""
        if timestamp_s is not None:
            self.rpc("evm_setNextBlockTimestamp", timestamp_s)
        self.rpc("evm_mine")

    def send(self, transactions: Sequence[Tx]) -> list[str]:
        """Hand transactions to the node, nonces in their order; return the hashes."""
        senders = list(dict.fromkeys(tx.sender for tx in transactions))
        counts = self.batch([("eth_getTransactionCount", (sender, "pending")) for sender in senders])
        nonces = {sender: int(count, 16) for sender, count in zip(senders, counts, strict=True)}
        requests = []
        for tx in transactions:
            requests.append(("eth_sendTransaction", (_fields(tx, nonces[tx.sender]),)))
            nonces[tx.sender] += 1
        return self.batch(requests)

    def receipts(self, block: str | int = "latest") -> dict[str, Mapping[str, Any]]:
        """Return the receipts of one block by transaction hash; one by one they would be slow."""
        found = self.rpc("eth_getBlockReceipts", hex(block) if isinstance(block, int) else block)
        return {receipt["transactionHash"]: receipt for receipt in found or ()}

    def reverts(self, hashes: Sequence[str]) -> list[str]:
        """Say why included transactions failed, by running them again."""
        tracer = {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": True}}
        traces = self.batch([("debug_traceTransaction", (tx_hash, tracer)) for tx_hash in hashes])
        outputs = [bytes.fromhex(str(trace.get("output", "0x"))[2:]) for trace in traces]
        return [
            revert_name(output) if output else str(trace.get("error", "no error"))
            for trace, output in zip(traces, outputs, strict=True)
        ]

    def run(self, transactions: Sequence[Tx], timestamp_s: UnixS | None = None) -> int:
        """Send transactions and mine them, the first block at ``timestamp_s``, each next one a second later.

        Returns the number of blocks; raises ChainFault with the revert where a transaction failed.
        """
        starts = range(0, len(transactions), BLOCK_TXS)
        for number, start in enumerate(starts):
            self._run_block(
                transactions[start : start + BLOCK_TXS], None if timestamp_s is None else timestamp_s + number
            )
        return len(starts)

    def _run_block(self, transactions: Sequence[Tx], timestamp_s: UnixS | None) -> None:
        hashes = self.send(transactions)
        self.mine(timestamp_s)
        receipts = self.receipts()
        for tx, tx_hash in zip(transactions, hashes, strict=True):
            receipt = receipts.get(tx_hash)
            if receipt is None or receipt["status"] != "0x1":
                why = self._why(tx, tx_hash, receipt)
                raise ChainFault(f"transaction {tx_hash} to {tx.to} failed: {why}")

    def _why(self, tx: Tx, tx_hash: str, receipt: Mapping[str, Any] | None) -> str:
        if receipt is None:
            return "it was not included"
        return f"{self.reverts([tx_hash])[0]}, gas limit {tx.gas}"

    def _post(self, body: Any) -> Any:
        payload = json.dumps(body)
        try:
            self._connection.request("POST", "/", payload, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise ChainFault(f"the node at {self.http_url} does not answer: {error!r}") from error


def _request(number: int, method: str, params: Sequence[Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}


def _result(answer: Any, method: str) -> Any:
    if not isinstance(answer, dict) or "result" not in answer:
        fault = answer.get("error", answer) if isinstance(answer, dict) else answer
        raise ChainFault(f"{method} failed: {fault}")
    return answer["result"]


def _fields(tx: Tx, nonce: int) -> dict[str, str]:
    fields = {
        "from": tx.sender,
        "data": "0x" + tx.data.hex(),
        "gas": hex(tx.gas),
        "nonce": hex(nonce),
        "maxFeePerGas": hex(MAX_FEE),
        "maxPriorityFeePerGas": hex(GWEI),
    }
    return {**fields, "to": tx.to} if tx.to is not None else fields


def find_anvil() -> Path:
    """Return the Anvil program: KEEPER_ANVIL, tools/bin, or from PATH; ConfigError where there is none."""
    beside = Path(__file__).resolve().parents[2] / "tools" / "bin" / "anvil"
    on_path = shutil.which("anvil")
    named = os.environ.get(VARIABLE)
    candidates = [Path(named)] if named else [beside, *([Path(on_path)] if on_path else [])]
    for path in candidates:
        if not (path.is_file() and os.access(path, os.X_OK)):
            continue
        with path.open("rb") as file:
            # npm's anvil is a script around the program: killing the script leaves the program behind.
            if file.read(2) != b"#!":
                return path
    looked = ", ".join(map(str, candidates))
    raise ConfigError(f"no Anvil program at {looked}: run scripts/setup, or set {VARIABLE} to its path")


@contextmanager
def anvil(
    *,
    timestamp_s: UnixS,
    gas_limit: int = GAS_LIMIT,
    code_size_limit: bool = True,
    fork_url: str | None = None,
) -> Iterator[Node]:
    """Start an Anvil that mines on demand and impersonates any sender; stop it however the block is left.

    The chain id is random and checked before anything is written, so that nothing else on this machine is
    ever taken for it. Without ``code_size_limit`` contracts may be larger than 24,576 bytes. With a
    ``fork_url`` it goes on from the newest block of another node, which is only read.
    """
    program = find_anvil()
    options = [] if code_size_limit else ["--disable-code-size-limit"]
    options += ["--fork-url", fork_url, "--no-storage-caching"] if fork_url else []
    with tempfile.TemporaryDirectory(prefix="keeper-anvil-") as folder, tempfile.TemporaryFile() as output:
        for attempt in range(3):
            process, node = _start(program, timestamp_s, gas_limit, Path(folder), output, options)
            try:
                # Another program may have taken the free port in between: then try a new one.
                if not _answers(node, process):
                    if attempt < 2:
                        continue
                    output.seek(0)
                    said = output.read().decode(errors="replace").strip()[-400:]
                    raise ChainFault(f"{program} did not start: {said or 'no answer'}")
                yield node
                return
            finally:
                node.close()
                stop(process)


def _start(
    program: Path,
    timestamp_s: UnixS,
    gas_limit: int,
    folder: Path,
    output: IO[bytes],
    options: Sequence[str],
) -> tuple[subprocess.Popen[bytes], Node]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    chain_id = CHAIN_ID_FLOOR + randbelow(2**31 - CHAIN_ID_FLOOR)
    command = [
        *(str(program), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id)),
        *("--no-mining", "--auto-impersonate", "--timestamp", str(timestamp_s)),
        *("--gas-limit", str(gas_limit), "--accounts", "1", "--no-request-size-limit"),
        *("--cache-path", str(folder), "--quiet", *options),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    return process, Node(port, chain_id)


def _answers(node: Node, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + STARTUP_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return int(node.rpc("eth_chainId"), 16) == node.chain_id
        except ChainFault:
            time.sleep(0.01)
    return False


def stop(process: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    """End a process of ours: ask, wait, then force."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
