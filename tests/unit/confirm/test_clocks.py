"""Two clocks where a protocol knows one."""

from keeper.confirm.clocks import Params, confirm, divergence_wad
from keeper.domain import Agree, ChainTime, Refuse, Verdict, Wait
from keeper.lending.words import Sight
from keeper.units import WAD

AT = ChainTime(101, 1_000_000)
PARAMS = Params()


def sight(fast: float | None = 1.0, *, age_s: int = 600) -> Sight:
    return Sight("ETH/USD", None if fast is None else int(fast * WAD), WAD, AT.timestamp_s - age_s)


def judge(chain: bool, fast: bool, *sights: Sight) -> Verdict:
    return confirm(
        chain=chain, fast=fast, found="0.99 and 0.97", sights=sights or (sight(),), at=AT, params=PARAMS
    )


def rule(verdict: Verdict) -> str:
    assert isinstance(verdict, Wait | Refuse)
    return verdict.reason.rule


def test_both_clocks_agree_with_how_the_account_stands_at_each_as_evidence() -> None:
    assert judge(True, True) == Agree("0.99 and 0.97")


def test_while_only_the_fast_price_breaches_it_waits_for_the_oracle() -> None:
    verdict = judge(False, True)
    assert isinstance(verdict, Wait)
    assert (verdict.until_block, verdict.reason.rule) == (102, "confirm.oracle_lags")
    assert verdict.reason.evidence == "0.99 and 0.97"


def test_a_fast_price_that_clears_the_account_holds_back_until_the_newest_answer_has_stood() -> None:
    young = judge(True, False, sight(1.2, age_s=5), sight(age_s=1_000))
    assert isinstance(young, Wait)
    assert (young.until_block, young.reason.rule) == (101 + 2, "confirm.fast_disagrees")
    assert judge(True, False, sight(1.2, age_s=24)) == Agree(
        "0.99 and 0.97; the chain alone, 24 s after its newest answer"
    )


def test_a_feed_that_does_not_tell_its_time_is_taken_to_have_stood() -> None:
    assert isinstance(judge(True, False, Sight("ETH/USD", 12 * WAD // 10, WAD, 0)), Agree)
    alone = confirm(chain=True, fast=False, found="", sights=(), at=AT, params=PARAMS)
    assert isinstance(alone, Agree)


def test_without_a_fast_price_the_oracle_is_believed_and_the_evidence_says_so() -> None:
    assert judge(True, True, sight(None)) == Agree("0.99 and 0.97, without a fast price of ETH/USD")


def test_an_answer_older_than_every_heartbeat_is_no_evidence() -> None:
    assert rule(judge(True, True, sight(age_s=90_001))) == "oracle.stale"
    assert isinstance(judge(True, True, sight(age_s=90_000)), Agree)


def test_clocks_too_far_apart_are_believed_neither() -> None:
    for chain in (True, False):
        assert rule(judge(chain, True, sight(0.69))) == "oracle.divergent"
    assert isinstance(judge(True, True, sight(0.7)), Agree)


def test_divergence_is_rounded_up() -> None:
    assert divergence_wad(Sight("ETH/USD", 4, 3, 0)) == -(-WAD // 3)
    assert divergence_wad(Sight("ETH/USD", None, 3, 0)) == 0
