// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Clearing} from "../src/Clearing.sol";
import {Book, Bundle, Margin, State, WAD} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Slope} from "../src/Slope.sol";
import {Base} from "./Base.t.sol";

/// @notice The Liquidator's slices: liquidate, and what remains of an account after the last one.
contract SlicesTest is Base {
    function assertState(bytes32 acct, State wanted) private view {
        assertEq(uint256(stateOf(acct)), uint256(wanted));
    }

    function nonce() private view returns (uint256) {
        return liquidator.flagOf(alice).trancheNonce;
    }

    // --- who, when, on which terms ---

    function test_a_slice_moves_its_share_at_the_execution_price() public {
        openAndConfirm(188e18);
        (,, Margin memory before) = margins(alice);
        uint256 q = Slope.decay(slopeParams(), liquidator.flagOf(alice).tau);
        uint256 f = Slope.closeable(before, 0.005e18, q);
        uint256 insurance = backstop.insurance();
        int256 cash = cashOf(alice);
        int256 takerCash = cashOf(taker);
        liquidate(alice, taker);

        int256 d = 100e18 * int256(f) / 1e18;
        int256 value = d * 188e18 / 1e18;
        int256 fee = value * 0.005e18 / 1e18;
        int256 toTaker = fee * 0.8e18 / 1e18;
        (int256 size, int256 quoteLeg) = leg(alice, ETH_PERP);
        assertEq(size, 100e18 - d);
        assertEq(quoteLeg, -20_000e18 + 20_000e18 * d / 100e18);
        assertEq(cashOf(alice), cash - 20_000e18 * d / 100e18 + value - fee);
        (size, quoteLeg) = leg(taker, ETH_PERP);
        assertEq(size, d);
        assertEq(quoteLeg, -value);
        assertEq(cashOf(taker), takerCash + toTaker);
        assertEq(backstop.insurance(), insurance + uint256(fee - toTaker));
        assertEq(nonce(), 1);
    }

    function test_only_a_confirmed_account_is_sliced() public {
        openAndFlag(188e18);
        liquidateExpecting(Liquidator.WrongState.selector, alice, taker);
    }

    function test_a_slice_has_a_deadline() public {
        openAndConfirm(188e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.deadline -= 1;
        liquidateExpectingOn(Liquidator.PastDeadline.selector, alice, t);
    }

    function test_a_slice_names_the_tranche_that_it_expects() public {
        openAndConfirm(188e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        liquidate(alice, taker);
        liquidateExpectingOn(Liquidator.WrongTranche.selector, alice, t);
    }

    function test_only_slices_move_the_tranche_nonce() public {
        deposit(alice, address(weth), 1);
        openAndConfirm(188e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        fundCredit(flagger, address(usd), 1);
        vm.prank(flagger);
        clearing.deposit(alice, address(usd), 1);
        deposit(alice, address(weth), 1);
        liquidator.poke(alice);
        trade(bob, alice, ETH_PERP, 0.001e18, 188e18);
        assertEq(nonce(), 0);
        liquidateOn(alice, t);
        assertEq(nonce(), 1);
    }

    function test_a_slice_of_nothing_is_refused_so_that_it_spoils_nobodys_nonce() public {
        openAndConfirm(188e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0;
        liquidateExpectingOn(Liquidator.EmptySlice.selector, alice, t);
        assertEq(nonce(), 0);
    }

    function test_a_slice_of_nothing_of_everything_too_late_or_out_of_turn_has_its_own_error_each() public {
        openAndConfirm(188e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0;
        liquidateExpectingOn(Liquidator.EmptySlice.selector, alice, t);
        t = terms(alice, taker);
        t.fMin = uint64(WAD);
        liquidateExpectingOn(Liquidator.SliceOutside.selector, alice, t);
        t = terms(alice, taker);
        t.deadline -= 1;
        liquidateExpectingOn(Liquidator.PastDeadline.selector, alice, t);
        t = terms(alice, taker);
        t.trancheNonce += 1;
        liquidateExpectingOn(Liquidator.WrongTranche.selector, alice, t);
    }

    function test_the_taker_is_the_callers_and_not_the_accounts_owner() public {
        openAndConfirm(188e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        vm.expectPartialRevert(Liquidator.OwnAccount.selector);
        vm.prank(flagger);
        liquidator.liquidate(alice, t, none());
        bytes32 second = bytes32(uint256(alice) + 1);
        deposit(second, address(usd), 10_000e18);
        liquidateExpecting(Liquidator.OwnAccount.selector, alice, second);
    }

    function test_the_taker_is_healthy() public {
        openAndConfirm(188e18);
        vm.prank(address(liquidator));
        clearing.setState(taker, State.Flagged);
        liquidateExpecting(Liquidator.WrongState.selector, alice, taker);
    }

    function test_the_taker_ends_above_initial_margin() public {
        openAndConfirm(188e18);
        withdraw(taker, address(usd), 100_000e18);
        liquidateExpecting(Liquidator.TakerBelowMargin.selector, alice, taker);
        deposit(taker, address(usd), 100e18);
        liquidateExpecting(Liquidator.TakerBelowMargin.selector, alice, taker);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
    }

    function test_a_taker_has_at_most_eight_legs() public {
        openAlice();
        fundTaker(taker2);
        trade(taker, taker2, BTC_PERP, 1e18, 1000e18);
        trade(taker, taker2, SOL_PERP, 1e18, 10e18);
        for (uint16 m = LISTED + 1; m <= LISTED + 6; ++m) {
            vm.prank(admin);
            instruments.listPerp(ETH);
            trade(taker, taker2, m, 1e18, 200e18);
        }
        tick(12);
        setPrice(ETH, 188e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        liquidateExpecting(Clearing.TooManyLegs.selector, alice, taker);
    }

    function test_the_taker_has_its_fraction_within_its_bounds() public {
        openAndConfirm(188e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMin = 0.2e18;
        liquidateExpectingOn(Liquidator.SliceOutside.selector, alice, t);
        t.fMin = 0;
        // Below the smallest slice, 100 of notional.
        t.fMax = uint64(100e18 * WAD / 18_800e18);
        liquidateExpectingOn(Liquidator.SliceOutside.selector, alice, t);
        t.fMax += 1;
        liquidateOn(alice, t);
        (int256 size,) = leg(taker, ETH_PERP);
        assertApproxEqAbs(size * 188e18 / 1e18, 100e18, 1e5);
    }

    function test_the_taker_has_its_least_fee() public {
        openAndConfirm(188e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        uint256 snapshot = vm.snapshotState();
        int256 cash = cashOf(taker);
        liquidateOn(alice, t);
        uint256 fee = uint256(cashOf(taker) - cash);
        vm.revertToState(snapshot);
        t.minFee = uint128(fee + 1);
        liquidateExpectingOn(Liquidator.FeeTooLow.selector, alice, t);
        t.minFee = uint128(fee);
        liquidateOn(alice, t);
    }

    function test_a_slice_needs_both_oracles_fresh() public {
        openAndConfirm(188e18);
        pass(16);
        liquidateExpecting(Liquidator.StaleOracle.selector, alice, taker);
        pass(2 hours);
        setFast(ETH, 188e18);
        liquidateExpecting(Liquidator.StaleOracle.selector, alice, taker);
    }

    function test_a_slice_posts_the_reports_that_it_brings() public {
        openAndConfirm(188e18);
        pass(16);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        Bundle[] memory reports = one(bundle(ETH, 188e18));
        vm.prank(ownerOf_(taker));
        liquidator.liquidate(alice, t, reports);
        assertEq(nonce(), 1);
    }

    function test_a_slice_needs_the_breach_at_the_fast_and_at_the_slow_price() public {
        openAndConfirm(188e18);
        setFast(ETH, 190e18);
        liquidateExpecting(Liquidator.NotBreached.selector, alice, taker);
        setFast(ETH, 188e18);
        setSlow(ETH, 190e18);
        liquidateExpecting(Liquidator.NotBreached.selector, alice, taker);
        setSlow(ETH, 188e18);
        liquidate(alice, taker);
    }

    function test_a_slice_needs_the_breach_at_the_execution_price() public {
        deposit(alice, address(usd), 3000e18);
        deposit(bob, address(usd), 100_000e18);
        trade(alice, bob, ETH_PERP, 50e18, 200e18);
        trade(bob, alice, BTC_PERP, 20e18, 1000e18);
        fundTaker(taker);
        tick(12);
        setPrice(ETH, 168e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        deposit(alice, address(usd), 22e18);
        setFast(ETH, 151.2e18);
        setFast(BTC, 980e18);
        (Margin memory f, Margin memory s, Margin memory l) = margins(alice);
        assertLt(f.equity, int256(f.requirement));
        assertLt(s.equity, int256(s.requirement));
        assertGt(l.equity, int256(l.requirement) + 50e18);
        liquidateExpecting(Liquidator.NotBreached.selector, alice, taker);
    }

    function test_decayed_equity_keeps_the_slope_going_above_maintenance() public {
        openAndConfirm(188e18);
        // H just above 1: closed at q = 1, open again when q has fallen.
        deposit(alice, address(usd), 65e18);
        (Margin memory f,,) = margins(alice);
        assertGt(f.equity, int256(f.requirement));
        liquidateExpecting(Liquidator.NotBreached.selector, alice, taker);
        for (uint256 i; i < 4; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        liquidate(alice, taker);
    }

    // --- how much ---

    function test_the_step_cap_holds_for_a_window_and_not_only_for_the_last_slice() public {
        openAndConfirm(185e18);
        uint256 n = 100e18;
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.15e18;
        liquidateOn(alice, t);
        liquidate(alice, taker);
        (int256 size,) = leg(alice, ETH_PERP);
        assertApproxEqAbs(uint256(size), n * 8 / 10, 100);
        liquidateExpecting(Liquidator.StepCapReached.selector, alice, taker);
        uint256 start = liquidator.flagOf(alice).stepStart;
        vm.warp(start + 26);
        refresh();
        vm.warp(start + 29);
        liquidateExpecting(Liquidator.StepCapReached.selector, alice, taker);
        vm.warp(start + 30);
        liquidate(alice, taker);
    }

    function test_no_step_cap_holds_back_an_account_at_half_its_requirement() public {
        openAndConfirm(182e18);
        (,, Margin memory m) = margins(alice);
        assertLe(m.equity * 2, int256(m.requirement));
        liquidate(alice, taker);
        (int256 size,) = leg(alice, ETH_PERP);
        assertLt(size, 70e18);
    }

    function test_the_smallest_slice_is_raised_to_its_notional() public {
        openAndConfirm(188.3e18);
        deposit(alice, address(usd), 32.85e18);
        (,, Margin memory m) = margins(alice);
        uint256 q = Slope.decay(slopeParams(), liquidator.flagOf(alice).tau);
        uint256 f = Slope.closeable(m, 0.005e18, q);
        assertGt(f, 0);
        assertLt(f * m.notional / WAD, 90e18);
        liquidate(alice, taker);
        (int256 size,) = leg(taker, ETH_PERP);
        assertApproxEqAbs(size * 188.3e18 / 1e18, 100e18, 1e5);
    }

    /// @dev A small account: `size` ETH long at 200 with a tenth in cash, confirmed at 188.
    function small(uint256 size) private {
        deposit(alice, address(usd), size * 21);
        deposit(bob, address(usd), 100_000e18);
        trade(alice, bob, ETH_PERP, size, 200e18);
        fundTaker(taker);
        tick(12);
        setPrice(ETH, 186e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        liquidate(alice, taker);
    }

    function test_dust_goes_whole() public {
        small(5.3e18);
        assertEq(book(alice).legs.length, 0);
        assertState(alice, State.Healthy);
    }

    function test_a_book_goes_whole_where_only_dust_would_stay() public {
        small(6.5e18);
        assertEq(book(alice).legs.length, 0);
    }

    function test_nothing_else_goes_whole() public {
        small(7e18);
        (int256 size,) = leg(alice, ETH_PERP);
        assertGe(size, 5.6e18);
    }

    function test_the_end_state_of_the_slope_cures_by_itself() public {
        openAndConfirm(188e18);
        uint256 slices;
        for (uint256 i; i < 60 && stateOf(alice) == State.Confirmed; ++i) {
            tick(30);
            liquidator.poke(alice);
            try this.liquidateAlice() {
                ++slices;
            } catch {}
        }
        assertState(alice, State.Healthy);
        assertGt(slices, 3);
        (Margin memory f,,) = margins(alice);
        assertGe(f.equity * 1e18, 1.1e18 * int256(f.requirement));
        assertLe(f.equity * 1e18, 1.15e18 * int256(f.requirement) + 1e36);
        assertEq(liquidator.flagOf(alice).carryTau, liquidator.flagOf(alice).tau);
    }

    function liquidateAlice() external {
        liquidate(alice, taker);
    }

    function test_an_account_that_has_had_its_slope_is_cured_in_one_call() public {
        openAndConfirm(188e18);
        for (uint256 i; i < 42; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        liquidate(alice, taker);
        assertState(alice, State.Confirmed);
        tick(30);
        liquidate(alice, taker);
        assertState(alice, State.Healthy);
    }

    function test_every_leg_of_a_hedged_book_loses_the_same_share() public {
        deposit(alice, address(usd), 4000e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        trade(bob, alice, BTC_PERP, 10e18, 1000e18);
        trade(alice, bob, SOL_PERP, 300e18, 10e18);
        tick(12);
        setPrice(ETH, 174e18);
        flag(alice);
        tick(61);
        liquidator.confirm(alice, none());
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.1e18;
        liquidateOn(alice, t);
        (int256 eth,) = leg(alice, ETH_PERP);
        (int256 btc,) = leg(alice, BTC_PERP);
        (int256 sol,) = leg(alice, SOL_PERP);
        assertEq(eth, 90e18);
        assertEq(btc, -9e18);
        assertEq(sol, 270e18);
    }

    function test_a_whole_book_of_several_legs_goes_at_the_price_of_each_leg() public {
        deposit(alice, address(usd), 3700e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        trade(bob, alice, BTC_PERP, 10e18, 1000e18);
        trade(alice, bob, SOL_PERP, 300e18, 10e18);
        tick(12);
        setPrice(ETH, 160e18);
        flag(alice);
        tick(61);
        liquidator.confirm(alice, none());
        liquidate(alice, taker);
        assertEq(book(alice).legs.length, 0);
        assertState(alice, State.Closed);
        (int256 size, int256 quoteLeg) = leg(taker, ETH_PERP);
        assertEq(size, 100e18);
        assertEq(quoteLeg, -16_000e18);
        (size, quoteLeg) = leg(taker, BTC_PERP);
        assertEq(size, -10e18);
        assertEq(quoteLeg, 10_000e18);
        (size, quoteLeg) = leg(taker, SOL_PERP);
        assertEq(size, 300e18);
        assertEq(quoteLeg, -3000e18);
        // 300 of debt, and 0.5% of the notional.
        assertEq(backstop.insurance(), 10_000e18 - 300e18 - 145e18);
    }

    function test_the_counterparty_may_be_the_taker_and_its_position_shrinks() public {
        openAndConfirm(186e18);
        Liquidator.SliceTerms memory t = terms(alice, bob);
        t.fMax = 0.1e18;
        int256 cash = cashOf(bob);
        uint256 notional = 10e18 * uint256(186);
        liquidateOn(alice, t);
        (int256 size, int256 quoteLeg) = leg(bob, ETH_PERP);
        assertEq(size, -90e18);
        assertEq(quoteLeg, 18_000e18);
        // 14 of profit on each of 10, and the fee.
        assertEq(cashOf(bob), cash + 140e18 + int256(notional * 5 / 1000 * 8 / 10));
    }

    function test_a_counterparty_that_takes_the_whole_book_ends_flat() public {
        openAndConfirm(178e18);
        liquidate(alice, bob);
        assertEq(book(bob).legs.length, 0);
        assertEq(book(alice).legs.length, 0);
        // Bob won 2,200, of which alice had 2,100; insurance adds the rest and 0.5% of the notional.
        assertEq(cashOf(bob), 102_200e18 + 89e18);
        assertEq(backstop.insurance(), 10_000e18 - 89e18 - 100e18);
        assertEq(backstop.badDebt(), 0);
    }

    // --- options ---

    /// @dev Alice long 100 ETH and 60 puts against it, and short 40 calls, all of strike 200; at 180 her puts have
    /// won 1,200 of the 2,000 that the perp lost.
    function openHedged() private {
        deposit(alice, address(usd), 6000e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        postArrays();
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        trade(alice, bob, ETH_PUT, 60e18, 4e18);
        trade(bob, alice, ETH_CALL, 40e18, 4e18);
        withdraw(alice, address(usd), 4780e18);
        tick(12);
        setPrice(ETH, 180e18);
        postArrays();
        flag(alice);
        tick(13);
        postArrays();
        liquidator.confirm(alice, none());
    }

    function test_a_hedged_book_is_sliced_in_its_own_shape_and_its_health_never_falls() public {
        openHedged();
        (,, Margin memory m) = margins(alice);
        // Half of what the perp alone would need, and not the sum of three legs.
        assertLt(m.requirement, 600e18);
        for (uint256 i; i < 6 && stateOf(alice) == State.Confirmed; ++i) {
            tick(30);
            postArrays();
            liquidator.poke(alice);
            (,, Margin memory before) = margins(alice);
            Liquidator.SliceTerms memory t = terms(alice, taker);
            t.fMax = 0.1e18;
            liquidateOn(alice, t);
            (,, Margin memory later) = margins(alice);
            assertGe((later.equity + 100) * int256(before.requirement), before.equity * int256(later.requirement));
            assertHedged(alice);
            assertHedged(taker);
        }
        assertGt(nonce(), 1);
    }

    /// @dev 60 puts and 40 calls for 100 ETH.
    function assertHedged(bytes32 acct) private view {
        (int256 perp,) = leg(acct, ETH_PERP);
        (int256 put,) = leg(acct, ETH_PUT);
        (int256 call,) = leg(acct, ETH_CALL);
        assertGt(perp, 0);
        assertApproxEqAbs(put, perp * 60 / 100, 10);
        assertApproxEqAbs(call, -perp * 40 / 100, 10);
    }

    function test_an_option_changes_hands_at_its_mark_and_counts_at_the_underlyings_price() public {
        openHedged();
        (,, Margin memory m) = margins(alice);
        assertEq(m.notional, 200 * 180e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.1e18;
        int256 cash = cashOf(taker);
        liquidateOn(alice, t);
        (int256 size, int256 quoteLeg) = leg(taker, ETH_PUT);
        // The payoff of 20, and 4 of time value.
        assertEq(quoteLeg, -size * 24);
        (size, quoteLeg) = leg(taker, ETH_CALL);
        assertEq(quoteLeg, -size * 4);
        // The fee is 0.5% of the underlyings' notional, and 80% of that the taker's.
        assertEq(cashOf(taker) - cash, 14.4e18);
    }

    function test_a_settled_option_moves_at_its_payoff_and_counts_for_nothing() public {
        deposit(alice, address(usd), 2500e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        postArrays();
        trade(alice, bob, ETH_PERP, 80e18, 200e18);
        trade(alice, bob, ETH_PUT, 20e18, 4e18);
        expireAt(190e18);
        setPrice(ETH, 172e18);
        vm.roll(vm.getBlockNumber() + 2);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        (,, Margin memory m) = margins(alice);
        assertEq(m.notional, 80 * 172e18);
        assertEq(m.requirement, 80 * 172e18 / 20);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.1e18;
        liquidateOn(alice, t);
        (int256 size, int256 quoteLeg) = leg(taker, ETH_PUT);
        assertEq(size, 2e18);
        assertEq(quoteLeg, -20e18);
        (uint256 used,) = liquidator.buckets(ETH);
        assertEq(used, 8 * 172e18);
    }

    // --- for what price and fee ---

    function test_the_execution_price_stays_in_a_band_that_widens_with_time() public {
        openAndConfirm(182e18);
        setFast(ETH, 160e18);
        uint256 snapshot = vm.snapshotState();
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.1e18;
        liquidateOn(alice, t);
        (int256 size, int256 quoteLeg) = leg(taker, ETH_PERP);
        uint256 sinceConfirm = liquidator.flagOf(alice).tau - liquidator.flagOf(alice).tauAtConfirm;
        assertEq(quoteLeg, -size * int256(Slope.executionPrice(160e18, 182e18, bandAt(sinceConfirm))) / 1e18);
        vm.revertToState(snapshot);
        for (uint256 i; i < 4; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        sinceConfirm = liquidator.flagOf(alice).tau - liquidator.flagOf(alice).tauAtConfirm;
        assertGe(sinceConfirm, 120);
        t = terms(alice, taker);
        t.fMax = 0.1e18;
        liquidateOn(alice, t);
        (size, quoteLeg) = leg(taker, ETH_PERP);
        assertEq(quoteLeg, -size * int256(Slope.executionPrice(160e18, 182e18, bandAt(sinceConfirm))) / 1e18);
        assertLt(uint256(-quoteLeg * 1e18 / size), 182e18 * 0.975e18 / WAD);
    }

    function test_the_fee_cap_of_the_confirmation_is_lowered_by_a_fall_and_never_raised() public {
        openAndConfirm(184e18);
        uint256 cap = liquidator.flagOf(alice).feeCap;
        setPrice(ETH, 180.5e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
        uint256 lower = liquidator.flagOf(alice).feeCap;
        assertLt(lower, cap);
        setPrice(ETH, 184e18);
        t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
        assertEq(liquidator.flagOf(alice).feeCap, lower);
    }

    function test_the_fee_grows_with_the_time_since_confirmation() public {
        openAndConfirm(188e18);
        uint256 snapshot = vm.snapshotState();
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.05e18;
        int256 cash = cashOf(taker);
        liquidateOn(alice, t);
        assertEq(cashOf(taker) - cash, int256(uint256(5e18) * 188 * 5 / 1000 * 8 / 10));
        vm.revertToState(snapshot);
        for (uint256 i; i < 10; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
        uint256 since = liquidator.flagOf(alice).tau - liquidator.flagOf(alice).tauAtConfirm;
        uint256 kappa = Slope.fee(slopeParams(), since, type(uint64).max);
        assertGt(kappa, 0.02e18);
        uint256 fee = kappa * 940e18 / WAD;
        assertEq(cashOf(taker) - cash, int256(fee * 0.8e18 / WAD));
    }

    // --- negative cash ---

    /// @dev Alice: 100 ETH long at 200 on 20 WETH alone; a loss realised on 50 leaves her 600 in debt. Confirmed
    /// at 172: E = -600 - 1400 + 2752 = 752 less the reward, M = 430 is safe; at 160 she is not.
    function inDebt() private {
        deposit(alice, address(weth), 20e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        setPrice(ETH, 190e18);
        trade(bob, alice, ETH_PERP, 60e18, 190e18);
        assertEq(cashOf(alice), -600e18);
        tick(12);
        setPrice(ETH, 158e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
    }

    function test_negative_cash_is_paid_by_a_sale_of_collateral_to_the_takers_owner() public {
        inDebt();
        (,, Margin memory before) = margins(alice);
        int256 debt = -cashOf(alice);
        int256 takerCash = cashOf(taker);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0;
        liquidateOn(alice, t);
        (,, Margin memory afterwards) = margins(alice);
        uint256 sold = vault.credit(address(weth), ownerOf_(taker));
        uint256 paid = uint256(takerCash - cashOf(taker));
        assertGt(sold, 0);
        assertEq(paid, (sold * 158e18 + WAD - 1) / WAD);
        assertEq(cashOf(alice), int256(paid) - debt);
        assertEq(book(alice).holdings[0].amount, 20e18 - sold);
        assertGt(afterwards.equity, before.equity);
        assertEq(nonce(), 1);
    }

    function test_no_more_is_sold_than_the_debt_nor_than_ends_the_breach() public {
        inDebt();
        // The breach is small: the sale ends it before the debt.
        liquidate(alice, taker);
        assertLt(cashOf(alice), 0);
        (,, Margin memory m) = margins(alice);
        uint256 q = Slope.decay(slopeParams(), liquidator.flagOf(alice).tau);
        assertApproxEqAbs(Slope.scaled(m.equity, q), int256(m.requirement), 1000);
        // Deeper: all of the debt is paid, and not more.
        setPrice(ETH, 152e18);
        liquidate(alice, taker);
        (int256 size,) = leg(alice, ETH_PERP);
        assertLt(size, 40e18);
    }

    function test_the_sale_discount_grows_with_the_slope() public {
        inDebt();
        for (uint256 i; i < 20; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0;
        int256 cash = cashOf(taker);
        liquidateOn(alice, t);
        uint256 since = liquidator.flagOf(alice).tau - liquidator.flagOf(alice).tauAtConfirm;
        uint256 sold = vault.credit(address(weth), ownerOf_(taker));
        uint256 price = (158e18 * (WAD - 0.1e18 * since / 1200) + WAD - 1) / WAD;
        assertApproxEqAbs(uint256(cash - cashOf(taker)), sold * price / WAD, 200);
        assertLt(price, 151e18);
    }

    function test_a_taker_pays_for_collateral_from_cash_that_it_has() public {
        inDebt();
        withdraw(taker, address(usd), 100_000e18);
        deposit(taker, address(weth), 1000e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0;
        liquidateExpectingOn(Clearing.NegativeCash.selector, alice, t);
        deposit(taker, address(usd), 1000e18);
        liquidateOn(alice, t);
    }

    function test_several_collaterals_are_sold_one_after_the_other() public {
        deposit(alice, address(weth), 2e18);
        deposit(alice, address(wbtc), 3e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        setPrice(ETH, 190e18);
        trade(bob, alice, ETH_PERP, 60e18, 190e18);
        tick(12);
        setPrice(ETH, 140e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        liquidate(alice, taker);
        Book memory b = book(alice);
        assertEq(b.holdings.length, 1);
        assertEq(b.holdings[0].collateral, WBTC);
        assertEq(vault.credit(address(weth), ownerOf_(taker)), 2e18);
        assertGt(vault.credit(address(wbtc), ownerOf_(taker)), 0);
        assertEq(b.legs.length, 0);
    }

    // --- what remains ---

    function test_an_insolvent_book_is_taken_for_a_payment_from_insurance_which_bears_its_debt() public {
        openAndConfirm(175e18);
        uint256 insurance = backstop.insurance();
        int256 cash = cashOf(taker);
        vm.expectEmit(address(liquidator));
        emit Liquidator.Insolvent(alice, 400e18);
        liquidate(alice, taker);
        assertState(alice, State.Closed);
        assertEq(cashOf(taker) - cash, 87.5e18);
        assertEq(backstop.insurance(), insurance - 87.5e18 - 400e18);
        assertEq(backstop.badDebt(), 0);
        assertEq(cashOf(alice), 0);
        Book memory b = book(alice);
        assertEq(b.legs.length + b.holdings.length, 0);
    }

    function test_insurance_pays_no_more_than_it_has() public {
        openAndConfirm(175e18);
        vm.prank(admin);
        backstop.setShares(1e18, 1e18);
        vm.prank(address(liquidator));
        clearing.payFromInsurance(alice, bob, 9_950e18);
        int256 cash = cashOf(taker);
        liquidate(alice, taker);
        assertEq(cashOf(taker) - cash, 50e18);
        assertEq(backstop.insurance(), 0);
    }

    function insuranceAfter(uint256 fast, uint256 slow) private returns (uint256) {
        setFast(ETH, fast);
        setSlow(ETH, slow);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.1e18;
        liquidateOn(alice, t);
        return backstop.insurance();
    }

    function test_insurance_pays_only_where_equity_is_gone_at_all_three_prices() public {
        openAndConfirm(179.5e18);
        uint256 insurance = backstop.insurance();
        uint256 snapshot = vm.snapshotState();
        assertGe(insuranceAfter(179.5e18, 175e18), insurance);
        vm.revertToState(snapshot);
        assertGe(insuranceAfter(175e18, 179.5e18), insurance);
        vm.revertToState(snapshot);
        assertLt(insuranceAfter(175e18, 175e18), insurance);
    }

    /// @dev Alice's last position is gone; she owes 800 against 20 WETH.
    function onlyDebt() private {
        deposit(alice, address(weth), 20e18);
        deposit(bob, address(usd), 100_000e18);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        setPrice(ETH, 192e18);
        trade(bob, alice, ETH_PERP, 100e18, 192e18);
        assertEq(cashOf(alice), -800e18);
        tick(1);
    }

    function buy(uint256 maxPaid, uint256 minAmount) private {
        vm.prank(flagger);
        liquidator.buyCollateral(alice, WETH, maxPaid, minAmount);
    }

    function buyExpecting(uint256 maxPaid, uint256 minAmount) private {
        vm.expectPartialRevert(Liquidator.NothingToSell.selector);
        buy(maxPaid, minAmount);
    }

    function test_anyone_buys_collateral_up_to_the_debt_that_was_left() public {
        onlyDebt();
        buy(300e18, 0);
        assertEq(cashOf(alice), -500e18);
        buy(type(uint256).max, 0);
        assertEq(cashOf(alice), 0);
        assertEq(quoteCredit(flagger), 100_000e18 - 800e18);
        assertApproxEqAbs(vault.credit(address(weth), flagger), uint256(800e18) * WAD / 192e18, 2e15);
        buyExpecting(type(uint256).max, 0);
    }

    function test_the_discount_runs_from_when_only_debt_was_left() public {
        onlyDebt();
        (,,, uint256 debtSince,,) = clearing.status(alice);
        vm.warp(debtSince + 595);
        refresh();
        vm.warp(debtSince + 600);
        uint256 snapshot = vm.snapshotState();
        buy(type(uint256).max, 0);
        uint256 price = uint256(192e18) * 95 / 100;
        assertEq(vault.credit(address(weth), flagger), (800e18 * WAD + price - 1) / price);
        vm.revertToState(snapshot);
        // A payment in between starts it afresh.
        deposit(alice, address(usd), 800e18);
        (,,, debtSince,,) = clearing.status(alice);
        assertEq(debtSince, 0);
    }

    function test_a_debt_of_a_few_wei_can_be_paid_with_collateral() public {
        onlyDebt();
        deposit(alice, address(usd), 800e18 - 5);
        buy(type(uint256).max, 0);
        assertEq(cashOf(alice), 0);
        withdraw(alice, address(weth), 1e18);
    }

    function test_collateral_is_sold_at_a_known_price_from_debtors_only_and_not_to_themselves() public {
        onlyDebt();
        buyExpecting(300e18, 2e18);
        vm.expectPartialRevert(Liquidator.NothingToSell.selector);
        vm.prank(flagger);
        liquidator.buyCollateral(alice, WBTC, 300e18, 0);
        vm.expectPartialRevert(Liquidator.NothingToSell.selector);
        vm.prank(ownerOf_(alice));
        liquidator.buyCollateral(alice, WETH, 300e18, 0);
        pass(16);
        vm.expectPartialRevert(Liquidator.StaleOracle.selector);
        buy(300e18, 0);
        setFast(ETH, 192e18);
        trade_(alice);
    }

    /// @dev An account with a position sells nothing this way, however deep its debt.
    function trade_(bytes32 acct) private {
        deposit(acct, address(usd), 800e18);
        trade(acct, bob, ETH_PERP, 1e18, 192e18);
        buyExpecting(300e18, 0);
    }

    function test_a_debtor_that_takes_a_slice_sells_nothing_any_more() public {
        // Equity is gone at the fast price alone: neither a fee nor the insurance pays.
        openAndConfirm(179.5e18);
        setFast(ETH, 178.5e18);
        // The taker owes, without a position, on collateral that carries initial margin.
        bytes32 debtor = newAccount("debtor");
        deposit(debtor, address(weth), 100e18);
        trade(debtor, bob, ETH_PERP, 10e18, 179e18);
        trade(bob, debtor, ETH_PERP, 10e18, 178e18);
        assertEq(cashOf(debtor), -10e18);
        Liquidator.SliceTerms memory t = terms(alice, debtor);
        t.fMax = 0.1e18;
        liquidateOn(alice, t);
        (,,, uint256 debtSince,,) = clearing.status(debtor);
        assertEq(debtSince, 0);
        vm.expectPartialRevert(Liquidator.NothingToSell.selector);
        vm.prank(flagger);
        liquidator.buyCollateral(debtor, WETH, type(uint256).max, 0);
    }

    function test_a_fee_that_leaves_only_debt_starts_the_debt_clock() public {
        deposit(alice, address(weth), 0.15e18);
        deposit(alice, address(usd), 110.86e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 4e18, 200e18);
        tick(12);
        setPrice(ETH, 173e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        liquidate(alice, taker);
        assertEq(book(alice).legs.length, 0);
        assertLt(cashOf(alice), 0);
        assertState(alice, State.Confirmed);
        buy(type(uint256).max, 0);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
        withdraw(alice, address(weth), 0.01e18);
    }

    function test_collateral_that_does_not_cover_the_debt_is_sold_whole_and_the_rest_written_off() public {
        onlyDebt();
        setPrice(ETH, 30e18);
        buy(type(uint256).max, 0);
        assertEq(vault.credit(address(weth), flagger), 20e18);
        assertState(alice, State.Closed);
        assertApproxEqAbs(backstop.insurance(), 10_000e18 - 200e18, 0.1e18);
    }

    function test_anyone_writes_off_an_account_with_nothing_but_debt() public {
        openAndConfirm(178e18);
        trade(bob, alice, ETH_PERP, 100e18, 178e18);
        assertEq(cashOf(alice), -100e18);
        vm.prank(makeAddr("anyone"));
        liquidator.writeOff(alice);
        assertState(alice, State.Closed);
        assertEq(backstop.insurance(), 10_000e18 - 100e18);
    }

    function test_a_flagged_account_that_is_written_off_returns_the_bond() public {
        openAndFlag(178e18);
        trade(bob, alice, ETH_PERP, 100e18, 178e18);
        liquidator.writeOff(alice);
        assertEq(quoteCredit(flagger), 100_000e18);
        assertEq(quoteCredit(address(liquidator)), 0);
    }

    function test_nothing_else_is_written_off() public {
        vm.expectPartialRevert(Liquidator.NotInsolvent.selector);
        liquidator.writeOff(alice);
        openAlice();
        vm.expectPartialRevert(Liquidator.NotInsolvent.selector);
        liquidator.writeOff(alice);
    }

    function test_collateral_keeps_an_account_from_being_written_off() public {
        onlyDebt();
        vm.expectPartialRevert(Liquidator.NotInsolvent.selector);
        liquidator.writeOff(alice);
    }
}
