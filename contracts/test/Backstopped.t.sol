// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {State, WAD} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Base} from "./Base.t.sol";

/// @notice What the insurance offers for an account that has nothing left, and where the debt goes.
contract BackstoppedTest is Base {
    function insolventTau(bytes32 acct) private view returns (uint256) {
        return liquidator.flagOf(acct).insolventTau;
    }

    function assertState(bytes32 acct, State wanted) private view {
        assertEq(uint256(stateOf(acct)), uint256(wanted));
    }

    /// @dev Confirmed at 188 with equity; at 175 E = -400 and M = 875.
    function insolvent() private {
        openAndConfirm(188e18);
        setPrice(ETH, 175e18);
    }

    /// @dev Somebody pokes as often as it counts, for `time` seconds.
    function run(uint256 time) private {
        for (uint256 left = time; left > 0;) {
            uint256 step = left < 30 ? left : 30;
            vm.warp(nowS() + step);
            refreshFeed(ETH);
            liquidator.poke(alice);
            left -= step;
        }
    }

    /// @dev What a slice of `part` brings the taker, `wait` active seconds after the poke that noticed the loss.
    function paidAfter(uint256 wait, uint64 part) private returns (uint256) {
        liquidator.poke(alice);
        run(wait);
        return paid(part);
    }

    function paid(uint64 part) private returns (uint256) {
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = part;
        int256 cash = cashOf(taker);
        liquidateOn(alice, t);
        return uint256(cashOf(taker) - cash);
    }

    function test_the_loss_of_all_equity_is_noted_by_a_poke_and_forgotten_when_equity_is_back() public {
        insolvent();
        assertEq(insolventTau(alice), 0);
        liquidator.poke(alice);
        uint256 noted = insolventTau(alice);
        assertEq(noted, liquidator.flagOf(alice).tau + 1);
        tick(10);
        liquidator.poke(alice);
        assertEq(insolventTau(alice), noted);
        setPrice(ETH, 180e18);
        liquidator.poke(alice);
        assertEq(insolventTau(alice), 0);
    }

    function test_equity_at_one_of_the_three_prices_is_equity() public {
        insolvent();
        setSlow(ETH, 179.5e18);
        liquidator.poke(alice);
        assertEq(insolventTau(alice), 0);
        setSlow(ETH, 175e18);
        setFast(ETH, 179.5e18);
        liquidator.poke(alice);
        assertEq(insolventTau(alice), 0);
    }

    function test_nothing_is_noted_while_prices_are_old() public {
        insolvent();
        pass(16);
        liquidator.poke(alice);
        assertEq(insolventTau(alice), 0);
    }

    function test_nothing_is_noted_while_collateral_is_left() public {
        deposit(alice, address(weth), 0.1e18);
        insolvent();
        liquidator.poke(alice);
        assertEq(insolventTau(alice), 0);
    }

    function test_a_new_alarm_begins_without_a_count() public {
        insolvent();
        liquidator.poke(alice);
        deposit(alice, address(usd), 2000e18);
        refresh();
        liquidator.cure(alice, none());
        setPrice(ETH, 150e18);
        flag(alice);
        assertEq(insolventTau(alice), 0);
    }

    function test_the_insurance_offers_the_smallest_fee_at_first() public {
        insolvent();
        // 0.5% of 17,500.
        assertEq(paidAfter(0, uint64(WAD)), 87.5e18);
        assertState(alice, State.Closed);
    }

    function test_the_offer_rises_to_the_requirement_within_ten_minutes() public {
        insolvent();
        uint256 snapshot = vm.snapshotState();
        // M = 875: half of it after five minutes.
        assertEq(paidAfter(300, uint64(WAD)), 437.5e18);
        vm.revertToState(snapshot);
        assertEq(paidAfter(600, uint64(WAD)), 875e18);
        vm.revertToState(snapshot);
        assertEq(paidAfter(3000, uint64(WAD)), 875e18);
        vm.revertToState(snapshot);
        // Below 60 s the smallest fee is more.
        assertEq(paidAfter(59, uint64(WAD)), 87.5e18);
    }

    function test_the_offer_does_not_rise_while_nobody_can_take_it() public {
        insolvent();
        liquidator.poke(alice);
        pass(3600);
        refresh();
        uint256 snapshot = vm.snapshotState();
        // Of the hour without prices half a minute counts: 43.75 is less than the smallest fee.
        assertEq(paid(uint64(WAD)), 87.5e18);
        vm.revertToState(snapshot);
        run(120);
        assertEq(paid(uint64(WAD)), 175e18);
    }

    function test_the_offer_stands_with_the_clock_while_the_breaker_holds_back_slices() public {
        insolvent();
        liquidator.poke(alice);
        vm.prank(guardian);
        breaker.raise(3);
        tick(3600);
        assertEq(paid(uint64(WAD)), 87.5e18);
    }

    function test_a_part_of_the_book_brings_that_part_of_the_offer() public {
        insolvent();
        assertEq(paidAfter(600, 0.4e18), 350e18);
        assertState(alice, State.Confirmed);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.5e18;
        int256 cash = cashOf(taker);
        liquidateOn(alice, t);
        assertEq(cashOf(taker) - cash, 262.5e18);
    }

    function test_a_taker_can_insist_on_the_offer() public {
        insolvent();
        liquidator.poke(alice);
        run(300);
        uint256 offer = 437.5e18;
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.minFee = uint128(offer + 1);
        liquidateExpectingOn(Liquidator.FeeTooLow.selector, alice, t);
        t.minFee = uint128(offer);
        liquidateOn(alice, t);
    }

    function test_no_account_draws_more_than_its_share_of_the_insurance() public {
        insolvent();
        vm.prank(admin);
        backstop.setShares(0.5e18, 0.1e18);
        assertEq(paidAfter(600, uint64(WAD)), 875e18);
        // The last 125 of its 1,000 went to the debt; 1% of the open interest's 35,000 bore the rest at once.
        assertEq(backstop.insurance(), 10_000e18 - 1000e18);
        assertEq(backstop.badDebt(), 0);
    }

    function test_the_offer_ends_where_the_caps_end() public {
        insolvent();
        vm.prank(admin);
        backstop.setShares(0.5e18, 0.05e18);
        assertEq(paidAfter(600, uint64(WAD)), 500e18);
        assertEq(backstop.insurance(), 10_000e18 - 500e18);
        // 400 of loss and the flagger's 21.88: 350 borne by the market at once, the rest later.
        assertEq(backstop.badDebt(), 71.88e18);
        assertEq(backstop.owed(ETH_PERP), 71.88e18);
    }

    function test_the_taker_bears_its_share_of_a_socialised_debt_and_must_still_meet_its_margin() public {
        insolvent();
        vm.startPrank(admin);
        backstop.setShares(0.1e18, 0.05e18);
        vm.stopPrank();
        vm.prank(address(liquidator));
        clearing.payFromInsurance(alice, bob, 10_000e18);
        // Nothing is left for alice: her debt of 421.88 falls to the market, 175 of it at once to the taker.
        withdraw(taker, address(usd), 100_000e18);
        deposit(taker, address(usd), 1750e18 + 100e18);
        liquidateExpecting(Liquidator.TakerBelowMargin.selector, alice, taker);
        deposit(taker, address(usd), 76e18);
        liquidate(alice, taker);
        (, int256 quoteLeg) = leg(taker, ETH_PERP);
        assertEq(quoteLeg, -17_500e18 - 175e18);
    }

    function test_a_debt_left_by_a_late_sale_still_falls_to_the_markets_of_the_last_slice() public {
        deposit(alice, address(weth), 0.5e18);
        openAndConfirm(187e18);
        vm.startPrank(admin);
        backstop.setShares(0.1e18, 0.05e18);
        vm.stopPrank();
        vm.prank(address(liquidator));
        clearing.payFromInsurance(alice, bob, 10_000e18);
        setPrice(ETH, 170e18);
        liquidate(alice, taker);
        // Her cash was spent by the last slice only, so that the collateral is still there.
        assertState(alice, State.Confirmed);
        tick(12);
        vm.prank(flagger);
        liquidator.buyCollateral(alice, WETH, type(uint256).max, 0);
        assertState(alice, State.Closed);
        assertGt(backstop.badDebt(), 0);
        assertEq(backstop.owed(ETH_PERP), backstop.badDebt());
        assertEq(backstop.unassigned(), 0);
    }
}
