// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ISlowOracle} from "../src/interfaces/ISlowOracle.sol";
import {DelayedFeed} from "../src/slow/DelayedFeed.sol";
import {GuardedCall} from "../src/slow/GuardedCall.sol";
import {AnySource} from "./AnySource.sol";
import {Oracles} from "./Oracles.sol";

/// @notice A feed that lets every value of its source wait for ten minutes and believes one for an hour.
contract DelayedFeedTest is Oracles {
    DelayedFeed internal delayed;
    AnySource internal source;

    function setUp() public override {
        super.setUp();
        delayed = new DelayedFeed(admin);
        source = new AnySource();
        source.setPrice(200e18, nowS(), true);
        set(ETH, 600, 3600);
    }

    function set(bytes32 feedId, uint32 delay, uint32 maxAge) private {
        vm.prank(admin);
        delayed.setSource(feedId, ISlowOracle(address(source)), delay, maxAge);
    }

    function check(uint256 wanted, uint256 wantedAt, bool wantedOk) private view {
        (uint256 price, uint256 at, bool ok) = delayed.read(ETH);
        assertEq(price, wanted);
        assertEq(at, wantedAt);
        assertEq(ok, wantedOk);
    }

    function checkNext(uint256 wanted, uint256 wantedAt) private view {
        (uint256 price, uint256 at, bool queued) = delayed.peekNext(ETH);
        assertEq(price, wanted);
        assertEq(at, wantedAt);
        assertEq(queued, wantedAt != 0);
    }

    function refuseSoon(uint256 dueAt) private {
        vm.expectRevert(abi.encodeWithSelector(DelayedFeed.TooSoon.selector, dueAt, nowS()));
        delayed.poke(ETH);
    }

    function test_a_value_becomes_current_after_it_has_waited_and_is_as_old_as_its_queueing() public {
        check(0, 0, false);
        checkNext(0, 0);
        uint256 first = nowS();
        vm.expectEmit(address(delayed));
        emit DelayedFeed.Queued(ETH, 200e18, first);
        vm.prank(makeAddr("anyone"));
        delayed.poke(ETH);
        check(0, 0, false);
        checkNext(200e18, first);

        source.setPrice(190e18, nowS(), true);
        pass(599);
        refuseSoon(first + 600);
        pass(1);
        vm.expectEmit(address(delayed));
        emit DelayedFeed.Promoted(ETH, 200e18, first);
        vm.expectEmit(address(delayed));
        emit DelayedFeed.Queued(ETH, 190e18, first + 600);
        delayed.poke(ETH);
        check(200e18, first, true);
        checkNext(190e18, first + 600);
        refuseSoon(first + 1200);
    }

    function test_a_value_that_was_promoted_late_is_no_younger_for_that() public {
        uint256 first = nowS();
        delayed.poke(ETH);
        pass(3600);
        delayed.poke(ETH);
        check(200e18, first, true);
        pass(1);
        check(200e18, first, false);
        // Nor does a source that has waited for ever make a fresh price at once.
        pass(1 days);
        delayed.poke(ETH);
        check(200e18, first + 3600, false);
    }

    function test_a_source_that_is_not_ok_is_not_queued() public {
        bytes[7] memory answers = [
            abi.encode(200e18, nowS(), false),
            abi.encode(0, nowS(), true),
            abi.encode(uint256(type(uint128).max) + 1, nowS(), true),
            abi.encode(200e18, nowS() + 1, true),
            abi.encode(200e18, nowS(), 2),
            abi.encode(200e18, nowS()),
            bytes("")
        ];
        for (uint256 i; i < answers.length; ++i) {
            source.setRaw(answers[i]);
            vm.expectRevert(abi.encodeWithSelector(DelayedFeed.SourceNotOk.selector, ETH));
            delayed.poke(ETH);
        }
        source.setFails(true);
        vm.expectRevert(abi.encodeWithSelector(DelayedFeed.SourceNotOk.selector, ETH));
        delayed.poke(ETH);
        vm.etch(address(source), "");
        vm.expectRevert(abi.encodeWithSelector(DelayedFeed.SourceNotOk.selector, ETH));
        delayed.poke(ETH);
        checkNext(0, 0);
    }

    function test_the_largest_price_is_queued_whole() public {
        source.setPrice(type(uint128).max, nowS(), true);
        delayed.poke(ETH);
        checkNext(type(uint128).max, nowS());
    }

    function test_a_source_that_failed_keeps_nothing_from_becoming_current() public {
        uint256 first = nowS();
        delayed.poke(ETH);
        source.setFails(true);
        pass(600);
        delayed.poke(ETH);
        check(200e18, first, true);
        checkNext(0, 0);
        vm.expectRevert(abi.encodeWithSelector(DelayedFeed.SourceNotOk.selector, ETH));
        delayed.poke(ETH);
        source.setFails(false);
        pass(1);
        delayed.poke(ETH);
        checkNext(200e18, first + 601);
    }

    function test_a_source_that_burns_its_gas_keeps_nothing_from_becoming_current() public {
        uint256 first = nowS();
        delayed.poke(ETH);
        source.setBurns(type(uint256).max);
        pass(600);
        delayed.poke(ETH);
        check(200e18, first, true);
    }

    function test_starving_the_source_of_gas_reverts_rather_than_dropping_its_value() public {
        delayed.poke(ETH);
        pass(600);
        source.setBurns(250_000);
        uint256 state = vm.snapshotState();
        for (uint256 gas_ = 40_000; gas_ < 500_000; gas_ += 10_000) {
            try delayed.poke{gas: gas_}(ETH) {
                checkNext(200e18, nowS());
            } catch {}
            vm.revertToState(state);
        }
        vm.expectRevert(GuardedCall.GasTooLow.selector);
        delayed.poke{gas: 200_000}(ETH);
    }

    function refuse(string memory what, ISlowOracle oracle, uint32 delay, uint32 maxAge) private {
        vm.expectRevert(abi.encodeWithSelector(DelayedFeed.BadSource.selector, what));
        vm.prank(admin);
        delayed.setSource("new", oracle, delay, maxAge);
    }

    function test_a_source_is_set_inside_hard_bounds() public {
        refuse("oracle", ISlowOracle(address(1)), 600, 3600);
        refuse("delay", adapter, 59, 3600);
        refuse("delay", adapter, 3601, 1 days);
        refuse("maxAge", adapter, 600, 1199);
        refuse("maxAge", adapter, 600, 1 days + 1);
        vm.startPrank(admin);
        delayed.setSource("shortest", adapter, 60, 120);
        delayed.setSource("longest", adapter, 3600, 1 days);
    }

    function test_times_may_change_and_the_source_may_not() public {
        uint256 first = nowS();
        delayed.poke(ETH);
        set(ETH, 300, 3600);
        pass(300);
        delayed.poke(ETH);
        check(200e18, first, true);
        vm.expectRevert(abi.encodeWithSelector(DelayedFeed.SourceFixed.selector, ETH));
        vm.prank(admin);
        delayed.setSource(ETH, adapter, 600, 3600);
    }

    function test_only_the_admin_sets_a_source() public {
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(this)));
        delayed.setSource("new", adapter, 600, 3600);
    }

    function test_an_unknown_feed_has_no_price_and_cannot_be_poked() public {
        (uint256 price, uint256 at, bool ok) = delayed.read("x");
        assertEq(price, 0);
        assertEq(at, 0);
        assertFalse(ok);
        vm.expectRevert(abi.encodeWithSelector(DelayedFeed.UnknownFeed.selector, bytes32("x")));
        delayed.poke("x");
    }

    function test_the_router_reads_a_delayed_aggregator() public {
        vm.startPrank(admin);
        delayed.setSource("late", adapter, 600, 3600);
        vm.expectRevert(abi.encodeWithSelector(DelayedFeed.SourceNotOk.selector, bytes32("late")));
        delayed.poke("late");
        adapter.setSource("late", aggregators[ETH], aggregators[ETH], 2 hours, 1e12, 1e28);
        router.setFeed("late", delayed, 0.01e18, 1 hours, 12);
        vm.stopPrank();
        delayed.poke("late");
        pass(600);
        delayed.poke("late");
        setFast("late", 200e18);
        router.prove("late");
        assertEq(uint256(router.mode("late")), 0);
        assertEq(router.price("late").slowAt, nowS() - 600);
    }

    function test_pokes_on_schedule_keep_the_price_ok_all_the_time(uint32 delay) public {
        delay = uint32(bound(delay, 60, 3600));
        set(ETH, delay, 2 * delay);
        source.setPrice(200e18, nowS(), true);
        delayed.poke(ETH);
        for (uint256 i; i < 5; ++i) {
            pass(delay);
            delayed.poke(ETH);
            (,, bool ok) = delayed.read(ETH);
            assertTrue(ok);
            vm.warp(nowS() + delay);
            (,, ok) = delayed.read(ETH);
            assertTrue(ok);
            vm.warp(nowS() - delay);
        }
    }
}
