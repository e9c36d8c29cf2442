// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Book, Kind, Leg, Margin, Risk} from "../src/HybridTypes.sol";
import {MarginMath} from "../src/MarginMath.sol";
import {Portfolio} from "../src/Portfolio.sol";

/// @notice An underlying at 100 with a range of 6, so that a third of it is 2, and four options with arrays made up
/// by hand. The put on 100 follows from the call by parity, the put on 90 mirrors the call on 110.
abstract contract PortfolioBase is Test {
    uint256 internal constant P = 100e18;
    uint256 internal constant T0 = 1_700_000_000;
    uint40 internal constant SOON = 1_702_000_000;
    uint40 internal constant LATER = 1_705_000_000;

    function risk() internal pure returns (Risk memory) {
        return Risk({mmr: 0.06e18, imr: 0.12e18, shortMin: 0.02e18});
    }

    function perp(int256 size) internal pure returns (Leg memory leg) {
        (leg.market, leg.feedId, leg.size, leg.risk) = (1, "ETH", size, risk());
    }

    function option(Kind kind, uint256 strike, int256 size) internal pure returns (Leg memory leg) {
        leg = perp(size);
        (leg.market, leg.kind, leg.strike, leg.expiry) = (2, kind, strike, SOON);
        (leg.array.refPrice, leg.array.observedAt) = (P, T0);
    }

    /// @dev Tenths, in the order of the scenarios.
    function tenths(Leg memory leg, uint256 mark, int256 delta, int16[16] memory pnl) private pure {
        (leg.array.mark, leg.array.delta) = (mark * 1e17, delta * 1e17);
        for (uint256 s; s < 16; ++s) {
            leg.array.pnl[s] = int256(pnl[s]) * 1e17;
        }
    }

    function call100(int256 size) internal pure returns (Leg memory leg) {
        leg = option(Kind.Call, 100e18, size);
        tenths(leg, 50, 5, [int16(10), -10, 20, 0, 0, -20, 32, 12, -8, -28, 45, 25, -15, -35, 140, -40]);
    }

    function put100(int256 size) internal pure returns (Leg memory leg) {
        leg = option(Kind.Put, 100e18, size);
        tenths(leg, 50, -5, [int16(10), -10, 0, -20, 20, 0, -8, -28, 32, 12, -15, -35, 45, 25, -40, 140]);
    }

    function call110(int256 size) internal pure returns (Leg memory leg) {
        leg = option(Kind.Call, 110e18, size);
        tenths(leg, 20, 2, [int16(8), -8, 12, -4, 3, -12, 21, 5, -2, -15, 32, 16, -6, -17, 80, -19]);
    }

    function put90(int256 size) internal pure returns (Leg memory leg) {
        leg = option(Kind.Put, 90e18, size);
        tenths(leg, 20, -2, [int16(8), -8, 3, -12, 12, -4, -2, -15, 21, 5, -6, -17, 32, 16, -19, 80]);
    }

    function at(Leg memory leg, uint40 expiry) internal pure returns (Leg memory) {
        leg.expiry = expiry;
        return leg;
    }

    function held(Leg memory a) internal pure returns (Leg[] memory legs) {
        legs = new Leg[](1);
        legs[0] = a;
    }

    function held(Leg memory a, Leg memory b) internal pure returns (Leg[] memory legs) {
        legs = new Leg[](2);
        (legs[0], legs[1]) = (a, b);
    }

    function held(Leg memory a, Leg memory b, Leg memory c) internal pure returns (Leg[] memory legs) {
        legs = new Leg[](3);
        (legs[0], legs[1], legs[2]) = (a, b, c);
    }

    function group(Leg[] memory legs, uint256 rate) internal pure returns (Portfolio.Group memory g) {
        (g,) = Portfolio.group(legs, 0, rate);
    }

    function maintenance(Leg[] memory legs, uint256 price, uint256 nowS) internal pure returns (uint256) {
        return Portfolio.requirement(legs, group(legs, legs[0].risk.mmr), price, nowS);
    }

    /// @dev With current arrays, at their own price.
    function required(Leg[] memory legs) internal pure returns (uint256) {
        return maintenance(legs, P, T0);
    }

    /// @dev Without arrays to judge by.
    function fallen(Leg[] memory legs) internal pure returns (uint256) {
        return maintenance(legs, P, T0 + 601);
    }

    function bookOf(Leg[] memory legs, int256 cash) internal pure returns (Book memory b, uint256[] memory prices) {
        (b.cash, b.legs) = (cash, legs);
        prices = new uint256[](legs.length);
        for (uint256 i; i < legs.length; ++i) {
            prices[i] = P;
        }
    }
}

contract PortfolioTest is PortfolioBase {
    function test_scenarios_come_in_the_order_of_span() public pure {
        int8[16] memory thirds = [int8(0), 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 9, -9];
        for (uint256 s; s < 16; ++s) {
            assertEq(Portfolio.move(s), thirds[s]);
        }
    }

    function test_a_perp_requires_its_range() public pure {
        assertEq(required(held(perp(2e18))), 12e18);
        assertEq(required(held(perp(-2e18))), 12e18);
    }

    function test_perps_of_one_underlying_net() public pure {
        assertEq(required(held(perp(5e18), perp(-3e18))), 12e18);
        assertEq(required(held(perp(5e18), perp(-5e18))), 0);
    }

    /// @dev Worst at 2 points of volatility down: the long call loses 3.5 with the price 6 down.
    function test_a_long_option_requires_its_worst_scenario() public pure {
        assertEq(required(held(call100(1e18))), 3.5e18);
        assertEq(required(held(put100(1e18))), 3.5e18);
    }

    /// @dev A third of the extreme's 14, rounded up, is more than the 4.5 of the range; 2 for being short.
    function test_a_short_option_requires_its_worst_scenario_and_the_minimum() public pure {
        assertEq(required(held(call100(-1e18))), uint256(14e18) / 3 + 1 + 2e18);
    }

    /// @dev Call less put is the underlying less its strike, in every scenario; at the extremes each leg's third
    /// rounds down, which leaves a wei.
    function test_put_call_parity_requires_the_short_minimum_only() public pure {
        assertEq(required(held(call100(1e18), put100(-1e18), perp(-1e18))), 2e18 + 1);
        assertEq(required(held(call100(-1e18), put100(1e18), perp(1e18))), 2e18 + 1);
    }

    /// @dev 18 down at a third: the perp loses 6 and the call sold gains a third of 4; within the range it is
    /// 6 - 1.5 at most. Apart: 6, and 14/3 + 2.
    function test_a_covered_call_requires_less_than_its_legs() public pure {
        assertEq(required(held(perp(1e18), call100(-1e18))), 6e18 - uint256(4e18) / 3 + 2e18);
        uint256 apart = required(held(perp(1e18))) + required(held(call100(-1e18)));
        assertEq(apart, 6e18 + uint256(14e18) / 3 + 1 + 2e18);
    }

    /// @dev Bought: -3.5 + 1.7 at 6 down with volatility down. Sold: 14/3 - 8/3 at 18 up, more than the 4.5 - 3.2
    /// of 6 up. Both are short one call.
    function test_a_call_spread_nets_its_strikes() public pure {
        assertEq(required(held(call100(1e18), call110(-1e18))), 1.8e18 + 2e18);
        assertApproxEqAbs(required(held(call100(-1e18), call110(1e18))), 2e18 + 2e18, 2);
    }

    /// @dev Bought, it loses 2 with volatility down. Sold, a third of 14 - 4 at either extreme, which is more than
    /// the 3 of 6 up with volatility up.
    function test_a_straddle_is_a_bet_on_volatility() public pure {
        assertEq(required(held(call100(1e18), put100(1e18))), 2e18);
        assertApproxEqAbs(required(held(call100(-1e18), put100(-1e18))), uint256(10e18) / 3 + 4e18, 2);
    }

    /// @dev Sold: 3.2 - 0.6 at 6 up or down with volatility up.
    function test_a_strangle_cannot_lose_on_both_sides() public pure {
        assertEq(required(held(call110(-1e18), put90(-1e18))), 2.6e18 + 4e18);
        assertEq(required(held(call110(-1e18))) + required(held(put90(-1e18))), 2 * (3.2e18 + 2e18));
    }

    /// @dev Of a wei of size: the loss of 3.5 is 4. Sold, the third of a loss of 14 is 5, and 2 for being short.
    function test_losses_round_up_and_gains_down() public pure {
        assertEq(required(held(call100(1))), 4);
        assertEq(required(held(call100(-1))), 5 + 2);
    }

    /// @dev A range of 7 wei: its third is 3 where it is lost and 2 where it is gained; the option loses 10 there.
    function test_a_third_of_a_range_rounds_against_the_account() public pure {
        Leg[] memory legs = held(perp(-1), option(Kind.Call, 100e18, 1e18));
        (legs[0].risk.mmr, legs[1].risk.mmr) = (0.07e18, 0.07e18);
        (legs[1].array.pnl[2], legs[1].array.pnl[3]) = (-10, -10);
        assertEq(required(legs), 10 + 3);
        legs[0].size = 1;
        assertEq(required(legs), 10 - 2);
    }

    function test_initial_margin_grows_every_part_by_the_same_factor() public pure {
        Leg[] memory legs = held(perp(1e18), call100(-1e18));
        uint256 twice = Portfolio.requirement(legs, group(legs, 0.12e18), P, T0);
        assertApproxEqAbs(twice, 2 * required(legs), 4);
        twice = Portfolio.requirement(legs, group(legs, 0.12e18), P, T0 + 601);
        assertEq(twice, 2 * fallen(legs));
    }

    function test_an_array_is_judged_by_for_ten_minutes() public pure {
        Leg[] memory legs = held(call100(1e18));
        assertEq(maintenance(legs, P, T0 + 600), 3.5e18);
        assertEq(maintenance(legs, P, T0 + 601), 5e18);
    }

    function test_an_array_is_judged_by_within_two_percent() public pure {
        Leg[] memory legs = held(call100(1e18));
        assertEq(maintenance(legs, 102e18, T0), 3.5e18);
        assertEq(maintenance(legs, 98e18, T0), 3.5e18);
        // The mark has moved by half of the price.
        assertEq(maintenance(legs, 103e18, T0), 6.5e18);
        assertEq(maintenance(legs, 97e18, T0), 3.5e18);
        assertTrue(Portfolio.current(legs[0].array, 102e18, T0));
        assertFalse(Portfolio.current(legs[0].array, 102e18 + 1, T0));
        assertTrue(Portfolio.current(legs[0].array, 98e18, T0));
        assertFalse(Portfolio.current(legs[0].array, 98e18 - 1, T0));
    }

    /// @dev 5 and 2 are what is paid at most; the perp is judged by itself.
    function test_one_old_array_takes_the_whole_underlying_to_max_loss() public pure {
        Leg memory old = put90(1e18);
        old.array.observedAt = T0 - 601;
        assertEq(required(held(call100(1e18), old, perp(-1e18))), 5e18 + 2e18 + 6e18);
    }

    function test_a_settled_option_does_not_spoil_the_judgement() public pure {
        Leg memory ended = put90(1e18);
        (ended.array.observedAt, ended.settlement) = (T0 - 9000, 80e18);
        assertEq(required(held(call100(1e18), ended)), 3.5e18);
    }

    /// @dev Bought: the 3 it is worth. Sold: the width of 10 less the 3.
    function test_the_max_loss_of_a_spread_is_its_width_or_its_price() public pure {
        assertEq(fallen(held(call100(1e18), call110(-1e18))), 3e18 + 2e18);
        assertEq(fallen(held(call100(-1e18), call110(1e18))), 7e18 + 2e18);
    }

    function test_the_max_loss_of_a_straddle_bought_is_its_price() public pure {
        assertEq(fallen(held(call100(1e18), put100(1e18))), 10e18);
        assertEq(fallen(held(call110(1e18), put90(1e18))), 4e18);
    }

    /// @dev The put sold is exercised at nothing: its strike less the 5 it is worth.
    function test_the_max_loss_of_a_put_sold_is_its_strike() public pure {
        assertEq(fallen(held(put100(-1e18))), 95e18 + 2e18);
    }

    /// @dev Covering at the end of the range costs 106, less the 5 that the call is worth. Three sold and two bought
    /// above them: 106 for the third, less the 11 they are worth; with that one they bring 80 at 110, nothing at 0.
    function test_the_max_loss_of_a_call_sold_is_to_buy_the_underlying() public pure {
        assertEq(fallen(held(call100(-1e18))), 101e18 + 2e18);
        assertEq(fallen(held(call100(-3e18), call110(2e18))), 95e18 + 6e18);
    }

    /// @dev As deep in the money as can be a call sold is the underlying sold, and may not require less.
    function test_max_loss_asks_no_less_of_a_call_in_the_money_than_of_a_perp() public pure {
        Leg memory deep = option(Kind.Call, 1e18, -1e18);
        deep.array.mark = 99e18;
        assertEq(fallen(held(deep)), 1e18 + 6e18 + 2e18);
    }

    /// @dev 5 for the later one bought; 106 - 5 + 2 for the one sold.
    function test_expiries_do_not_net_in_max_loss() public pure {
        assertEq(fallen(held(at(call100(1e18), LATER), call100(-1e18))), 5e18 + 103e18);
        // And one between them belongs to its own.
        assertEq(fallen(held(call100(1e18), at(put100(1e18), LATER), call110(-1e18))), 3e18 + 5e18 + 2e18);
    }

    /// @dev 6 for the perp's range and 2 for being short: what the price takes from one it gives to the other.
    function test_perps_cover_the_calls_or_the_puts_sold_against_them() public pure {
        assertEq(fallen(held(perp(1e18), call100(-1e18))), 6e18 + 2e18);
        assertEq(fallen(held(perp(-1e18), put100(-1e18))), 6e18 + 2e18);
        assertEq(fallen(held(perp(3e18), call100(-1e18), call110(-2e18))), 18e18 + 6e18);
        // And the price may be anywhere.
        assertEq(maintenance(held(perp(1e18), call100(-1e18)), 150e18, T0), 9e18 + 3e18);
        assertEq(maintenance(held(perp(-1e18), put100(-1e18)), 50e18, T0), 3e18 + 1e18);
    }

    /// @dev Alone they are 101 + 2 and 95 + 2.
    function test_perps_cover_nothing_on_their_own_side() public pure {
        assertEq(fallen(held(perp(-1e18), call100(-1e18))), 6e18 + 103e18);
        assertEq(fallen(held(perp(1e18), put100(-1e18))), 6e18 + 97e18);
        assertEq(fallen(held(perp(1e18), perp(-1e18), call100(-1e18))), 103e18);
    }

    /// @dev Of 101 and 104, on two days, a half each; with 3 perps, all.
    function test_perps_cover_an_equal_part_of_everything_sold() public pure {
        assertEq(fallen(held(perp(1e18), call100(-4e18))), 6e18 + 3 * 101e18 + 8e18);
        Leg memory later = at(call110(-1e18), LATER);
        assertEq(fallen(held(perp(1e18), call100(-1e18), later)), 6e18 + 50.5e18 + 52e18 + 4e18);
        assertEq(fallen(held(perp(3e18), call100(-1e18), later)), 18e18 + 4e18);
        // A wei of a perp covers a part of each that rounds down to nothing, and requires 6% of 100 wei.
        assertEq(fallen(held(perp(1), call100(-1), later)), fallen(held(call100(-1), later)) + 6);
    }

    /// @dev The call bought is worth 2, with the perp's 6 and 2 for being short.
    function test_a_call_bought_beside_a_covered_one_costs_its_price() public pure {
        assertEq(fallen(held(perp(1e18), call100(-1e18), call110(1e18))), 6e18 + 2e18 + 2e18);
    }

    /// @dev 5 - 2, as without the perp: to cover the call sold would leave the 5 of the one bought.
    function test_cover_is_not_used_where_it_would_ask_for_more() public pure {
        assertEq(fallen(held(call100(1e18), call110(-1e18), perp(1e18))), 3e18 + 6e18 + 2e18);
    }

    /// @dev Marks that contradict each other cannot make the requirement negative.
    /// @dev Three points of volatility cost a call 8 more, which its perp does not pay.
    function test_cover_takes_nothing_off_what_the_last_arrays_ask_for() public pure {
        Leg memory call = call100(-1e18);
        call.array.pnl[0] = 8e18;
        Leg[] memory legs = held(perp(1e18), call);
        assertEq(required(legs), 8e18 + 2e18);
        assertEq(fallen(legs), 8e18 + 2e18);
    }

    function test_max_loss_is_never_negative() public pure {
        Leg memory cheap = call100(1e18);
        Leg memory dear = call110(-1e18);
        dear.array.mark = 30e18;
        assertEq(fallen(held(cheap, dear)), 2e18);
    }

    function test_an_option_is_marked_along_its_delta() public pure {
        assertEq(Portfolio.unitValue(call100(1e18), 101e18), 5.5e18);
        assertEq(Portfolio.unitValue(call100(1e18), 99e18), 4.5e18);
        assertEq(Portfolio.unitValue(put100(1e18), 101e18), 4.5e18);
        // Half a wei more or less rounds down.
        assertEq(Portfolio.unitValue(call100(1e18), P + 1), 5e18);
        assertEq(Portfolio.unitValue(call100(1e18), P - 1), 5e18 - 1);
    }

    function test_a_mark_stays_between_payoff_and_ceiling() public pure {
        assertEq(Portfolio.unitValue(call100(1e18), 120e18), 20e18);
        assertEq(Portfolio.unitValue(call100(1e18), 80e18), 0);
        assertEq(Portfolio.unitValue(put100(1e18), 80e18), 20e18);
        assertEq(Portfolio.unitValue(put100(1e18), 120e18), 0);
        Leg memory leg = call100(1e18);
        leg.array.mark = 150e18;
        assertEq(Portfolio.unitValue(leg, 101e18), 101e18);
        leg = put100(1e18);
        leg.array.mark = 150e18;
        assertEq(Portfolio.unitValue(leg, 101e18), 100e18);
    }

    function test_without_an_array_an_option_is_worth_its_payoff() public pure {
        Leg memory leg = option(Kind.Call, 90e18, 1e18);
        (leg.array.refPrice, leg.array.observedAt) = (0, 0);
        assertEq(Portfolio.unitValue(leg, P), 10e18);
        assertEq(required(held(leg)), 10e18);
        assertFalse(Portfolio.silent(leg, T0));
    }

    function test_after_settlement_an_option_is_worth_its_payoff_whatever_the_price() public pure {
        Leg memory leg = call100(1e18);
        leg.settlement = 107e18;
        assertEq(Portfolio.unitValue(leg, 50e18), 7e18);
        leg = put100(1e18);
        leg.settlement = 107e18;
        assertEq(Portfolio.unitValue(leg, 50e18), 0);
    }

    function test_an_array_is_silent_between_ten_minutes_and_seventy() public pure {
        Leg memory leg = call100(1e18);
        assertFalse(Portfolio.silent(leg, T0 + 600));
        assertTrue(Portfolio.silent(leg, T0 + 601));
        assertTrue(Portfolio.silent(leg, T0 + 4199));
        assertFalse(Portfolio.silent(leg, T0 + 4200));
        leg.settlement = 1e18;
        assertFalse(Portfolio.silent(leg, T0 + 601));
        assertFalse(Portfolio.silent(perp(1e18), T0 + 601));
    }

    function test_a_book_is_silent_where_one_leg_is() public pure {
        (Book memory b,) = bookOf(held(perp(1e18), call100(1e18)), 0);
        assertFalse(MarginMath.silent(b, T0));
        assertTrue(MarginMath.silent(b, T0 + 601));
    }

    /// @dev Long 2 calls bought for 4: PnL 2 x 5 - 8.
    function test_equity_counts_an_option_at_its_mark() public pure {
        Leg memory leg = call100(2e18);
        leg.quoteLeg = -8e18;
        (Book memory b, uint256[] memory prices) = bookOf(held(leg), 10e18);
        Margin memory m = MarginMath.maintenance(b, prices, T0);
        assertEq(m.equity, 12e18);
        assertEq(m.requirement, 7e18);
        // The underlying's notional, not the option's.
        assertEq(m.notional, 200e18);
        assertEq(MarginMath.worth(b, prices, m.equity), 12e18);
        assertEq(MarginMath.legPrice(leg, P), 5e18);
        // The profit of 2 cannot be used to open more; imr is twice mmr.
        m = MarginMath.initial(b, prices, T0, 0.15e18);
        assertEq(m.equity, 10e18);
        assertEq(m.requirement, 14e18);
    }

    /// @dev A premium received is a profit not realised: the put sold at 8 is worth 5, and 3 are not counted.
    function test_a_premium_received_cannot_be_used_to_open() public pure {
        Leg memory leg = put100(-1e18);
        leg.quoteLeg = 8e18;
        (Book memory b, uint256[] memory prices) = bookOf(held(leg), 10e18);
        assertEq(MarginMath.maintenance(b, prices, T0).equity, 13e18);
        assertEq(MarginMath.initial(b, prices, T0, 0).equity, 10e18);
    }

    function test_a_settled_leg_counts_in_equity_alone() public pure {
        Leg memory leg = call100(-2e18);
        (leg.quoteLeg, leg.settlement) = (8e18, 107e18);
        (Book memory b, uint256[] memory prices) = bookOf(held(leg, perp(1e18)), 10e18);
        Margin memory m = MarginMath.maintenance(b, prices, T0 + 9000);
        assertEq(m.equity, 10e18 + 8e18 - 14e18 + 100e18);
        assertEq(m.requirement, 6e18);
        assertEq(m.notional, 100e18);
        (b, prices) = bookOf(held(leg), 10e18);
        m = MarginMath.maintenance(b, prices, T0);
        assertEq(m.requirement, 0);
        assertEq(m.notional, 0);
    }

    function test_underlyings_do_not_offset_each_other() public pure {
        Leg memory other = perp(-1e18);
        other.feedId = "BTC";
        (Book memory b, uint256[] memory prices) = bookOf(held(perp(1e18), other, perp(-1e18)), 0);
        prices[1] = 200e18;
        // The first and the third cancel; the second stands alone at its own price.
        assertEq(MarginMath.maintenance(b, prices, T0).requirement, 12e18);
        assertEq(MarginMath.maintenance(b, prices, T0).notional, 400e18);
    }

    function test_several_price_vectors_give_what_each_gives_alone() public pure {
        (Book memory b, uint256[] memory prices) = bookOf(held(perp(1e18), call100(-3e18), put90(1e18)), 10e18);
        uint256[][] memory vectors = new uint256[][](3);
        for (uint256 v; v < 3; ++v) {
            (, vectors[v]) = bookOf(b.legs, 0);
            for (uint256 i; i < 3; ++i) {
                // The last is too far from the arrays.
                vectors[v][i] += v * 1.5e18;
            }
        }
        Margin[] memory all = MarginMath.maintenances(b, vectors, T0);
        Margin[] memory im = MarginMath.initials(b, vectors, T0, 0.15e18);
        for (uint256 v; v < 3; ++v) {
            assertEq(abi.encode(all[v]), abi.encode(MarginMath.maintenance(b, vectors[v], T0)));
            assertEq(abi.encode(im[v]), abi.encode(MarginMath.initial(b, vectors[v], T0, 0.15e18)));
        }
        assertGt(all[2].requirement, all[1].requirement + 100e18);
        assertEq(abi.encode(all[0]), abi.encode(MarginMath.maintenance(b, prices, T0)));
    }

    function test_the_initial_rate_leaves_room_for_the_slope() public pure {
        assertEq(MarginMath.initialRate(Risk(0.05e18, 0.1e18, 0), 0.15e18), 0.1e18);
        assertEq(MarginMath.initialRate(Risk(0.05e18, 0.1e18, 0), 1.2e18), 0.11e18);
        // Rounded up.
        assertEq(MarginMath.initialRate(Risk(1, 0, 0), 0.15e18), 2);
    }

    /// @dev Sizes of int128, prices of 1e36.
    function test_the_largest_positions_are_valued() public pure {
        int256 size = type(int128).max;
        Leg[] memory legs = held(perp(size), call100(-size), put100(-size));
        for (uint256 i; i < 3; ++i) {
            (legs[i].strike, legs[i].array.refPrice, legs[i].array.mark) = (1e36, 1e36, 1e35);
            legs[i].quoteLeg = -size;
            for (uint256 s; s < 16; ++s) {
                legs[i].array.pnl[s] = int256(type(int64).min) * 1e10;
            }
        }
        (Book memory b, uint256[] memory prices) = bookOf(legs, type(int128).min);
        (prices[0], prices[1], prices[2]) = (1e36, 1e36, 1e36);
        MarginMath.maintenance(b, prices, T0);
        MarginMath.initial(b, prices, T0, 1.5e18);
        MarginMath.maintenance(b, prices, T0 + 601);
        assertTrue(MarginMath.below(MarginMath.initial(b, prices, T0 + 601, 1.5e18), 2.5e18));
    }

    function test_the_largest_positions_are_covered() public pure {
        Leg[] memory legs = new Leg[](8);
        legs[0] = perp(type(int128).max);
        for (uint256 i = 1; i < 8; ++i) {
            legs[i] = call100(type(int128).min);
        }
        (Book memory b, uint256[] memory prices) = bookOf(legs, 0);
        for (uint256 i; i < 8; ++i) {
            prices[i] = 1e36;
        }
        MarginMath.initial(b, prices, T0, 1.5e18);
    }
}
