// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Breaker} from "../src/Breaker.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {IQueuedOracle} from "../src/interfaces/IQueuedOracle.sol";
import {StubRouter} from "./StubRouter.sol";

contract StubQueue is IQueuedOracle {
    uint256 private _price;
    bool private _ok;

    function set(uint256 price, bool ok) external {
        (_price, _ok) = (price, ok);
    }

    function peekNext(bytes32) external view returns (uint256, uint256, bool) {
        return (_price, block.timestamp, _ok);
    }

    /// @dev The breaker takes the present price from the router.
    function read(bytes32) external pure returns (uint256, uint256, bool) {
        revert("not asked");
    }
}

contract BreakerTest is Test {
    bytes32 internal constant ETH = "ETH";
    bytes32 internal constant BTC = "BTC";
    uint256 internal constant START = 1_700_000_000;

    StubRouter internal router;
    StubQueue internal queue;
    Breaker internal breaker;
    address internal admin = makeAddr("admin");
    address internal guardian = makeAddr("guardian");

    event BreakerSet(uint256 level, address by);
    event GuardianSet(address guardian);
    event DivergenceSeen(bytes32 indexed feedId, uint256 fast, uint256 slow, uint256 fastAt);

    function setUp() public {
        vm.warp(START);
        router = new StubRouter();
        queue = new StubQueue();
        breaker = new Breaker(OracleRouter(address(router)), guardian, admin);
        router.set(ETH, 200e18, 200e18);
        router.setSource(ETH, address(queue));
        router.set(BTC, 1000e18, 1000e18);
    }

    function nowS() private view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    function pass(uint256 age) private {
        vm.warp(nowS() + age);
    }

    function raise(uint256 wanted) private {
        vm.prank(guardian);
        breaker.raise(wanted);
    }

    /// @dev Both prices are seen anew, `fast` against a slow 200.
    function see(uint256 fast) private {
        router.set(ETH, fast, 200e18);
        breaker.tripOnDivergence(ETH);
    }

    // --- levels ---

    function test_nothing_is_raised_at_first() public view {
        assertEq(breaker.level(), 0);
        assertEq(breaker.raisedAt(), 0);
        assertEq(breaker.guardian(), guardian);
    }

    function test_a_level_is_lost_every_six_hours() public {
        raise(3);
        assertEq(breaker.level(), 3);
        assertEq(breaker.raisedAt(), START);
        pass(6 hours - 1);
        assertEq(breaker.level(), 3);
        pass(1);
        assertEq(breaker.level(), 2);
        pass(6 hours - 1);
        assertEq(breaker.level(), 2);
        pass(1);
        assertEq(breaker.level(), 1);
        pass(6 hours - 1);
        assertEq(breaker.level(), 1);
        pass(1);
        assertEq(breaker.level(), 0);
        pass(365 days);
        assertEq(breaker.level(), 0);
    }

    function test_the_guardian_raises_to_each_level_and_it_is_told() public {
        for (uint256 wanted = 1; wanted <= 3; ++wanted) {
            pass(10);
            vm.expectEmit(address(breaker));
            emit BreakerSet(wanted, guardian);
            raise(wanted);
            assertEq(breaker.level(), wanted);
            assertEq(breaker.raisedAt(), nowS());
        }
    }

    function test_there_is_no_level_nought_to_raise_to_nor_a_fourth() public {
        vm.startPrank(guardian);
        vm.expectRevert(abi.encodeWithSelector(Breaker.BadLevel.selector, 0));
        breaker.raise(0);
        vm.expectRevert(abi.encodeWithSelector(Breaker.BadLevel.selector, 4));
        breaker.raise(4);
        vm.stopPrank();
    }

    function test_nobody_lowers_the_level() public {
        raise(3);
        pass(6 hours);
        vm.startPrank(guardian);
        vm.expectRevert(abi.encodeWithSelector(Breaker.NotUpward.selector, 1, 2));
        breaker.raise(1);
        vm.stopPrank();
        queue.set(300e18, true);
        vm.expectRevert(abi.encodeWithSelector(Breaker.NotUpward.selector, 1, 2));
        breaker.tripOnQueue(ETH);
        assertEq(breaker.level(), 2);
    }

    function test_a_raise_while_it_decays_keeps_the_higher_of_both() public {
        raise(2);
        pass(6 hours);
        assertEq(breaker.level(), 1);
        raise(2);
        assertEq(breaker.level(), 2);
        assertEq(breaker.raisedAt(), nowS());
        pass(5 hours);
        raise(2);
        pass(5 hours);
        assertEq(breaker.level(), 2);
        raise(3);
        pass(6 hours);
        assertEq(breaker.level(), 2);
    }

    function test_raising_level_three_anew_prolongs_it_but_not_the_hour_of_the_insolvent() public {
        raise(3);
        pass(5 hours);
        raise(3);
        assertEq(breaker.raisedAt(), START);
        pass(6 hours - 1);
        assertEq(breaker.level(), 3);
        pass(1);
        assertEq(breaker.level(), 2);
        raise(3);
        assertEq(breaker.raisedAt(), nowS());
    }

    /// @dev The level is always the highest of what all raises so far have decayed to.
    function test_any_raises_give_the_highest_of_what_each_has_decayed_to(uint256 seed) public {
        uint256[8] memory levels;
        uint256[8] memory times;
        for (uint256 i; i < 8; ++i) {
            pass((seed >> (16 * i)) % 8 hours);
            uint256 wanted = 1 + (seed >> (200 + 4 * i)) % 3;
            if (wanted >= breaker.level()) raise(wanted);
            (levels[i], times[i]) = (wanted, nowS());
            assertEq(breaker.level(), highest(levels, times));
        }
        for (uint256 i; i < 20; ++i) {
            pass(1 hours);
            assertEq(breaker.level(), highest(levels, times));
        }
    }

    function highest(uint256[8] memory levels, uint256[8] memory times) private view returns (uint256 most) {
        for (uint256 i; i < 8; ++i) {
            uint256 lost = (nowS() - times[i]) / 6 hours;
            if (levels[i] > lost && levels[i] - lost > most) most = levels[i] - lost;
        }
    }

    // --- who ---

    function test_only_the_guardian_raises_without_a_reason() public {
        vm.prank(admin);
        vm.expectRevert(abi.encodeWithSelector(Breaker.NotGuardian.selector, admin));
        breaker.raise(1);
    }

    function test_the_admin_replaces_the_guardian() public {
        address next = makeAddr("next");
        vm.expectEmit(address(breaker));
        emit GuardianSet(next);
        vm.prank(admin);
        breaker.setGuardian(next);
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(Breaker.NotGuardian.selector, guardian));
        breaker.raise(1);
        vm.prank(next);
        breaker.raise(1);
        assertEq(breaker.level(), 1);
    }

    function test_only_the_admin_replaces_the_guardian() public {
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, guardian));
        breaker.setGuardian(guardian);
    }

    // --- the queue ---

    function test_a_quarter_in_the_queue_trips_either_way() public {
        queue.set(250e18, true);
        vm.expectEmit(address(breaker));
        emit BreakerSet(1, address(this));
        breaker.tripOnQueue(ETH);
        assertEq(breaker.level(), 1);
        pass(6 hours);
        queue.set(150e18, true);
        breaker.tripOnQueue(ETH);
        assertEq(breaker.level(), 1);
    }

    function test_less_than_a_quarter_in_the_queue_trips_nothing() public {
        queue.set(250e18 - 1, true);
        vm.expectRevert(abi.encodeWithSelector(Breaker.TooClose.selector, ETH, 250e18 - 1, 200e18));
        breaker.tripOnQueue(ETH);
        queue.set(150e18 + 1, true);
        vm.expectRevert(abi.encodeWithSelector(Breaker.TooClose.selector, ETH, 150e18 + 1, 200e18));
        breaker.tripOnQueue(ETH);
    }

    function test_the_queue_is_held_against_the_slow_price_and_not_the_fast_one() public {
        queue.set(200e18, true);
        router.set(ETH, 100e18, 200e18);
        vm.expectPartialRevert(Breaker.TooClose.selector);
        breaker.tripOnQueue(ETH);
    }

    function test_an_empty_queue_trips_nothing() public {
        queue.set(300e18, false);
        vm.expectRevert(abi.encodeWithSelector(Breaker.NothingQueued.selector, ETH));
        breaker.tripOnQueue(ETH);
    }

    function test_a_queue_is_held_against_a_fresh_price_only() public {
        queue.set(300e18, true);
        router.setFresh(ETH, true, false);
        vm.expectRevert(abi.encodeWithSelector(Breaker.StaleOracle.selector, ETH));
        breaker.tripOnQueue(ETH);
        assertEq(breaker.level(), 0);
        router.setFresh(ETH, false, true);
        breaker.tripOnQueue(ETH);
        assertEq(breaker.level(), 1);
    }

    function test_a_source_without_a_queue_trips_nothing() public {
        vm.expectRevert();
        breaker.tripOnQueue(BTC);
        vm.expectRevert();
        breaker.tripOnQueue("x");
    }

    // --- divergence ---

    function test_three_sightings_of_a_tenth_trip() public {
        router.set(ETH, 220e18, 200e18);
        vm.expectEmit(address(breaker));
        emit DivergenceSeen(ETH, 220e18, 200e18, START);
        breaker.tripOnDivergence(ETH);
        pass(5);
        see(180e18);
        assertEq(breaker.level(), 0);
        pass(5);
        router.set(ETH, 220e18, 200e18);
        vm.expectEmit(address(breaker));
        emit BreakerSet(1, address(this));
        breaker.tripOnDivergence(ETH);
        assertEq(breaker.level(), 1);
    }

    function test_less_than_a_tenth_is_no_sighting() public {
        router.set(ETH, 220e18 - 1, 200e18);
        vm.expectRevert(abi.encodeWithSelector(Breaker.TooClose.selector, ETH, 220e18 - 1, 200e18));
        breaker.tripOnDivergence(ETH);
        router.set(ETH, 180e18 + 1, 200e18);
        vm.expectRevert(abi.encodeWithSelector(Breaker.TooClose.selector, ETH, 180e18 + 1, 200e18));
        breaker.tripOnDivergence(ETH);
    }

    function test_both_prices_must_be_fresh() public {
        router.set(ETH, 300e18, 200e18);
        router.setFresh(ETH, false, true);
        vm.expectRevert(abi.encodeWithSelector(Breaker.StaleOracle.selector, ETH));
        breaker.tripOnDivergence(ETH);
        router.setFresh(ETH, true, false);
        vm.expectRevert(abi.encodeWithSelector(Breaker.StaleOracle.selector, ETH));
        breaker.tripOnDivergence(ETH);
    }

    function test_sightings_are_five_seconds_apart() public {
        see(300e18);
        pass(4);
        router.set(ETH, 300e18, 200e18);
        vm.expectRevert(abi.encodeWithSelector(Breaker.TooSoon.selector, START + 5, START + 4));
        breaker.tripOnDivergence(ETH);
        pass(1);
        breaker.tripOnDivergence(ETH);
    }

    function test_one_fast_price_is_seen_once() public {
        see(300e18);
        pass(10);
        vm.expectRevert(abi.encodeWithSelector(Breaker.NotNewer.selector, START, START));
        breaker.tripOnDivergence(ETH);
        router.setFastAt(ETH, START + 1);
        breaker.tripOnDivergence(ETH);
        pass(10);
        router.setFastAt(ETH, START);
        vm.expectRevert(abi.encodeWithSelector(Breaker.NotNewer.selector, START, START + 1));
        breaker.tripOnDivergence(ETH);
    }

    function test_the_third_sighting_counts_until_five_minutes_after_the_first() public {
        see(300e18);
        pass(100);
        see(300e18);
        pass(200);
        see(300e18);
        assertEq(breaker.level(), 1);
    }

    function test_a_first_sighting_longer_ago_is_forgotten_and_the_others_stand() public {
        see(300e18);
        pass(100);
        see(300e18);
        pass(201);
        see(300e18);
        assertEq(breaker.level(), 0);
        pass(99);
        see(300e18);
        assertEq(breaker.level(), 1);
    }

    function test_after_a_trip_the_count_begins_afresh() public {
        see(300e18);
        pass(5);
        see(300e18);
        pass(5);
        see(300e18);
        pass(6 hours);
        see(300e18);
        pass(5);
        see(300e18);
        assertEq(breaker.level(), 0);
        pass(5);
        see(300e18);
        assertEq(breaker.level(), 1);
    }

    function test_each_feed_has_its_own_sightings() public {
        see(300e18);
        pass(5);
        see(300e18);
        pass(5);
        router.set(BTC, 1100e18, 1000e18);
        breaker.tripOnDivergence(BTC);
        assertEq(breaker.level(), 0);
    }

    function test_a_trip_prolongs_level_one_and_raises_nothing_above_it() public {
        raise(1);
        pass(5 hours);
        queue.set(300e18, true);
        breaker.tripOnQueue(ETH);
        pass(6 hours - 1);
        assertEq(breaker.level(), 1);
        pass(1);
        assertEq(breaker.level(), 0);
    }
}
