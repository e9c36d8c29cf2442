// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Book, Kind, Leg, Margin, WAD} from "../../src/HybridTypes.sol";
import {MarginMath} from "../../src/MarginMath.sol";
import {Portfolio} from "../../src/Portfolio.sol";
import {PortfolioBase} from "../Portfolio.t.sol";

/// @notice Legs of one underlying, every number from one seed.
abstract contract AnyPortfolio is PortfolioBase {
    /// @dev What an option that perps cover in part is rounded by: a wei of size, at most 200 to pay and 110 to cover.
    uint256 internal constant PART = 310;

    function word(uint256 seed, uint256 i) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, i)));
    }

    function sized(uint256 seed) internal pure returns (int256) {
        return bound(int256(word(seed, 1)), -1e24, 1e24);
    }

    /// @dev An option with an array of its own price P: any values that RiskArrays would accept.
    function anyOption(uint256 seed) internal pure returns (Leg memory leg) {
        leg = option(
            word(seed, 2) % 2 == 0 ? Kind.Call : Kind.Put, bound(word(seed, 3), 50e18, 200e18), sized(seed)
        );
        leg.expiry = word(seed, 4) % 2 == 0 ? SOON : LATER;
        leg.array.mark = anyValue(leg, P, word(seed, 5));
        int256 delta = int256(bound(word(seed, 6), 0, WAD));
        leg.array.delta = leg.kind == Kind.Call ? delta : -delta;
        for (uint256 s; s < 16; ++s) {
            uint256 value = anyValue(leg, end(s), word(seed, 10 + s));
            leg.array.pnl[s] = int256(value) - int256(leg.array.mark);
        }
    }

    function anyValue(Leg memory leg, uint256 price, uint256 random) private pure returns (uint256) {
        uint256 low = Portfolio.payoff(leg.kind, leg.strike, price);
        return bound(random, low, Portfolio.ceiling(leg.kind, leg.strike, price));
    }

    /// @dev The underlying's price in a scenario.
    function end(uint256 s) internal pure returns (uint256) {
        return uint256(int256(P) + Portfolio.move(s) * 2e18);
    }

    function anyLegs(uint256 seed, uint256 count, uint256 perps) internal pure returns (Leg[] memory legs) {
        legs = new Leg[](count);
        for (uint256 i; i < count; ++i) {
            legs[i] = i < perps ? perp(sized(word(seed, i))) : anyOption(word(seed, i));
        }
    }

}

contract PortfolioFuzzTest is AnyPortfolio {
    /// @dev What rounding may do to the sum over a book: a few wei a leg.
    uint256 private constant SLACK = 64;

    /// @dev Between one leg and four, of which some are perps.
    function few(uint256 seed) private pure returns (Leg[] memory) {
        uint256 count = 1 + word(seed, 100) % 4;
        return anyLegs(seed, count, word(seed, 101) % (count + 1));
    }

    function joined(Leg[] memory a, Leg[] memory b) private pure returns (Leg[] memory legs) {
        legs = new Leg[](a.length + b.length);
        for (uint256 i; i < legs.length; ++i) {
            legs[i] = i < a.length ? a[i] : b[i - a.length];
        }
    }

    function scaled(Leg[] memory legs, uint256 k) private pure returns (Leg[] memory many) {
        many = abi.decode(abi.encode(legs), (Leg[]));
        for (uint256 i; i < many.length; ++i) {
            many[i].size *= int256(k);
        }
    }

    function test_the_requirement_is_homogeneous_of_degree_one(uint256 seed, uint256 k) public pure {
        k = bound(k, 1, 1000);
        Leg[] memory legs = few(seed);
        assertApproxEqAbs(required(scaled(legs, k)), required(legs) * k, SLACK * k);
        assertApproxEqAbs(fallen(scaled(legs, k)), fallen(legs) * k, (SLACK + 4 * PART) * k);
    }

    /// @dev What pairing calls sold with calls bought may add to their max loss: a spread is taken to its last
    /// strike, a call sold alone only to the end of the range, 106, where it is covered.
    function pairing(Leg[] memory legs) private pure returns (uint256) {
        (uint256 calls, uint256 last) = (0, 106e18);
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].kind == Kind.Call && legs[i].size < 0) calls += MarginMath.abs(legs[i].size);
            if (legs[i].strike > last) last = legs[i].strike;
        }
        return MarginMath.mulWadUp(calls, last - 106e18);
    }

    /// @dev No strike above the end of the range.
    function lowered(Leg[] memory legs) private pure returns (Leg[] memory) {
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].strike > 106e18) legs[i].strike /= 2;
        }
        return legs;
    }

    /// @dev The perps alone, or the options.
    function some(Leg[] memory legs, bool perps) private pure returns (Leg[] memory found) {
        uint256 count;
        found = new Leg[](legs.length);
        for (uint256 i; i < legs.length; ++i) {
            if ((legs[i].kind == Kind.Perp) == perps) found[count++] = legs[i];
        }
        assembly ("memory-safe") {
            mstore(found, count)
        }
    }

    /// @dev Perps and options judged apart from each other.
    function parted(Leg[] memory legs) private pure returns (uint256 total) {
        Leg[] memory part = some(legs, true);
        if (part.length > 0) total = fallen(part);
        part = some(legs, false);
        if (part.length > 0) total += fallen(part);
    }

    function test_cover_never_raises_a_requirement(uint256 seed) public pure {
        Leg[] memory legs = few(seed);
        assertLe(fallen(legs), parted(legs));
    }

    /// @dev Without arrays, no more than with perps and options apart as well: a perp sold takes a perp's cover away.
    function test_two_books_together_require_no_more_than_apart(uint256 seed) public pure {
        (Leg[] memory a, Leg[] memory b) = (few(word(seed, 1)), few(word(seed, 2)));
        Leg[] memory all = joined(a, b);
        assertLe(required(all), required(a) + required(b) + SLACK);
        assertLe(fallen(all), parted(a) + parted(b) + pairing(all) + SLACK);
        (a, b) = (lowered(a), lowered(b));
        assertLe(fallen(joined(a, b)), parted(a) + parted(b) + SLACK);
    }

    function apart(Leg[] memory legs) private pure returns (uint256 total, uint256 totalFallen) {
        for (uint256 i; i < legs.length; ++i) {
            total += required(held(legs[i]));
            totalFallen += fallen(held(legs[i]));
        }
    }

    function test_a_hedge_never_costs_more_than_its_legs(uint256 seed) public pure {
        Leg[] memory legs = anyLegs(seed, 8, 2);
        (uint256 total, uint256 totalFallen) = apart(legs);
        assertLe(required(legs), total + SLACK);
        assertLe(fallen(legs), totalFallen + pairing(legs) + SLACK);
        (, totalFallen) = apart(lowered(legs));
        assertLe(fallen(legs), totalFallen + SLACK);
    }

    function test_an_option_bought_and_sold_requires_its_short_minimum_alone(uint256 seed) public pure {
        Leg memory leg = anyOption(seed);
        leg.size = int256(MarginMath.abs(leg.size));
        Leg memory back = abi.decode(abi.encode(leg), (Leg));
        back.size = -leg.size;
        Leg[] memory legs = held(leg, back);
        uint256 least = Portfolio.shortMinimum(legs, group(legs, 0.06e18), P);
        assertApproxEqAbs(required(legs), least, 2);
        assertApproxEqAbs(fallen(legs), least, 2);
    }

    /// @dev The definition, scenario by scenario and without netting rows first.
    function slowly(Leg[] memory legs, uint256 rate) private pure returns (int256 worst) {
        for (uint256 s; s < 16; ++s) {
            int256 total;
            for (uint256 i; i < legs.length; ++i) {
                total += legs[i].kind == Kind.Perp ? perpGain(legs[i].size, s, rate) : optionGain(legs[i], s, rate);
            }
            if (-total > worst) worst = -total;
        }
    }

    function perpGain(int256 size, uint256 s, uint256 rate) private pure returns (int256) {
        uint256 range = MarginMath.mulWadUp(MarginMath.mulWadUp(MarginMath.abs(size), P), rate);
        int256 thirds = s == 14 ? int256(3) : s == 15 ? int256(-3) : Portfolio.move(s);
        if (size < 0) thirds = -thirds;
        return thirds >= 0
            ? int256(range) * thirds / 3
            : -int256((range * uint256(-thirds) + 2) / 3);
    }

    function optionGain(Leg memory leg, uint256 s, uint256 rate) private pure returns (int256 gain) {
        gain = floored(leg.size * leg.array.pnl[s], 1e18);
        gain = floored(gain * int256(rate), 0.06e18);
        if (s >= 14) gain = floored(gain, 3);
    }

    function floored(int256 a, int256 b) private pure returns (int256) {
        return a >= 0 ? a / b : -((-a + b - 1) / b);
    }

    function test_the_requirement_is_the_worst_scenario_to_the_wei(uint256 seed, uint256 rate) public pure {
        rate = bound(rate, 0.06e18, 0.5e18);
        Leg[] memory legs = few(seed);
        assertEq(int256(Portfolio.scenarioLoss(legs, group(legs, 0.06e18), P)), slowly(legs, 0.06e18));
        assertEq(int256(Portfolio.scenarioLoss(legs, group(legs, rate), P)), slowly(legs, rate));
    }

    function test_perps_alone_require_the_same_with_and_without_scenarios(uint256 seed) public pure {
        Leg[] memory legs = anyLegs(seed, 4, 4);
        assertEq(
            Portfolio.netPerps(legs, group(legs, 0.06e18), P), Portfolio.scenarioLoss(legs, group(legs, 0.06e18), P)
        );
        assertEq(fallen(legs), required(legs));
    }

    function test_a_larger_rate_asks_in_proportion(uint256 seed, uint256 rate) public pure {
        rate = bound(rate, 0.06e18, 0.5e18);
        Leg[] memory legs = few(seed);
        uint256 grown = Portfolio.requirement(legs, group(legs, rate), P, T0);
        assertApproxEqAbs(grown, required(legs) * rate / 0.06e18, SLACK);
        grown = Portfolio.requirement(legs, group(legs, rate), P, T0 + 601);
        assertApproxEqAbs(grown, fallen(legs) * rate / 0.06e18, SLACK);
    }

    function payoffs(Leg[] memory legs, uint256 price) private pure returns (int256 total) {
        for (uint256 i; i < legs.length; ++i) {
            uint256 paid = Portfolio.payoff(legs[i].kind, legs[i].strike, price);
            total += floored(legs[i].size * int256(paid), 1e18);
        }
    }

    function uncovered(Leg[] memory legs) private pure returns (uint256) {
        int256 calls;
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].kind == Kind.Call) calls += legs[i].size;
        }
        return calls < 0 ? uint256(-calls) : 0;
    }

    function marks(Leg[] memory legs) private pure returns (int256 total) {
        for (uint256 i; i < legs.length; ++i) {
            total += floored(legs[i].size * int256(Portfolio.unitValue(legs[i], P)), 1e18);
        }
    }

    /// @dev Up to four options of one expiry.
    function expiring(uint256 seed) private pure returns (Leg[] memory legs) {
        legs = anyLegs(seed, 1 + word(seed, 100) % 4, 0);
        for (uint256 i; i < legs.length; ++i) {
            legs[i].expiry = SOON;
        }
    }

    /// @dev With calls sold beyond those bought covered, and the cover paid for at the end of the range.
    function worstPayoff(Leg[] memory legs) private pure returns (int256 worst) {
        uint256 n = uncovered(legs);
        worst = payoffs(legs, 0);
        for (uint256 i; i < legs.length; ++i) {
            int256 there = payoffs(legs, legs[i].strike) + int256(n * legs[i].strike / WAD);
            if (there < worst) worst = there;
        }
        uint256 paid = MarginMath.mulWadUp(n, P);
        worst -= int256(paid + MarginMath.mulWadUp(paid, 0.06e18));
    }

    /// @dev E - M, but for the short options' minimum.
    function left(Leg[] memory legs) private pure returns (int256) {
        (Book memory b, uint256[] memory prices) = bookOf(legs, 1e24);
        Margin memory m = MarginMath.maintenance(b, prices, T0 + 601);
        uint256 least = Portfolio.shortMinimum(legs, group(legs, 0.06e18), P);
        return m.equity - int256(m.requirement - least);
    }

    function test_max_loss_leaves_cash_and_the_worst_payoff_whatever_the_marks(uint256 seed) public pure {
        Leg[] memory legs = expiring(seed);
        int256 worst = worstPayoff(legs);
        // Marks below the worst payoff contradict each other; the requirement is then nothing.
        int256 marked = marks(legs);
        assertEq(left(legs), 1e24 + (worst < marked ? worst : marked));
    }

    /// @dev Calls sold without others bought are covered at the end of the range above today's price.
    function test_no_price_at_expiry_leaves_less_than_max_loss(uint256 seed, uint256 price) public pure {
        price = bound(price, 0, 1000e18);
        Leg[] memory legs = expiring(seed);
        int256 n = int256(uncovered(legs));
        int256 covered = n * (int256(price) - 106e18) / 1e18;
        assertGe(1e24 + payoffs(legs, price) + covered + int256(SLACK), left(legs));
        // Nor does waiting, as long as the price stays within the range.
        if (price <= 106e18) assertGe(1e24 + payoffs(legs, price) + int256(SLACK), left(legs));
    }

    /// @dev What perps and options lose until the price is `end`, each option then worth what it pays.
    function lost(Leg[] memory legs, uint256 end) private pure returns (int256) {
        Leg[] memory part = some(legs, false);
        return marks(part) - payoffs(part, end) - moved(legs, end);
    }

    function moved(Leg[] memory legs, uint256 end) private pure returns (int256 total) {
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].kind == Kind.Perp) total += floored(legs[i].size * (int256(end) - int256(P)), 1e18);
        }
    }

    /// @dev Beside the short options' minimum.
    function charged(Leg[] memory legs) private pure returns (int256) {
        return int256(fallen(legs) - Portfolio.shortMinimum(legs, group(legs, 0.06e18), P));
    }

    function test_no_price_within_the_range_takes_more_than_is_required(uint256 seed, uint256 end) public pure {
        end = bound(end, 94e18, 106e18);
        Leg[] memory legs = few(seed);
        assertLe(lost(legs, end), charged(legs) + int256(SLACK));
    }

    /// @dev A perp, and calls sold against it or puts, whose arrays ask for nothing.
    function coveredBook(uint256 seed) private pure returns (Leg[] memory legs) {
        legs = anyLegs(seed, 4, 1);
        bool long = legs[0].size >= 0;
        int256 sold;
        for (uint256 i = 1; i < 4; ++i) {
            Leg memory leg = legs[i];
            leg.kind = long ? Kind.Call : Kind.Put;
            leg.size = -int256(MarginMath.abs(leg.size));
            leg.array.mark = Portfolio.payoff(leg.kind, leg.strike, P);
            delete leg.array.pnl;
            sold -= leg.size;
        }
        if (int256(MarginMath.abs(legs[0].size)) < sold) legs[0].size = long ? sold : -sold;
    }

    /// @dev The range of the perp is all that can be lost, and on the covered side there is no end to it.
    function test_a_covered_book_can_lose_no_more_than_its_perp(uint256 seed, uint256 end) public pure {
        Leg[] memory legs = coveredBook(seed);
        end = legs[0].size >= 0 ? bound(end, 94e18, 1000e18) : bound(end, 0, 106e18);
        assertEq(charged(legs), int256(Portfolio.netPerps(legs, group(legs, 0.06e18), P)));
        assertLe(lost(legs, end), charged(legs) + int256(SLACK));
    }

    /// @dev Half up and half down by `spread`: the simplest model without arbitrage.
    function model(Leg memory leg, uint256 price, uint256 spread) private pure returns (uint256) {
        uint256 up = Portfolio.payoff(leg.kind, leg.strike, price * (WAD + spread) / WAD);
        uint256 down = Portfolio.payoff(leg.kind, leg.strike, price * (WAD - spread) / WAD);
        return (up + down) / 2;
    }

    function modelled(uint256 seed) private pure returns (Leg[] memory legs) {
        legs = expiring(seed);
        modelAll(legs, seed);
    }

    /// @dev With more and with less volatility in every second scenario.
    function modelAll(Leg[] memory legs, uint256 seed) private pure {
        uint256 spread = bound(word(seed, 200), 0.1e18, 0.8e18);
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].kind == Kind.Perp) continue;
            legs[i].array.mark = model(legs[i], P, spread);
            for (uint256 s; s < 16; ++s) {
                uint256 its = s >= 14 ? spread : s % 2 == 0 ? spread + 0.1e18 : spread - 0.1e18;
                legs[i].array.pnl[s] = int256(model(legs[i], end(s), its)) - int256(legs[i].array.mark);
            }
        }
    }

    function test_a_covered_book_needs_no_less_because_nobody_posts(uint256 seed) public pure {
        Leg[] memory legs = coveredBook(seed);
        modelAll(legs, seed);
        assertGe(fallen(legs) + 1e7, required(legs));
    }

    function test_max_loss_asks_no_less_than_arrays_without_arbitrage(uint256 seed) public pure {
        Leg[] memory legs = modelled(seed);
        // Values of the model are rounded to the wei, and there are up to 1e6 units a leg.
        assertGe(fallen(legs) + 1e7, required(legs));
    }

    /// @dev Whoever has to close at the marks of another price, and not at the payoffs, loses no more either.
    function test_without_a_change_of_volatility_no_price_takes_more_than_is_required(uint256 seed, uint256 end)
        public
        pure
    {
        end = bound(end, 94e18, 106e18);
        Leg[] memory legs = few(seed);
        uint256 spread = bound(word(seed, 200), 0.1e18, 0.8e18);
        int256 loss = -moved(legs, end);
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].kind == Kind.Perp) continue;
            legs[i].array.mark = model(legs[i], P, spread);
            int256 gain = int256(model(legs[i], end, spread)) - int256(legs[i].array.mark);
            loss -= floored(legs[i].size * gain, 1e18);
        }
        // Rounded to the wei like the model's values above.
        assertLe(loss, charged(legs) + 1e7);
    }

    function test_a_mark_stays_between_its_bounds_and_moves_with_the_price(uint256 seed, uint256 low, uint256 high)
        public
        pure
    {
        high = bound(high, 0, 1e36);
        low = bound(low, 0, high);
        Leg memory leg = anyOption(seed);
        (uint256 atLow, uint256 atHigh) = (Portfolio.unitValue(leg, low), Portfolio.unitValue(leg, high));
        assertGe(atLow, Portfolio.payoff(leg.kind, leg.strike, low));
        assertLe(atLow, Portfolio.ceiling(leg.kind, leg.strike, low));
        if (leg.kind == Kind.Call) assertGe(atHigh, atLow);
        else assertLe(atHigh, atLow);
    }

    function test_an_array_is_current_exactly_within_its_bounds(uint256 price, uint256 ref, uint256 age) public pure {
        ref = bound(ref, 1, 1e30);
        price = bound(price, ref * 97 / 100, ref * 103 / 100);
        age = bound(age, 0, 1200);
        Leg memory leg = option(Kind.Call, P, 1e18);
        leg.array.refPrice = ref;
        bool near = 100 * price <= 102 * ref && 100 * price >= 98 * ref;
        assertEq(Portfolio.current(leg.array, price, T0 + age), near && age <= 600);
    }
}
