// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Clearing} from "../src/Clearing.sol";
import {Book, Margin, RiskArray, State, View} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Base} from "./Base.t.sol";

/// @notice Options from the first trade to the settlement. At 200 the call and the put are worth 4 each; a move
/// by the whole range is 10, a change of volatility 1.
contract OptionsTradingTest is Base {
    function setUp() public override {
        super.setUp();
        deposit(alice, address(usd), 3000e18);
        deposit(bob, address(usd), 100_000e18);
        postArrays();
    }

    function refuse(bytes4 why, bytes32 long, bytes32 short, uint16 market, uint256 size, uint256 price) private {
        tradeExpecting(abi.encodePacked(why), long, short, market, size, price);
    }

    /// @dev Both prices of ETH and arrays at them.
    function moveTo(uint256 price) private {
        setPrice(ETH, price);
        postArrays();
    }

    function maintenance(bytes32 acct) private view returns (int256 equity, uint256 requirement) {
        Margin memory m = engine.look(acct, 0).atFast;
        return (m.equity, m.requirement);
    }

    function raise(uint256 level) private {
        vm.prank(guardian);
        breaker.raise(level);
    }

    // --- premiums ---

    function test_a_premium_is_a_quote_leg_and_no_cash() public {
        trade(alice, bob, ETH_CALL, 10e18, 4e18);
        (int256 size, int256 quoteLeg) = leg(alice, ETH_CALL);
        assertEq(size, 10e18);
        assertEq(quoteLeg, -40e18);
        (size, quoteLeg) = leg(bob, ETH_CALL);
        assertEq(size, -10e18);
        assertEq(quoteLeg, 40e18);
        assertEq(cashOf(alice), 3000e18);
        assertEq(cashOf(bob), 100_000e18);
    }

    function test_a_premium_received_is_neither_withdrawn_nor_used() public {
        withdraw(alice, address(usd), 400e18);
        // Sold at 9, worth 4: a profit of 500 that is not realised.
        trade(bob, alice, ETH_CALL, 100e18, 9e18);
        vm.expectPartialRevert(Clearing.BelowInitialMargin.selector);
        vm.prank(ownerOf_(alice));
        clearing.withdraw(alice, address(usd), 1);
        refuse(Clearing.BelowInitialMargin.selector, bob, alice, ETH_CALL, 1e18, 4e18);
    }

    function test_what_is_closed_realises_its_share_of_the_premium() public {
        trade(alice, bob, ETH_CALL, 10e18, 4e18);
        moveTo(203e18);
        trade(bob, alice, ETH_CALL, 4e18, 7e18);
        assertEq(cashOf(alice), 3012e18);
        assertEq(cashOf(bob), 100_000e18 - 12e18);
        (int256 size, int256 quoteLeg) = leg(alice, ETH_CALL);
        assertEq(size, 6e18);
        assertEq(quoteLeg, -24e18);
    }

    // --- price ---

    function test_a_premium_lies_within_half_the_range_of_the_mark_at_both_oracles() public {
        trade(alice, bob, ETH_CALL, 1e18, 9e18);
        trade(bob, alice, ETH_CALL, 1e18, 0);
        refuse(Clearing.PriceOutOfBand.selector, alice, bob, ETH_CALL, 1e18, 9e18 + 1);
        // The array's delta of 1/2 carries the mark down with the slow price: 3 at 198, and the band to 4.95.
        setSlow(ETH, 198e18);
        trade(alice, bob, ETH_CALL, 1e18, 7.95e18);
        refuse(Clearing.PriceOutOfBand.selector, alice, bob, ETH_CALL, 1e18, 7.95e18 + 1);
        setSlow(ETH, 200e18);
        setFast(ETH, 198e18);
        refuse(Clearing.PriceOutOfBand.selector, alice, bob, ETH_CALL, 1e18, 7.95e18 + 1);
    }

    function test_an_option_is_opened_on_a_current_array_only() public {
        bytes4 why = Clearing.ArrayNotCurrent.selector;
        uint16 fresh = listOption(ETH, 210e18, EXPIRY, true);
        refuse(why, alice, bob, fresh, 1e18, 0);
        trade(alice, bob, ETH_CALL, 1e18, 4e18);
        // Moved by more than 2% at one of the oracles.
        setSlow(ETH, 204e18 + 1e10);
        refuse(why, alice, bob, ETH_CALL, 1e18, 5e18);
        setSlow(ETH, 204e18);
        trade(alice, bob, ETH_CALL, 1e18, 5e18);
        setPrice(ETH, 200e18);
        pass(600);
        refresh();
        refuse(why, alice, bob, ETH_CALL, 1e18, 4e18);
    }

    function test_who_reduces_an_option_needs_no_array() public {
        trade(alice, bob, ETH_CALL, 2e18, 4e18);
        pass(3 hours);
        trade(bob, alice, ETH_CALL, 1e18, 4e18);
        refresh();
        trade(bob, alice, ETH_CALL, 1e18, 4e18);
        assertEq(book(alice).legs.length, 0);
    }

    function test_an_expired_option_is_not_traded_not_even_to_reduce() public {
        trade(alice, bob, ETH_CALL, 1e18, 4e18);
        pass(EXPIRY - nowS() - 20);
        refresh();
        trade(bob, alice, ETH_CALL, 0.5e18, 4e18);
        vm.warp(EXPIRY);
        refresh();
        bytes memory why = abi.encodeWithSelector(Clearing.MarketExpired.selector, ETH_CALL, EXPIRY);
        tradeExpecting(why, alice, bob, ETH_CALL, 1e18, 4e18);
        tradeExpecting(why, bob, alice, ETH_CALL, 0.5e18, 4e18);
    }

    function test_a_reducer_of_options_below_initial_margin_loses_at_most_the_fee_on_the_underlying() public {
        withdraw(alice, address(usd), 400e18);
        trade(bob, alice, ETH_CALL, 100e18, 4e18);
        moveTo(210e18);
        // The mark is 14, the fee 0.5% of 210.
        refuse(Clearing.LossTooLarge.selector, alice, bob, ETH_CALL, 10e18, 15.06e18);
        trade(alice, bob, ETH_CALL, 10e18, 15.05e18);
    }

    // --- margin ---

    function test_a_short_call_needs_its_worst_scenario_and_the_least_for_shorts() public {
        // 10 of the range and 1 of volatility, 2 for being short; twice that to open.
        withdraw(alice, address(usd), 400e18);
        refuse(Clearing.BelowInitialMargin.selector, bob, alice, ETH_CALL, 100e18 + 1e3, 4e18);
        trade(bob, alice, ETH_CALL, 100e18, 4e18);
        (int256 equity, uint256 requirement) = maintenance(alice);
        assertEq(equity, 2600e18);
        assertEq(requirement, 1300e18);
    }

    function test_a_long_option_needs_what_it_can_lose_in_a_scenario() public {
        trade(alice, bob, ETH_PUT, 100e18, 4e18);
        (int256 equity, uint256 requirement) = maintenance(alice);
        assertEq(equity, 3000e18);
        assertEq(requirement, 100e18);
        refuse(Clearing.BelowInitialMargin.selector, alice, bob, ETH_PUT, 1401e18, 4e18);
        trade(alice, bob, ETH_PUT, 1400e18, 4e18);
    }

    function test_a_hedge_inside_an_underlying_frees_margin() public {
        trade(alice, bob, ETH_PUT, 100e18, 4e18);
        // Without the puts 150 would be the most.
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        (, uint256 requirement) = maintenance(alice);
        assertEq(requirement, 100e18);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        (, requirement) = maintenance(alice);
        // 200 lose 2,000 on the way down, of which the puts bring back 900 with volatility down.
        assertEq(requirement, 1100e18);
    }

    function test_perps_of_one_underlying_net_to_nothing() public {
        vm.prank(admin);
        uint16 other = instruments.listPerp(ETH);
        trade(alice, bob, ETH_PERP, 150e18, 200e18);
        trade(bob, alice, other, 150e18, 200e18);
        (, uint256 requirement) = maintenance(alice);
        assertEq(requirement, 0);
    }

    function test_nothing_is_netted_across_underlyings() public {
        trade(alice, bob, ETH_PERP, 50e18, 200e18);
        (, uint256 one) = maintenance(alice);
        trade(bob, alice, BTC_PERP, 10e18, 1000e18);
        (, uint256 both) = maintenance(alice);
        assertEq(one, 500e18);
        assertEq(both, 1000e18);
        trade(alice, bob, ETH_PUT, 50e18, 4e18);
        (, uint256 hedged) = maintenance(alice);
        assertEq(hedged, 550e18);
    }

    // --- hedges ---

    /// @dev Alice: 200 ETH long at 200 on 3,000, with 200 puts that leave her needing 200.
    function hedge() private {
        trade(alice, bob, ETH_PUT, 200e18, 4e18);
        trade(alice, bob, ETH_PERP, 200e18, 200e18);
    }

    function test_closing_a_hedge_is_new_risk() public {
        hedge();
        refuse(Clearing.BelowInitialMargin.selector, bob, alice, ETH_PUT, 200e18, 4e18);
        // Once the perps are fewer, the puts may go.
        trade(bob, alice, ETH_PERP, 100e18, 200e18);
        trade(bob, alice, ETH_PUT, 100e18, 4e18);
        raise(1);
        refuse(Clearing.BreakerTripped.selector, bob, alice, ETH_PUT, 1e18, 4e18);
        trade(bob, alice, ETH_PERP, 1e18, 200e18);
    }

    function test_a_flagged_account_does_not_close_its_hedge() public {
        withdraw(alice, address(usd), 700e18);
        trade(alice, bob, ETH_PUT, 100e18, 4e18);
        trade(alice, bob, ETH_PERP, 200e18, 200e18);
        tick(12);
        // E = 2,300 - 3,000 + 1,500, M = 1,850 - 825.
        moveTo(185e18);
        flag(alice);
        refuse(Clearing.NotHealthy.selector, bob, alice, ETH_PUT, 100e18, 19e18);
        trade(bob, alice, ETH_PERP, 100e18, 185e18);
        (,,,,, bool reduced) = clearing.status(alice);
        assertTrue(reduced);
    }

    /// @dev A call far out of the money, signed to be worth 4 whatever the price: a leg that needs no margin.
    function postFlat(uint16 market, uint256 ref) private {
        RiskArray[] memory arrays = new RiskArray[](1);
        vm.warp(nowS() + 1);
        (arrays[0].market, arrays[0].observedAt) = (market, uint40(nowS()));
        (arrays[0].refPrice, arrays[0].mark) = (uint64(ref / 1e10), 4e8);
        submitArrays(arrays);
    }

    /// @dev Alice: 100 ETH long and 500 such calls on 3,000; the array is one for 185.
    function bareBesideFlat(uint256 fast, uint256 slow) private returns (uint16 far) {
        far = listOption(ETH, 400e18, EXPIRY, true);
        postFlat(far, 200e18);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        trade(alice, bob, far, 500e18, 4e18);
        tick(12);
        setSlow(ETH, slow);
        setFast(ETH, fast);
        postFlat(far, 185e18);
    }

    /// @dev Sold for 0.8 less than they are worth, within the fee: 400 of equity for nothing of the requirement.
    function test_a_cut_in_a_hedged_book_below_initial_margin_does_not_lower_health_for_a_fee() public {
        uint16 far = bareBesideFlat(185e18, 185e18);
        refuse(Clearing.LossTooLarge.selector, bob, alice, far, 500e18, 3.2e18);
        trade(bob, alice, far, 500e18, 4e18);
    }

    function test_a_cut_in_a_hedged_book_may_cost_a_fee_where_health_rises() public {
        bareBesideFlat(185e18, 185e18);
        trade(bob, alice, ETH_PERP, 50e18, 184.9e18);
    }

    /// @dev Where the array is too far from a price the calls need all that they are worth: there health rises.
    function test_health_may_fall_at_neither_oracle() public {
        uint256 state = vm.snapshotState();
        for (uint256 i; i < 2; ++i) {
            uint16 far = i == 0 ? bareBesideFlat(185e18, 190e18) : bareBesideFlat(190e18, 185e18);
            refuse(Clearing.LossTooLarge.selector, bob, alice, far, 500e18, 3.2e18);
            vm.revertToState(state);
        }
    }

    function test_at_initial_margin_a_hedged_book_may_lose_what_it_likes_within_the_band() public {
        uint16 far = bareBesideFlat(200e18, 200e18);
        postFlat(far, 200e18);
        trade(bob, alice, far, 500e18, 3.2e18);
    }

    // --- settlement ---

    function settle(bytes32 acct, uint16 market) private {
        vm.prank(makeAddr("anyone"));
        clearing.settle(acct, market);
    }

    function refuseSettle(bytes memory why, bytes32 acct, uint16 market) private {
        vm.expectRevert(why);
        clearing.settle(acct, market);
    }

    /// @dev Cash and quote legs of all accounts, insurance and debt: what the Clearing's credit must cover.
    function claims() private view returns (int256 total) {
        bytes32[4] memory accts = [alice, bob, taker, taker2];
        for (uint256 i; i < 4; ++i) {
            Book memory b = book(accts[i]);
            total += b.cash;
            for (uint256 j; j < b.legs.length; ++j) {
                total += b.legs[j].quoteLeg;
            }
        }
        total += int256(backstop.insurance()) - int256(backstop.badDebt());
    }

    function test_settlement_pays_both_sides_the_payoff() public {
        trade(alice, bob, ETH_CALL, 10e18, 4e18);
        trade(bob, alice, ETH_PUT, 5e18, 4e18);
        refuseSettle(abi.encodeWithSelector(Clearing.NotSettled.selector, ETH_CALL), alice, ETH_CALL);
        expireAt(207e18);
        settle(alice, ETH_CALL);
        settle(bob, ETH_CALL);
        settle(alice, ETH_PUT);
        settle(bob, ETH_PUT);
        // 10 calls bought at 4 pay 7, 5 puts sold at 4 pay nothing.
        assertEq(cashOf(alice), 3050e18);
        assertEq(cashOf(bob), 100_000e18 - 50e18);
        assertEq(book(alice).legs.length, 0);
        assertEq(clearing.openInterest(ETH_CALL), 0);
        assertEq(clearing.openInterest(ETH_PUT), 0);
        assertEq(claims(), int256(quoteCredit(address(clearing))));
        bytes memory why = abi.encodeWithSelector(Clearing.NoPosition.selector, alice, ETH_CALL);
        refuseSettle(why, alice, ETH_CALL);
    }

    function test_a_settlement_is_told() public {
        trade(alice, bob, ETH_CALL, 10e18, 4e18);
        expireAt(207e18);
        vm.expectEmit();
        emit Clearing.OptionSettled(bob, ETH_CALL, -10e18, -30e18);
        settle(bob, ETH_CALL);
    }

    function test_a_perp_is_never_settled() public {
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        expireAt(207e18);
        refuseSettle(abi.encodeWithSelector(Clearing.NotSettled.selector, ETH_PERP), alice, ETH_PERP);
    }

    function test_settling_changes_nobodys_margin() public {
        trade(alice, bob, ETH_PUT, 50e18, 4e18);
        trade(alice, bob, ETH_PERP, 50e18, 200e18);
        expireAt(190e18);
        (int256 equity, uint256 requirement) = maintenance(alice);
        assertEq(equity, 2800e18);
        assertEq(requirement, 475e18);
        settle(alice, ETH_PUT);
        (int256 later, uint256 required) = maintenance(alice);
        assertEq(later, equity);
        assertEq(required, requirement);
        // What was a profit on paper is cash now.
        assertEq(cashOf(alice), 3300e18);
    }

    /// @dev Alice: 100 ETH long on 2,100 and 20 puts, in an episode at the expiry.
    function confirmAtExpiry() private {
        withdraw(alice, address(usd), 900e18);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        trade(bob, alice, ETH_PUT, 1e18, 4e18);
        fundTaker(taker);
        expireAt(188e18);
        flag(alice);
    }

    function confirmLater() private {
        tick(13);
        liquidator.confirm(alice, none());
    }

    function test_settlement_works_in_every_state_and_level() public {
        confirmAtExpiry();
        uint256 snapshot = vm.snapshotState();
        for (uint256 state; state < 3; ++state) {
            for (uint256 level; level < 4; ++level) {
                // Flagged, Confirmed, and Closed by a slice of everything.
                if (state > 0) confirmLater();
                if (state == 2) {
                    setPrice(ETH, 170e18);
                    liquidate(alice, taker);
                }
                if (level > 0) raise(level);
                settle(bob, ETH_PUT);
                if (state < 2) settle(alice, ETH_PUT);
                else settle(taker, ETH_PUT);
                assertEq(clearing.openInterest(ETH_PUT), 0);
                assertEq(claims(), int256(quoteCredit(address(clearing))));
                vm.revertToState(snapshot);
            }
        }
    }

    function test_a_settled_option_moves_at_its_payoff_and_counts_for_no_notional() public {
        confirmAtExpiry();
        confirmLater();
        (int256 size,) = leg(alice, ETH_PERP);
        liquidate(alice, taker);
        (int256 left,) = leg(alice, ETH_PERP);
        (int256 puts, int256 quoteLeg) = leg(taker, ETH_PUT);
        assertLt(puts, 0);
        // One put was owed 12 at 188.
        assertEq(quoteLeg, -puts * 12);
        // The fee is 0.5% of the perps' notional, and a fifth of it the insurance's.
        uint256 notional = uint256(size - left) * 188;
        assertEq(backstop.insurance() - 10_000e18, notional * 5 / 1000 - notional * 5 / 1000 * 8 / 10);
        assertEq(claims(), int256(quoteCredit(address(clearing))));
    }

    /// @param price at the expiry; sizes in wei, so that payoffs have to be rounded
    function test_settlement_conserves_quote_but_for_a_wei_of_rounding_each(
        uint256 price,
        uint256 calls,
        uint256 puts
    ) public {
        price = bound(price, 150e8, 250e8) * 1e10;
        (calls, puts) = (bound(calls, 1, 100e18), bound(puts, 1, 100e18));
        deposit(taker, address(usd), 100_000e18);
        trade(taker, bob, ETH_CALL, calls, 4e18);
        trade(bob, taker, ETH_PUT, puts, 4e18);
        trade(alice, bob, ETH_CALL, calls / 3 + 1, 4e18);
        expireAt(price);
        settle(taker, ETH_CALL);
        settle(alice, ETH_CALL);
        settle(bob, ETH_CALL);
        settle(bob, ETH_PUT);
        settle(taker, ETH_PUT);
        int256 rounded = int256(quoteCredit(address(clearing))) - claims();
        assertGe(rounded, 0);
        assertLe(rounded, 5);
        assertEq(clearing.openInterest(ETH_CALL), 0);
    }

    // --- episodes ---

    /// @dev Alice short 100 calls on 2,600, both prices at 214: E = 1,200, M = 1,384.
    function confirmShort() private {
        withdraw(alice, address(usd), 400e18);
        trade(bob, alice, ETH_CALL, 100e18, 4e18);
        fundTaker(taker);
        tick(12);
        moveTo(214e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
    }

    function test_a_slice_moves_options_at_their_mark_and_counts_the_underlyings_notional() public {
        confirmShort();
        (int256 equity, uint256 requirement) = maintenance(alice);
        // Less the flagger's reward.
        assertEq(equity, 1200e18 - 22.14e18);
        assertEq(requirement, 1384e18);
        liquidate(alice, taker);
        (int256 taken, int256 quoteLeg) = leg(taker, ETH_CALL);
        assertLt(taken, 0);
        assertEq(quoteLeg, -taken * 18);
        (int256 left,) = leg(alice, ETH_CALL);
        assertEq(left + taken, -100e18);
        (int256 later, uint256 required) = maintenance(alice);
        assertGt(later * int256(requirement), equity * int256(required));
        assertEq(claims(), int256(quoteCredit(address(clearing))));
    }

    function test_an_account_is_left_alone_while_its_array_is_silent() public {
        withdraw(alice, address(usd), 400e18);
        trade(bob, alice, ETH_CALL, 100e18, 4e18);
        moveTo(214e18);
        pass(601);
        refresh();
        View memory v = engine.look(alice, 0);
        assertTrue(v.arraysSilent);
        assertFalse(v.fresh);
        vm.expectRevert(abi.encodeWithSelector(Liquidator.ArraysSilent.selector, alice));
        flag(alice);
        // An hour later it is judged by the most that it can lose.
        pass(3600);
        refresh();
        flag(alice);
    }

    function test_options_whose_last_slice_leaves_a_debt_charge_their_market() public {
        confirmShort();
        vm.warp(nowS() + 1);
        moveTo(240e18);
        // 100 calls at 44 against 2,600 of cash and 400 of premium: a debt of 1,400, less the insurance's quarter.
        vm.prank(admin);
        backstop.setShares(0.1e18, 0.05e18);
        liquidate(alice, taker);
        assertEq(uint256(stateOf(alice)), uint256(State.Closed));
        assertGt(clearing.lossIndex(ETH_CALL), 0);
        int256 rounded = int256(quoteCredit(address(clearing))) - claims();
        assertGe(rounded, 0);
        assertLe(rounded, 4);
    }

    function test_an_option_book_needs_no_more_than_it_can_lose(uint256 end, uint256 size) public {
        size = bound(size, 1e12, 1000e18);
        trade(alice, bob, ETH_CALL, size, 4e18);
        pass(2 hours);
        end = bound(end, 150e8, 250e8) * 1e10;
        setPrice(ETH, end);
        (int256 equity, uint256 requirement) = maintenance(alice);
        // Lost arrays: a long call can lose what it is worth, so that E - M is the cash less the premium paid.
        assertApproxEqAbs(equity - int256(requirement), 3000e18 - int256(size * 4), 1);
    }
}
