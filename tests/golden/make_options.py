"""Golden values of option prices and greeks: QuantLib's analytic engine for European options."""

from itertools import product
from typing import Any

import QuantLib as Ql

LIBRARIES = ("QuantLib",)
TODAY = Ql.Date(2, 1, 2026)
DAYS = (1, 30, 365)


def row(formula: str, given: dict[str, Any], days: int) -> dict[str, Any]:
    """Return what QuantLib finds; of `black_76` with the forward held, so that rho is the discount's only."""
    is_76 = formula == "black_76"
    spot = given["forward"] if is_76 else given["spot"]
    dividend = given["rate"] if is_76 else given["dividend"]

    def flat(rate: float) -> Ql.YieldTermStructureHandle:
        return Ql.YieldTermStructureHandle(Ql.FlatForward(TODAY, rate, Ql.Actual365Fixed()))

    vol = Ql.BlackConstantVol(TODAY, Ql.NullCalendar(), given["sd"], Ql.Actual365Fixed())
    process = Ql.BlackScholesMertonProcess(
        Ql.QuoteHandle(Ql.SimpleQuote(spot)),
        flat(dividend),
        flat(given["rate"]),
        Ql.BlackVolTermStructureHandle(vol),
    )
    kind = Ql.Option.Call if given["is_call"] else Ql.Option.Put
    option = Ql.VanillaOption(
        Ql.PlainVanillaPayoff(kind, given["strike"]), Ql.EuropeanExercise(TODAY + Ql.Period(days, Ql.Days))
    )
    option.setPricingEngine(Ql.AnalyticEuropeanEngine(process))
    found = {
        "price": option.NPV(),
        "delta": option.delta(),
        "gamma": option.gamma(),
        "vega": option.vega(),
        "theta": option.theta(),
        "rho": option.rho() + (option.dividendRho() if is_76 else 0.0),
    }
    return {"formula": formula, "given": given, "found": found}


def make() -> dict[str, Any]:
    """Return rows of what is given and what QuantLib finds."""
    Ql.Settings.instance().evaluationDate = TODAY
    rows = []
    for days, strike, (rate, sd), is_call in product(
        DAYS, (70.0, 100.0, 130.0), ((0.05, 0.6), (-0.01, 0.25)), (True, False)
    ):
        shared = {"strike": strike, "rate": rate, "sd": sd, "expiry_y": days / 365, "is_call": is_call}
        rows.append(row("black_scholes", {"spot": 102.0, "dividend": 0.02, **shared}, days))
        rows.append(row("black_76", {"forward": 102.0, **shared}, days))
    return {"rows": rows}
