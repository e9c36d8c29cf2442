"""Every rule that can hold an act up has a test in which it does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from keeper.journal import guard
from keeper.protocols.aave_v3.math import Unmet
from tests.scenarios.refusals import ON_BOTH, ON_ONE
from tests.scenarios.stories import NEVER_FOLLOWS, STORIES

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[a-z]+\.[a-z_]+")
SAYS = frozenset({"Reason", "_wait", "refuse", "_refuse", "loss_wad", "unprofitable"})
"""Whatever is called with the name of a rule; ``_refuse`` of the guard puts ``limit.`` before it."""
LOGS = frozenset({"debug", "info", "warning", "error", "say"})
PRICES = ("fast", "slow", "execution")
TOLD = ("unit", "properties", "scenarios", "anvil")
POOL = {f"pool.{each.name.lower()}" for each in Unmet}
ELSEWHERE = {
    "Perpetual has it, and no protocol on stage": {
        *("takeover.none", "takeover.refused", "takeover.unprofitable"),
    },
    "sizes of Aave are chosen so that its pool takes them: it is what a search is told": {
        *("pool.dust", "pool.nothing"),
    },
    "the steward asks it before it posts a risk array, moves margins or settles an expiry": {
        *("data.missing", "data.swung", "data.uncertain"),
        *("margins.breaches", "margins.disputed", "margins.no_bounds", "margins.not_newer"),
        *("margins.too_soon", "margins.unchanged"),
        *("array.delta", "array.mark", "array.no_ref", "array.scenario_"),
        *("settle.fast_stale", "settle.price_before_expiry", "settle.prices_apart", "settle.slow_stale"),
    },
    "it says of reports why one is left out, or how they compare; no decision is held up by it": {
        *("report.from_future", "report.no_price", "report.not_newer", "report.past_validity"),
        *("report.too_old", "report.unconfident", "reports.faulty", "reports.in_order"),
    },
    "no desk is asked about an account that has a transaction out; the guard asks anyway": {
        "limit.duplicate"
    },
    "the verdict has asked it of the account before anything is planned": {
        *("morpho.unknown", "size.no_way", "slope.not_breached", "slope.not_confirmed"),
        *("pool.healthy", "pool.not_borrowed", "venus.unknown"),
        "taker.own_account",
    },
    "who has what is not listed, or what has no view, is not judged at all": {"oracle.unknown"},
    "so small a slice is tried only in search of one that the margin bears, and passed over": {
        *("slope.empty_slice", "slope.slice_outside"),
    },
    "it takes several steps of the wallet at once, and the stage has one account at risk": {
        *("nonce.held", "send.gap", "simulation.order"),
    },
    "it is the name of a file": {"book.snapshot"},
}
"""The rules in no table of this folder: why, and which; ``_`` at an end stands for sixteen numbers."""


def rules() -> set[str]:
    """Return the names of all rules, as the code writes them: in place, or put into a variable before."""
    trees = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "keeper").rglob("*.py"))}
    found = {*POOL}
    found |= {f"{kind}.no_breach_at_{price}" for kind in ("confirm", "slope") for price in PRICES}
    logged: set[str] = set()
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _called(node) in SAYS:
                found |= set(_names(node, is_guard=path.name == "guard.py"))
            elif isinstance(node, ast.Call) and _called(node) in LOGS:
                logged |= set(_names(node, is_guard=False))
    kinds = {name.partition(".")[0] for name in found}
    words = {
        node.value for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Constant)
    }
    names = {each for each in words if isinstance(each, str) and NAME.fullmatch(each)}
    return found | {each for each in names - logged if each.partition(".")[0] in kinds}


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _names(node: ast.Call, *, is_guard: bool) -> Iterator[str]:
    for each in node.args[:2]:
        said = each.value if isinstance(each, ast.Constant) else None
        if not isinstance(said, str):
            continue
        if NAME.fullmatch(said):
            yield said
        elif is_guard and each is node.args[0] and said.isidentifier():
            yield f"limit.{said}"


def told(*folders: str) -> str:
    """Return the text of all tests in some folders."""
    here = Path(__file__)
    paths = (path for folder in folders for path in sorted((ROOT / "tests" / folder).rglob("*.py")))
    return "\n".join(path.read_text() for path in paths if path != here)


def test_each_rule_is_met_in_a_test() -> None:
    found = rules()
    assert {
        "confirm.fast_disagrees",
        "limit.backoff",
        "size.rest",
        "book.halted",
        "alarm.unprofitable",
    } <= found
    assert len([each for each in found if each.startswith("limit.")]) == len(guard.RULES)
    text = told(*TOLD)
    # Of a pool's own refusals the name follows from the enumeration.
    met = {f"pool.{each.name.lower()}" for each in Unmet if str(each) in text}
    assert {rule for rule in found - met if rule not in text} == set()


def test_each_rule_that_a_keeper_on_stage_can_meet_is_in_a_table() -> None:
    ends = " ".join(str(each) for story in (*STORIES, NEVER_FOLLOWS) for each in story.ends.values())
    staged = {*ON_BOTH, *(rule for rule, _ in ON_ONE), *NAME.findall(ends)}
    elsewhere = [rule for some in ELSEWHERE.values() for rule in some]
    assert sorted([*staged, *elsewhere]) == sorted(rules())
