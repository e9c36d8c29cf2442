"""Two clocks where a protocol knows one."""

from keeper.confirm.clocks import Params, confirm, divergence_wad
from keeper.domain import Agree, ChainTime, Reason, Refuse, Verdict, Wait
from keeper.lending.words import Sight, Standing
from keeper.units import WAD

AT = ChainTime(101, 1_000_000)
PARAMS = Params()
PAUSED = Reason("protocol.ReservePaused", "paused", "open")


def standing(health: float | None, unmet: Reason | None = None) -> Standing:
    return Standing(None if health is None else int(health * WAD), 100 * WAD, 120 * WAD, unmet)


def sight(fast: float | None = 1.0, *, age_s: int = 600) -> Sight:
    return Sight("ETH/USD", None if fast is None else int(fast * WAD), WAD, AT.timestamp_s - age_s)


def judge(fast: float | None, chain: float | None, *sights: Sight) -> Verdict | None:
    return confirm(standing(fast), standing(chain), sights or (sight(),), AT, PARAMS)


def rule(verdict: Verdict | None) -> str:
    assert isinstance(verdict, Wait | Refuse)
    return verdict.reason.rule


def test_both_clocks_agree_with_the_health_at_each_as_evidence() -> None:
    assert judge(0.97, 0.99) == Agree("health 0.990000 at the oracle's price, 0.970000 at the fast one")


def test_without_a_breach_there_is_no_verdict() -> None:
    assert judge(1.0, 1.0) is None
    assert judge(None, None) is None


def test_while_only_the_fast_price_breaches_it_waits_for_the_oracle() -> None:
    verdict = judge(0.999, 1.0)
    assert isinstance(verdict, Wait)
    assert (verdict.until_block, verdict.reason.rule) == (102, "confirm.oracle_lags")


def test_a_fast_price_that_clears_the_account_holds_back_until_the_answer_has_stood() -> None:
    young = judge(1.2, 0.99, sight(1.2, age_s=5), sight(age_s=1_000))
    assert isinstance(young, Wait)
    assert (young.until_block, young.reason.rule) == (101 + 2, "confirm.fast_disagrees")
    assert isinstance(judge(1.2, 0.99, sight(1.2, age_s=24)), Agree)


def test_a_feed_that_does_not_tell_its_time_is_taken_to_have_stood() -> None:
    assert isinstance(judge(1.2, 0.99, Sight("ETH/USD", 12 * WAD // 10, WAD, 0)), Agree)
    assert isinstance(confirm(standing(1.2), standing(0.9), (), AT, PARAMS), Agree)


def test_without_a_fast_price_the_oracle_is_believed_and_the_evidence_says_so() -> None:
    verdict = judge(0.99, 0.99, sight(None))
    assert isinstance(verdict, Agree)
    assert verdict.evidence.endswith("without a fast price of ETH/USD")


def test_an_answer_older_than_every_heartbeat_is_no_evidence() -> None:
    assert rule(judge(0.9, 0.9, sight(age_s=90_001))) == "oracle.stale"
    assert isinstance(judge(0.9, 0.9, sight(age_s=90_000)), Agree)


def test_clocks_too_far_apart_are_refused() -> None:
    assert rule(judge(0.7, 0.99, sight(0.69))) == "oracle.divergent"
    assert isinstance(judge(0.7, 0.99, sight(0.7)), Agree)


def test_divergence_is_rounded_up() -> None:
    assert divergence_wad(Sight("ETH/USD", 4, 3, 0)) == -(-WAD // 3)
    assert divergence_wad(Sight("ETH/USD", None, 3, 0)) == 0


def test_what_the_protocol_refuses_now_is_waited_for_in_its_own_words() -> None:
    verdict = confirm(standing(0.9), standing(0.9, PAUSED), (sight(),), AT, PARAMS)
    assert verdict == Wait(102, PAUSED)
