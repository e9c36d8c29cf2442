"""Read accounts with multicall.py and print the times: run by ``bench_sync`` in an environment of its own."""

import json
import sys
import time

from multicall import Call, Multicall, constants  # type: ignore[import-not-found]
from web3 import HTTPProvider, Web3


def main() -> None:
    """Read what is asked for on standard input, so many times and once more before, which does not count."""
    asked = json.load(sys.stdin)
    constants.MULTICALL3_ADDRESSES[asked["chain_id"]] = asked["multicall"]
    web3 = Web3(HTTPProvider(asked["url"]))
    keys = [bytes.fromhex(key) for key in asked["keys"]]
    passed_us, own_us = [], []
    for _ in range(asked["passes"] + 1):
        began_ns, own_ns = time.perf_counter_ns(), time.process_time_ns()
        calls = [
            Call(target, [signature, key], [((key, signature), None)])
            for key in keys
            for target, signature in asked["views"]
        ]
        found = Multicall(calls, _w3=web3)()
        own_us.append((time.process_time_ns() - own_ns) / 1e3 / len(keys))
        passed_us.append((time.perf_counter_ns() - began_ns) / 1e3 / len(keys))
        if len(found) != len(calls):
            sys.exit(f"expected {len(calls)} answers, found {len(found)}")
    print(json.dumps({"passed_us": passed_us[1:], "own_us": own_us[1:]}))


if __name__ == "__main__":
    main()
