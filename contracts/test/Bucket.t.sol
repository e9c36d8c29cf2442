// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Margin, State, WAD} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Base} from "./Base.t.sol";

/// @notice How much of an underlying all slices together may move within a minute.
contract BucketTest is Base {
    function cap(bytes32 feedId, uint256 amount) private {
        vm.prank(admin);
        instruments.setBucketCap(feedId, uint128(amount));
    }

    function used(bytes32 feedId) private view returns (uint256 amount) {
        (amount,) = liquidator.buckets(feedId);
    }

    function sizeOf(bytes32 acct, uint16 market) private view returns (int256 size) {
        (size,) = leg(acct, market);
    }

    function test_a_slice_takes_no_more_than_the_buckets_room() public {
        cap(ETH, 940e18);
        openAndConfirm(188e18);
        liquidate(alice, taker);
        // 940 of 18,800.
        assertApproxEqAbs(sizeOf(alice, ETH_PERP), 95e18, 1e4);
        assertApproxEqAbs(used(ETH), 940e18, 1e4);
    }

    function test_a_full_bucket_lets_nothing_through_and_says_which_one() public {
        cap(ETH, 940e18);
        openAndConfirm(188e18);
        liquidate(alice, taker);
        setFast(ETH, 188e18);
        uint256 room = 940e18 * (nowS() - bucketAt(ETH)) / 60;
        assertGt(room, 0);
        vm.warp(bucketAt(ETH));
        Liquidator.SliceTerms memory t = terms(alice, taker);
        vm.expectRevert(abi.encodeWithSelector(Liquidator.BucketEmpty.selector, ETH));
        vm.prank(ownerOf_(taker));
        liquidator.liquidate(alice, t, none());
    }

    function bucketAt(bytes32 feedId) private view returns (uint256 at) {
        (, at) = liquidator.buckets(feedId);
    }

    function test_a_bucket_drains_within_a_minute() public {
        cap(ETH, 1850e18);
        openAndConfirm(185e18);
        liquidate(alice, taker);
        uint256 at = bucketAt(ETH);
        int256 size = sizeOf(alice, ETH_PERP);
        assertApproxEqAbs(size, 90e18, 1e4);
        uint256 snapshot = vm.snapshotState();
        sliceAt(at + 15);
        // A quarter of 1,850 is 2.5 ETH.
        assertApproxEqAbs(sizeOf(alice, ETH_PERP), size - 2.5e18, 1e4);
        vm.revertToState(snapshot);
        sliceAt(at + 45);
        assertApproxEqAbs(sizeOf(alice, ETH_PERP), size - 7.5e18, 1e4);
        vm.revertToState(snapshot);
        sliceAt(at + 600);
        // Longer does not give more.
        assertGe(sizeOf(alice, ETH_PERP), size - 10e18 - 1e4);
    }

    function sliceAt(uint256 time) private {
        vm.warp(time - 5);
        refresh();
        vm.warp(time);
        liquidate(alice, taker);
    }

    function test_accounts_share_the_bucket_of_their_underlying() public {
        cap(ETH, 940e18);
        bytes32 carol = newAccount("carol");
        deposit(carol, address(usd), 2100e18);
        deposit(bob, address(usd), 100_000e18);
        trade(carol, bob, ETH_PERP, 100e18, 200e18);
        openAlice();
        tick(12);
        setPrice(ETH, 188e18);
        flag(alice);
        flag(carol);
        tick(13);
        liquidator.confirm(alice, none());
        liquidator.confirm(carol, none());
        liquidate(alice, taker);
        liquidateExpecting(Liquidator.BucketEmpty.selector, carol, taker);
    }

    /// @dev Long 100 ETH at 200 and 10 BTC at 1,000 on 3,150; at 190 and 950 E = 1,650, M = 1,425: not breached
    /// until 186 and 930.
    function openTwo() private {
        deposit(alice, address(usd), 3150e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        trade(alice, bob, BTC_PERP, 10e18, 1000e18);
        tick(12);
        setPrice(ETH, 186e18);
        setPrice(BTC, 930e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
    }

    function test_the_tightest_bucket_holds_back_the_whole_book() public {
        cap(BTC, 465e18);
        cap(ETH, 10_000e18);
        openTwo();
        liquidate(alice, taker);
        // 465 of 9,300 is a twentieth: of ETH too, so that the book keeps its shape.
        assertApproxEqAbs(sizeOf(alice, ETH_PERP), 95e18, 1e4);
        assertApproxEqAbs(sizeOf(alice, BTC_PERP), 9.5e18, 1e4);
        assertApproxEqAbs(used(ETH), 930e18, 1e4);
        assertApproxEqAbs(used(BTC), 465e18, 1e4);
    }

    function test_an_underlyings_perps_and_options_share_its_bucket() public {
        cap(ETH, 2000e18);
        deposit(alice, address(usd), 4000e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        postArrays();
        trade(alice, bob, ETH_PERP, 80e18, 200e18);
        trade(bob, alice, ETH_PUT, 20e18, 4e18);
        tick(12);
        setPrice(ETH, 165e18);
        postArrays();
        flag(alice);
        tick(13);
        postArrays();
        liquidator.confirm(alice, none());
        (,, Margin memory m) = margins(alice);
        assertGt(m.equity * 2, int256(m.requirement));
        assertEq(m.notional, 16_500e18);
        liquidate(alice, taker);
        assertApproxEqAbs(used(ETH), 2000e18, 1e5);
        assertApproxEqAbs(sizeOf(alice, ETH_PERP), int256(80e18) * 145 / 165, 1e5);
        // Deep in the money: delta is 1, a put moves as one of the underlying does.
        assertApproxEqAbs(sizeOf(alice, ETH_PUT), -int256(20e18) * 145 / 165, 1e5);
    }

    /// @dev The price of ETH goes where Alice's calls are still out of the money, and without delta.
    function confirmWithArrays(uint256 price) private {
        tick(12);
        setPrice(ETH, price);
        postArrays();
        flag(alice);
        tick(13);
        postArrays();
        liquidator.confirm(alice, none());
    }

    function test_options_without_delta_neither_fill_nor_dilute_a_bucket() public {
        cap(ETH, 890e18);
        openAlice();
        deposit(alice, address(usd), 1000e18);
        postArrays();
        trade(alice, bob, ETH_CALL, 100e18, 4e18);
        confirmWithArrays(178e18);
        (,, Margin memory m) = margins(alice);
        assertGt(m.equity * 2, int256(m.requirement));
        assertEq(m.notional, 35_600e18);
        liquidate(alice, taker);
        assertApproxEqAbs(used(ETH), 890e18, 1e4);
        assertApproxEqAbs(sizeOf(alice, ETH_PERP), 95e18, 1e4);
        assertApproxEqAbs(sizeOf(alice, ETH_CALL), 95e18, 1e4);
    }

    /// @dev A delta of nothing, from where the price was when the array was made, says nothing of where it is.
    function test_options_count_whole_where_their_array_is_behind_the_price() public {
        deposit(alice, address(usd), 4000e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        setPrice(ETH, 170e18);
        postArrays();
        trade(bob, alice, ETH_CALL, 20e18, 4e18);
        tick(12);
        setPrice(ETH, 360e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        liquidate(alice, taker);
        assertGt(used(ETH), 0);
    }

    function test_a_book_of_options_without_delta_needs_no_room() public {
        cap(ETH, 0);
        deposit(alice, address(usd), 560e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        setPrice(ETH, 170e18);
        postArrays();
        trade(bob, alice, ETH_CALL, 100e18, 4e18);
        confirmWithArrays(195e18);
        (,, Margin memory m) = margins(alice);
        assertGt(m.equity * 2, int256(m.requirement));
        liquidate(alice, taker);
        assertLt(sizeOf(taker, ETH_CALL), 0);
        assertEq(used(ETH), 0);
    }


    function test_a_cap_of_nothing_is_closed_and_not_open() public {
        cap(ETH, 0);
        openAndConfirm(188e18);
        liquidateExpecting(Liquidator.BucketEmpty.selector, alice, taker);
        cap(ETH, 1e30);
        liquidate(alice, taker);
    }

    function test_a_bucket_whose_cap_was_lowered_drains_within_a_minute_too() public {
        cap(ETH, 1880e18);
        openAndConfirm(188e18);
        liquidate(alice, taker);
        uint256 at = bucketAt(ETH);
        cap(ETH, 188e18);
        vm.warp(at + 30);
        refreshFeed(ETH);
        vm.warp(at + 30);
        int256 size = sizeOf(alice, ETH_PERP);
        liquidate(alice, taker);
        // Half of 188, raised to the smallest slice.
        assertApproxEqAbs((size - sizeOf(alice, ETH_PERP)) * 188e18 / 1e18, 100e18, 1e5);
        assertLe(used(ETH), 188e18);
    }

    function test_no_bucket_holds_back_an_account_at_half_its_requirement() public {
        cap(ETH, 0);
        openAndConfirm(182e18);
        (,, Margin memory m) = margins(alice);
        assertLe(m.equity * 2, int256(m.requirement));
        liquidate(alice, taker);
        assertLt(sizeOf(alice, ETH_PERP), 70e18);
        assertEq(used(ETH), 0);
    }

    function test_a_slice_that_no_bucket_held_back_fills_it_to_the_brim_for_the_others() public {
        cap(ETH, 1880e18);
        openAndConfirm(182e18);
        liquidate(alice, taker);
        assertEq(used(ETH), 1880e18);
    }

    function test_the_smallest_slice_goes_through_a_bucket_with_little_room() public {
        cap(ETH, 940e18);
        openAndConfirm(188e18);
        liquidate(alice, taker);
        int256 size = sizeOf(alice, ETH_PERP);
        // Two seconds drain 31; the smallest slice is 100.
        vm.warp(bucketAt(ETH) + 2);
        refreshFeed(ETH);
        vm.warp(bucketAt(ETH) + 2);
        liquidate(alice, taker);
        assertApproxEqAbs((size - sizeOf(alice, ETH_PERP)) * 188e18 / 1e18, 100e18, 1e5);
    }

    function test_a_sale_of_collateral_moves_no_underlying_and_needs_no_room() public {
        cap(ETH, 0);
        deposit(alice, address(weth), 20e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        setPrice(ETH, 190e18);
        trade(bob, alice, ETH_PERP, 60e18, 190e18);
        tick(12);
        setPrice(ETH, 158e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        int256 cash = cashOf(alice);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0;
        liquidateOn(alice, t);
        assertGt(cashOf(alice), cash);
        assertEq(uint256(stateOf(alice)), uint256(State.Confirmed));
        assertEq(sizeOf(alice, ETH_PERP), 40e18);
    }

    /// @dev What was left in the bucket, and what drains meanwhile.
    function test_a_minute_sees_two_caps_of_notional_at_most() public {
        cap(ETH, 3000e18);
        openAndConfirm(185e18);
        uint256 end = nowS() + 60;
        while (nowS() + 5 < end) {
            vm.warp(nowS() + 4);
            refreshFeed(ETH);
            // The step cap holds some of them back.
            try this.sliceAlice() {} catch {}
        }
        uint256 moved = uint256(100e18 - sizeOf(alice, ETH_PERP)) * 185e18 / WAD;
        assertGt(moved, 5000e18);
        assertLe(moved, 6000e18);
    }

    function sliceAlice() external {
        liquidate(alice, taker);
    }
}
