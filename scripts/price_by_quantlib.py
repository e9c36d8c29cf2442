"""Price options with QuantLib and print the times: run by ``bench_risk`` in an environment of its own.

On standard input: ``rows``, of each option whether it is a call, its strike, and spots and spreads in the
scenarios; ``passes``. On standard output: microseconds a pass.
"""

import json
import sys
import time

import QuantLib as Ql

TYPES = {True: Ql.Option.Call, False: Ql.Option.Put}


def main() -> None:
    """Price all of it so many times and once more before, which does not count."""
    asked = json.load(sys.stdin)
    passed_us = []
    for _ in range(asked["passes"] + 1):
        began_ns = time.perf_counter_ns()
        for is_call, strike, spots, spreads in asked["rows"]:
            kind = TYPES[is_call]
            for spot, spread in zip(spots, spreads, strict=True):
                Ql.blackFormula(kind, strike, spot, spread)
        passed_us.append((time.perf_counter_ns() - began_ns) / 1e3)
    print(json.dumps(passed_us[1:]))


if __name__ == "__main__":
    main()
