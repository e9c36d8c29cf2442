// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {TestAggregator} from "../demo/TestAggregator.sol";
import {FeedPrice} from "../src/HybridTypes.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {IAggregatorV3} from "../src/interfaces/IAggregatorV3.sol";
import {ISlowOracle} from "../src/interfaces/ISlowOracle.sol";
import {ChainlinkAdapter} from "../src/slow/ChainlinkAdapter.sol";
import {GuardedCall} from "../src/slow/GuardedCall.sol";
import {AnySource} from "./AnySource.sol";
import {Oracles} from "./Oracles.sol";

contract OracleRouterTest is Oracles {
    bytes32 internal constant SOL = "SOL";
    AnySource internal uptime = new AnySource();
    AnySource internal odd = new AnySource();

    function check(OracleRouter.Mode wanted) private view {
        assertEq(uint256(router.mode(ETH)), uint256(wanted));
    }

    function refresh() private {
        setFast(ETH, 200e18);
        setSlow(ETH, 200e18);
    }

    function useUptime(int256 answer, uint256 startedAt) private {
        uptime.setRound(answer, startedAt);
        vm.prank(admin);
        router.setSequencer(IAggregatorV3(address(uptime)), 3600);
    }

    /// @dev Puts ETH on a source that answers as the test says.
    function useOdd() private {
        odd.setPrice(200e18, nowS(), true);
        vm.prank(admin);
        router.setFeed(ETH, ISlowOracle(address(odd)), 0.01e18, 1 hours, 12);
    }

    function useOddProven() private {
        useOdd();
        setFast(ETH, 200e18);
        router.prove(ETH);
    }

    // --- modes ---

    function test_the_mode_follows_the_two_clocks() public {
        check(OracleRouter.Mode.NORMAL);
        pass(599);
        check(OracleRouter.Mode.FROZEN);
        pass(1);
        check(OracleRouter.Mode.SLOW_ONLY);
        pass(2 hours);
        check(OracleRouter.Mode.FROZEN);
        setFast(ETH, 200e18);
        check(OracleRouter.Mode.FAST_ONLY);
        setSlow(ETH, 200e18);
        check(OracleRouter.Mode.NORMAL);
    }

    function test_a_fast_price_that_is_only_stale_does_not_leave_the_slow_one_alone() public {
        pass(15);
        check(OracleRouter.Mode.NORMAL);
        pass(1);
        check(OracleRouter.Mode.FROZEN);
        FeedPrice memory p = router.price(ETH);
        assertFalse(p.fastFresh);
        assertTrue(p.slowFresh);
        assertFalse(p.silent);
    }

    function test_the_fast_oracle_is_silent_ten_minutes_after_what_it_last_observed() public {
        uint256 observedAt = nowS();
        pass(5);
        fastOracle.post(bundle(ETH, 201e18));
        vm.warp(observedAt + 5 + 599);
        assertFalse(router.price(ETH).silent);
        pass(1);
        assertTrue(router.price(ETH).silent);
        setFast(ETH, 200e18);
        assertFalse(router.price(ETH).silent);
    }

    function test_a_stale_price_keeps_its_last_value_and_says_so() public {
        pass(3 hours);
        FeedPrice memory p = router.price(ETH);
        assertEq(p.fast, 200e18);
        assertEq(p.slow, 200e18);
        assertFalse(p.fastFresh);
        assertFalse(p.slowFresh);
        assertTrue(p.silent);
    }

    function test_prices_come_in_the_order_asked_for() public {
        newFeed(SOL, 10e18, 60);
        bytes32[] memory ids = new bytes32[](3);
        (ids[0], ids[1], ids[2]) = (SOL, ETH, SOL);
        FeedPrice[] memory all = router.prices(ids);
        assertEq(all[0].slow, 10e18);
        assertEq(all[1].slow, 200e18);
        assertEq(all[2].slow, 10e18);
        assertEq(all[0].minDelay, 60);
        assertEq(all[1].minDelay, 12);
        assertEq(all[1].deviation, 0.01e18);
        assertEq(all[1].heartbeat, 1 hours);
        for (uint256 i; i < 3; ++i) {
            assertEq(abi.encode(all[i]), abi.encode(router.price(ids[i])));
        }
    }

    function test_an_unknown_feed_reverts() public {
        bytes memory unknown = abi.encodeWithSelector(OracleRouter.UnknownFeed.selector, bytes32("x"));
        vm.expectRevert(unknown);
        router.price("x");
        vm.expectRevert(unknown);
        router.mode("x");
        vm.expectRevert(unknown);
        router.prove("x");
        bytes32[] memory ids = new bytes32[](2);
        (ids[0], ids[1]) = (ETH, "x");
        vm.expectRevert(unknown);
        router.prices(ids);
    }

    // --- registration and probation ---

    function refuse(string memory what, ISlowOracle slow, uint64 deviation, uint32 heartbeat, uint32 delay) private {
        vm.expectRevert(abi.encodeWithSelector(OracleRouter.BadFeed.selector, what));
        vm.prank(admin);
        router.setFeed("new", slow, deviation, heartbeat, delay);
    }

    function test_a_feed_is_set_inside_hard_bounds() public {
        refuse("slow", ISlowOracle(address(1)), 1, 1, 12);
        refuse("deviation", adapter, 0, 1, 12);
        refuse("deviation", adapter, 0.1e18 + 1, 1, 12);
        refuse("heartbeat", adapter, 1, 0, 12);
        refuse("minDelay", adapter, 1, 1, 4);
        refuse("minDelay", adapter, 1, 1, 601);
    }

    function test_only_the_admin_sets_a_feed_and_the_sequencer() public {
        bytes memory stranger = abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(this));
        vm.expectRevert(stranger);
        router.setFeed("new", adapter, 1, 1, 12);
        vm.expectRevert(stranger);
        router.setSequencer(IAggregatorV3(address(uptime)), 3600);
    }

    function test_a_new_source_is_on_probation_until_anyone_proves_it() public {
        useOdd();
        setFast(ETH, 200e18);
        FeedPrice memory p = router.price(ETH);
        assertFalse(p.slowFresh);
        assertEq(p.slow, 200e18);
        check(OracleRouter.Mode.FAST_ONLY);
        vm.expectEmit(address(router));
        emit OracleRouter.FeedProven(ETH, 200e18, 200e18);
        vm.prank(makeAddr("anyone"));
        router.prove(ETH);
        check(OracleRouter.Mode.NORMAL);
        (,,,, bool proven) = router.feeds(ETH);
        assertTrue(proven);
    }

    function test_a_source_on_probation_never_acts_alone() public {
        useOdd();
        pass(1 hours);
        odd.setPrice(200e18, nowS(), true);
        assertTrue(router.price(ETH).silent);
        check(OracleRouter.Mode.FROZEN);
    }

    function test_other_terms_of_the_same_source_do_not_interrupt_it() public {
        vm.prank(admin);
        router.setFeed(ETH, adapter, 0.02e18, 2 hours, 60);
        check(OracleRouter.Mode.NORMAL);
        assertEq(router.price(ETH).minDelay, 60);
    }

    function test_a_source_that_comes_back_is_on_probation_again() public {
        useOddProven();
        vm.prank(admin);
        router.setFeed(ETH, adapter, 0.01e18, 1 hours, 12);
        assertFalse(router.price(ETH).slowFresh);
    }

    function test_a_source_is_proven_within_five_percent() public {
        useOdd();
        setFast(ETH, 200e18);
        // 190.476... x 1.05 = 200, and 210.526... x 0.95 = 200.
        uint256[2] memory apart = [uint256(190_476_190_476_190_476_190), 210_526_315_789_473_684_211];
        for (uint256 i; i < 2; ++i) {
            odd.setPrice(apart[i], nowS(), true);
            vm.expectRevert(abi.encodeWithSelector(OracleRouter.TooFarApart.selector, 200e18, apart[i]));
            router.prove(ETH);
        }
        odd.setPrice(apart[0] + 1, nowS(), true);
        router.prove(ETH);
        useOtherOdd(apart[1] - 1);
    }

    function useOtherOdd(uint256 price) private {
        AnySource other = new AnySource();
        other.setPrice(price, nowS(), true);
        vm.prank(admin);
        router.setFeed(ETH, ISlowOracle(address(other)), 0.01e18, 1 hours, 12);
        router.prove(ETH);
        assertTrue(router.price(ETH).slowFresh);
    }

    function test_a_ratio_taken_for_a_price_is_not_proven() public {
        useOdd();
        setFast(ETH, 2200e18);
        odd.setPrice(1.1e18, nowS(), true);
        vm.expectRevert(abi.encodeWithSelector(OracleRouter.TooFarApart.selector, 2200e18, 1.1e18));
        router.prove(ETH);
    }

    function test_the_largest_prices_do_not_overflow_the_proof() public {
        useOdd();
        setFast(ETH, type(uint128).max);
        odd.setPrice(1, nowS(), true);
        vm.expectPartialRevert(OracleRouter.TooFarApart.selector);
        router.prove(ETH);
        odd.setPrice(type(uint128).max, nowS(), true);
        router.prove(ETH);
    }

    function refuseProof() private {
        vm.expectRevert(abi.encodeWithSelector(OracleRouter.NotFresh.selector, ETH));
        router.prove(ETH);
    }

    function test_only_two_fresh_prices_prove_a_source() public {
        useOdd();
        setFast(ETH, 200e18);
        odd.setPrice(200e18, nowS(), false);
        refuseProof();
        odd.setPrice(200e18, nowS(), true);
        pass(16);
        refuseProof();
        setFast(ETH, 200e18);
        useUptime(1, nowS() - 1 days);
        refuseProof();
    }

    function test_proving_again_changes_nothing() public {
        router.prove(ETH);
        check(OracleRouter.Mode.NORMAL);
    }

    // --- sequencer ---

    function test_nothing_is_fresh_and_nobody_silent_while_the_sequencer_is_down() public {
        useUptime(1, nowS() - 1 days);
        check(OracleRouter.Mode.FROZEN);
        FeedPrice memory p = router.price(ETH);
        assertFalse(p.fastFresh || p.slowFresh || p.silent);
        assertEq(p.fast, 200e18);
        assertEq(p.slow, 200e18);
        pass(700);
        setSlow(ETH, 200e18);
        check(OracleRouter.Mode.FROZEN);
        assertFalse(router.price(ETH).silent);
    }

    function test_nothing_is_fresh_before_the_grace_is_over() public {
        uint256 startedAt = nowS();
        useUptime(0, startedAt);
        pass(3590);
        refresh();
        vm.warp(startedAt + 3600);
        assertFalse(router.sequencerUp());
        check(OracleRouter.Mode.FROZEN);
        pass(1);
        assertTrue(router.sequencerUp());
        check(OracleRouter.Mode.NORMAL);
    }

    function test_an_outage_is_not_the_reporters_silence() public {
        pass(1 hours);
        uint256 startedAt = nowS();
        uptime.setRound(0, startedAt);
        vm.prank(admin);
        router.setSequencer(IAggregatorV3(address(uptime)), 600);
        setSlow(ETH, 200e18);
        // Nobody has reported for an hour; but since the chain is back, only for so long.
        pass(600);
        assertFalse(router.price(ETH).silent);
        pass(1);
        assertTrue(router.price(ETH).silent);
        check(OracleRouter.Mode.SLOW_ONLY);
    }

    function checkDown() private view {
        assertFalse(router.sequencerUp());
        check(OracleRouter.Mode.FROZEN);
    }

    function test_an_uptime_feed_that_cannot_be_read_says_that_the_chain_is_down() public {
        useUptime(0, nowS() - 1 days);
        check(OracleRouter.Mode.NORMAL);
        uptime.setRound(2, nowS() - 1 days);
        checkDown();
        uptime.setRound(-1, nowS() - 1 days);
        checkDown();
        uptime.setRound(0, 0);
        checkDown();
        uptime.setRound(0, nowS() + 1);
        checkDown();
        uptime.setRaw(abi.encode(uint80(1), int256(0)));
        checkDown();
        uptime.setRaw(abi.encode(type(uint256).max, int256(0), type(uint256).max));
        checkDown();
        uptime.setFails(true);
        checkDown();
        vm.etch(address(uptime), "");
        checkDown();
    }

    function test_an_uptime_feed_that_burns_its_gas_costs_its_stipend() public {
        useUptime(0, nowS() - 1 days);
        uptime.setBurns(type(uint256).max);
        uint256 before = gasleft();
        checkDown();
        // Twice: sequencerUp and mode.
        assertLt(before - gasleft(), 2 * router.UPTIME_GAS() + 100_000);
    }

    function refuseSequencer(string memory what, uint32 grace) private {
        vm.expectRevert(abi.encodeWithSelector(OracleRouter.BadSequencer.selector, what));
        vm.prank(admin);
        router.setSequencer(IAggregatorV3(address(uptime)), grace);
    }

    function test_the_grace_lies_inside_hard_bounds_and_the_uptime_feed_answers() public {
        uptime.setRound(0, nowS());
        refuseSequencer("grace", 599);
        refuseSequencer("grace", 1 days + 1);
        uptime.setRaw("");
        refuseSequencer("uptime", 600);
    }

    function test_without_an_uptime_feed_the_chain_counts_as_up() public {
        useUptime(1, nowS());
        checkDown();
        vm.expectEmit(address(router));
        emit OracleRouter.SequencerSet(address(0), 0);
        vm.prank(admin);
        router.setSequencer(IAggregatorV3(address(0)), 0);
        assertTrue(router.sequencerUp());
        check(OracleRouter.Mode.NORMAL);
    }

    // --- sources that misbehave ---

    function checkNotFresh(uint256 slow) private view {
        FeedPrice memory p = router.price(ETH);
        assertFalse(p.slowFresh);
        assertTrue(p.fastFresh);
        assertEq(p.slow, slow);
        assertEq(p.fast, 200e18);
    }

    function test_a_failing_source_is_not_fresh_and_stops_nothing() public {
        useOddProven();
        assertTrue(router.price(ETH).slowFresh);
        odd.setFails(true);
        checkNotFresh(0);
        odd.setFails(false);
        assertTrue(router.price(ETH).slowFresh);
        vm.etch(address(odd), "");
        checkNotFresh(0);
    }

    function test_a_source_that_answers_nonsense_is_not_fresh() public {
        useOddProven();
        bytes[7] memory nonsense = [
            bytes(""),
            abi.encode(200e18, nowS()),
            abi.encode(200e18, nowS(), 2),
            abi.encode(200e18, nowS(), type(uint256).max),
            abi.encode(200e18, nowS() + 1, true),
            abi.encode(uint256(type(uint128).max) + 1, nowS(), true),
            abi.encode(0, nowS(), true)
        ];
        for (uint256 i; i < nonsense.length; ++i) {
            odd.setRaw(nonsense[i]);
            checkNotFresh(i == 2 || i == 3 ? 200e18 : 0);
        }
        odd.setRaw(abi.encode(200e18, nowS(), true, "and more"));
        assertTrue(router.price(ETH).slowFresh);
    }

    function test_the_largest_price_passes() public {
        useOddProven();
        odd.setPrice(type(uint128).max, nowS(), true);
        assertEq(router.price(ETH).slow, type(uint128).max);
        assertTrue(router.price(ETH).slowFresh);
    }

    function test_a_source_that_burns_its_gas_costs_its_stipend_and_stops_nothing() public {
        useOddProven();
        odd.setBurns(type(uint256).max);
        uint256 before = gasleft();
        checkNotFresh(0);
        assertLt(before - gasleft(), router.READ_GAS() + 100_000);
    }

    function test_a_source_that_answers_without_end_costs_its_stipend() public {
        useOddProven();
        odd.setRaw(new bytes(100_000));
        uint256 before = gasleft();
        checkNotFresh(0);
        assertLt(before - gasleft(), router.READ_GAS() + 100_000);
    }

    function test_starving_the_source_of_gas_reverts_rather_than_looking_like_a_failure() public {
        useOddProven();
        odd.setBurns(250_000);
        uint256 failures;
        // Whatever the gas: the true answer or a revert, never "not fresh".
        for (uint256 gas_ = 20_000; gas_ < 500_000; gas_ += 4_000) {
            try router.price{gas: gas_}(ETH) returns (FeedPrice memory p) {
                assertTrue(p.slowFresh);
            } catch {
                ++failures;
            }
        }
        assertGt(failures, 40);
        assertLt(failures, 100);
    }

    function test_starving_the_uptime_feed_of_gas_reverts_rather_than_looking_like_an_outage() public {
        useUptime(0, nowS() - 1 days);
        uptime.setBurns(100_000);
        for (uint256 gas_ = 20_000; gas_ < 300_000; gas_ += 4_000) {
            try router.price{gas: gas_}(ETH) returns (FeedPrice memory p) {
                assertTrue(p.slowFresh);
            } catch {}
        }
        vm.expectRevert(GuardedCall.GasTooLow.selector);
        router.sequencerUp{gas: 80_000}();
    }

    function test_starving_an_aggregator_behind_the_adapter_reverts_too() public {
        AnySource aggregator = new AnySource();
        vm.etch(address(aggregators[ETH]), address(aggregator).code);
        AnySource burning = AnySource(address(aggregators[ETH]));
        burning.setRound(200e8, nowS());
        burning.setBurns(100_000);
        assertTrue(router.price(ETH).slowFresh);
        for (uint256 gas_ = 20_000; gas_ < 300_000; gas_ += 2_000) {
            try router.price{gas: gas_}(ETH) returns (FeedPrice memory p) {
                assertTrue(p.slowFresh);
            } catch {}
        }
    }

    function test_a_composed_source_may_burn_both_stipends_and_is_still_only_not_fresh() public {
        TestAggregator aggregator = aggregators[ETH];
        TestAggregator one = new TestAggregator(8, 1, 1e20, address(this));
        one.update(1e8);
        ChainlinkAdapter.Part memory part = ChainlinkAdapter.Part(one, one, 2 hours, 1e12, 1e28);
        vm.startPrank(admin);
        adapter.setComposed("pair", part, ChainlinkAdapter.Part(aggregator, aggregator, 2 hours, 1e12, 1e28));
        router.setFeed("pair", adapter, 0.01e18, 1 hours, 12);
        vm.stopPrank();
        setFast("pair", 200e18);
        router.prove("pair");
        assertTrue(router.price("pair").slowFresh);
        bytes memory code = address(new AnySource()).code;
        vm.etch(address(one), code);
        vm.etch(address(aggregator), code);
        AnySource(address(one)).setBurns(type(uint256).max);
        AnySource(address(aggregator)).setBurns(type(uint256).max);
        FeedPrice memory p = router.price("pair");
        assertFalse(p.slowFresh);
        assertTrue(p.fastFresh);
        assertEq(p.slow, 0);
    }
}
