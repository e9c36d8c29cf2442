// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Bundle} from "../../src/HybridTypes.sol";
import {Liquidator} from "../../src/Liquidator.sol";
import {Measured} from "./Measured.sol";

/// @notice What the acts of an episode cost, by the number and kind of the account's instruments.
contract EpisodeGasTest is Measured {
    function snap(string memory act, string memory what) private {
        vm.snapshotGasLastCall("episode", string.concat(act, ", ", what));
    }

    /// @dev Alice is breached: the alarm, its confirmation, a taker's first slice, which opens positions for it,
    /// and its next one.
    function measure(string memory what) private {
        flag(alice);
        snap("flag", what);
        tickAll(13);
        liquidator.confirm(alice, none());
        snap("confirm", what);
        liquidate(alice, taker);
        snap("first slice", what);
        // Past the window of the first one.
        tickAll(31);
        liquidate(alice, taker);
        snap("next slice", what);
    }

    function measurePerps(uint256 n) private {
        openPerps(alice, n);
        tickAll(12);
        moveAll(94);
        measure(perpsOf(n));
    }

    function measureHedged(uint256 n) private {
        openHedged(alice, n);
        tickAll(12);
        moveAll(90);
        postBook(n);
        measure(string.concat("1 perp and ", vm.toString(n - 1), " options"));
    }

    function test_an_episode_of_one_perp() public {
        measurePerps(1);
    }

    function test_an_episode_of_four_perps() public {
        measurePerps(4);
    }

    function test_an_episode_of_eight_perps() public {
        measurePerps(8);
    }

    function test_an_episode_of_four_instruments_that_hedge_each_other() public {
        measureHedged(4);
    }

    function test_an_episode_of_eight_instruments_that_hedge_each_other() public {
        measureHedged(8);
    }

    /// @dev The actor pays for the fast price it needs.
    function test_acts_that_bring_their_own_report() public {
        openPerps(alice, 1);
        tickAll(12);
        moveAll(94);
        pass(12);
        Bundle[] memory reports = one(bundle(ETH, 188e18));
        vm.prank(flagger);
        liquidator.flag(alice, reports);
        snap("flag", "1 perp, with a report");
        tickAll(12);
        pass(1);
        reports = one(bundle(ETH, 188e18));
        liquidator.confirm(alice, reports);
        snap("confirm", "1 perp, with a report");
        pass(12);
        reports = one(bundle(ETH, 188e18));
        Liquidator.SliceTerms memory t = terms(alice, taker);
        vm.prank(ownerOf_(taker));
        liquidator.liquidate(alice, t, reports);
        snap("first slice", "1 perp, with a report");
    }

    /// @dev A slice pays off negative cash first, by a sale to the taker: here what the flagger's reward left.
    function test_slices_that_sell_collateral() public {
        deposit(alice, address(weth), 15e18);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        tickAll(12);
        moveAll(93);
        flag(alice);
        tickAll(13);
        liquidator.confirm(alice, none());
        for (uint256 i; i < 2; ++i) {
            assertLt(cashOf(alice), 0);
            liquidate(alice, taker);
            snap(i == 0 ? "first slice" : "next slice", "1 perp, with a sale of collateral");
            tickAll(31);
        }
    }

    /// @dev What anybody may do to end an episode, or to keep its clock going.
    function test_the_small_acts() public {
        openPerps(alice, 1);
        tickAll(12);
        moveAll(94);
        flag(alice);
        tickAll(12);
        liquidator.poke(alice);
        snap("poke", "1 perp");
        deposit(alice, address(usd), 1000e18);
        tickAll(12);
        liquidator.cure(alice, none());
        snap("cure", "1 perp");
    }
}
