// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Test} from "forge-std/Test.sol";
import {IAggregatorV3, IAnswerBounds} from "../src/interfaces/IAggregatorV3.sol";
import {ChainlinkAdapter} from "../src/slow/ChainlinkAdapter.sol";
import {GuardedCall} from "../src/slow/GuardedCall.sol";
import {AnySource} from "./AnySource.sol";

/// @dev An aggregator that answers whatever the test says, also nonsense.
contract AnyAggregator is AnySource {
    uint8 public decimals;
    int192 public minAnswer = 1e8;
    int192 public maxAnswer = 1e13;

    constructor(uint8 decimals_) {
        decimals = decimals_;
    }

    function setBounds(int192 min, int192 max) external {
        (minAnswer, maxAnswer) = (min, max);
    }
}

contract ChainlinkAdapterTest is Test {
    bytes32 internal constant FEED = "ETH";
    ChainlinkAdapter internal adapter = new ChainlinkAdapter(address(this));
    AnyAggregator internal source = new AnyAggregator(8);

    function setUp() public {
        vm.warp(1_700_000_000);
        register(FEED, source, 3600, 2e18, 90_000e18);
        source.setRound(200e8, block.timestamp);
    }

    function register(bytes32 feedId, AnyAggregator a, uint32 maxAge, uint128 lower, uint128 upper) private {
        ChainlinkAdapter.Part memory p = part(a, maxAge, lower, upper);
        adapter.setSource(feedId, p.aggregator, p.bounds, maxAge, lower, upper);
    }

    function part(AnyAggregator a, uint32 maxAge, uint128 lower, uint128 upper)
        private
        pure
        returns (ChainlinkAdapter.Part memory)
    {
        return ChainlinkAdapter.Part(
            IAggregatorV3(address(a)), IAnswerBounds(address(a)), maxAge, lower, upper
        );
    }

    function check(uint256 wanted, bool wantedOk) private view {
        (uint256 price,, bool ok) = adapter.read(FEED);
        assertEq(price, wanted);
        assertEq(ok, wantedOk);
    }

    function test_an_answer_is_scaled_to_wad() public {
        check(200e18, true);
        AnyAggregator other = new AnyAggregator(6);
        register("ETH 6", other, 3600, 101e18, 90_000e18);
        other.setRound(200e6, block.timestamp);
        (uint256 price,, bool ok) = adapter.read("ETH 6");
        assertEq(price, 200e18);
        assertTrue(ok);
    }

    function test_the_decimals_are_those_of_the_registration() public {
        vm.mockCall(address(source), abi.encodeCall(IAggregatorV3.decimals, ()), abi.encode(uint8(6)));
        check(200e18, true);
    }

    function test_an_answer_is_stale_after_its_greatest_age() public {
        vm.warp(block.timestamp + 3600);
        check(200e18, true);
        vm.warp(block.timestamp + 3601);
        check(200e18, false);
    }

    function test_a_round_without_a_time_or_from_the_future_is_not_ok() public {
        source.setRound(200e8, 0);
        check(200e18, false);
        source.setRound(200e8, block.timestamp + 1);
        check(200e18, false);
    }

    function test_an_answer_must_be_positive() public {
        source.setRound(0, block.timestamp);
        check(0, false);
        source.setRound(-1, block.timestamp);
        check(0, false);
    }

    function test_an_answer_at_its_bounds_is_not_believed() public {
        source.setRound(2e8, block.timestamp);
        check(2e18, false);
        source.setRound(2e8 + 1, block.timestamp);
        check(2e18 + 1e10, true);
        source.setRound(90_000e8, block.timestamp);
        check(90_000e18, false);
        source.setRound(90_000e8 - 1, block.timestamp);
        check(90_000e18 - 1e10, true);
    }

    function test_an_absurd_answer_has_no_price_so_that_it_overflows_nothing() public {
        source.setRound(int256(uint256(type(uint128).max)), block.timestamp);
        check(0, false);
        source.setRound(type(int256).max, block.timestamp);
        check(0, false);
    }

    function test_a_failing_aggregator_is_not_ok() public {
        source.setFails(true);
        check(0, false);
    }

    function test_an_answer_that_does_not_decode_is_not_ok() public {
        source.setRaw("");
        check(0, false);
        source.setRaw(abi.encode(type(uint256).max, 200e8, 0, block.timestamp));
        check(0, false);
    }

    function test_an_aggregator_without_code_is_not_ok() public {
        vm.etch(address(source), "");
        check(0, false);
    }

    function test_an_unknown_feed_is_not_ok() public view {
        (uint256 price,, bool ok) = adapter.read("nothing");
        assertEq(price, 0);
        assertFalse(ok);
    }

    function test_starving_the_call_of_gas_reverts_rather_than_looking_like_a_failure() public {
        source.setBurns(100_000);
        check(200e18, true);
        uint256 failures;
        // Whatever the gas: the true answer or a revert, never "not ok".
        for (uint256 gas_ = 20_000; gas_ < 500_000; gas_ += 4_000) {
            try adapter.read{gas: gas_}(FEED) returns (uint256 price, uint256, bool ok) {
                assertTrue(ok);
                assertEq(price, 200e18);
            } catch {
                ++failures;
            }
        }
        assertGt(failures, 10);
    }

    function test_bounds_lie_strictly_inside_those_of_the_aggregator() public {
        uint128[4] memory lows = [uint128(0), 1e18, 3e18, 2e18];
        uint128[4] memory highs = [uint128(90_000e18), 90_000e18, 3e18, 100_000e18];
        for (uint256 i; i < 4; ++i) {
            vm.expectPartialRevert(ChainlinkAdapter.BoundsOutside.selector);
            register(FEED, source, 3600, lows[i], highs[i]);
        }
    }

    function test_more_than_eighteen_decimals_and_no_age_are_refused() public {
        AnyAggregator other = new AnyAggregator(19);
        vm.expectPartialRevert(ChainlinkAdapter.TooManyDecimals.selector);
        register(FEED, other, 3600, 2e18, 90_000e18);
        vm.expectRevert(ChainlinkAdapter.ZeroAge.selector);
        register(FEED, source, 0, 2e18, 90_000e18);
    }

    function test_only_the_admin_registers_a_source() public {
        bytes memory stranger = abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(1));
        vm.startPrank(address(1));
        vm.expectRevert(stranger);
        register(FEED, source, 3600, 2e18, 90_000e18);
        ChainlinkAdapter.Part memory p = part(source, 3600, 2e18, 90_000e18);
        vm.expectRevert(stranger);
        adapter.setComposed(FEED, p, p);
    }

    function test_limits_may_change_and_the_aggregator_may_not() public {
        register(FEED, source, 60, 300e18, 90_000e18);
        check(200e18, false);
        AnyAggregator other = new AnyAggregator(8);
        vm.expectRevert(abi.encodeWithSelector(ChainlinkAdapter.SourceFixed.selector, FEED));
        register(FEED, other, 3600, 2e18, 90_000e18);
        vm.mockCall(address(source), abi.encodeCall(IAggregatorV3.decimals, ()), abi.encode(uint8(7)));
        vm.expectRevert(abi.encodeWithSelector(ChainlinkAdapter.SourceFixed.selector, FEED));
        register(FEED, source, 3600, 11e18, 90_000e18);
    }

    function test_an_aggregator_that_burns_its_gas_costs_its_stipend() public {
        source.setBurns(type(uint256).max);
        uint256 before = gasleft();
        check(0, false);
        assertLt(before - gasleft(), adapter.READ_GAS() + 30_000);
    }

    function test_an_answer_without_end_costs_the_stipend() public {
        source.setRaw(new bytes(100_000));
        uint256 before = gasleft();
        check(0, false);
        assertLt(before - gasleft(), adapter.READ_GAS() + 30_000);
    }
}

/// @dev A ratio of 18 decimals with bounds of 0.5 and 2, times a base of 8 decimals: wstETH / ETH x ETH / USD.
contract ComposedPriceTest is Test {
    bytes32 internal constant FEED = "wstETH";
    ChainlinkAdapter internal adapter = new ChainlinkAdapter(address(this));
    AnyAggregator internal ratio = new AnyAggregator(18);
    AnyAggregator internal base = new AnyAggregator(8);

    function setUp() public {
        vm.warp(1_700_000_000);
        ratio.setBounds(0.1e18, 10e18);
        adapter.setComposed(FEED, part(ratio, 1 days, 0.5e18, 2e18), part(base, 3600, 2e18, 90_000e18));
        ratio.setRound(1.25e18, nowS() - 100);
        base.setRound(2000e8, nowS() - 10);
    }

    function nowS() private view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    function part(AnyAggregator a, uint32 maxAge, uint128 lower, uint128 upper)
        private
        pure
        returns (ChainlinkAdapter.Part memory)
    {
        return ChainlinkAdapter.Part(
            IAggregatorV3(address(a)), IAnswerBounds(address(a)), maxAge, lower, upper
        );
    }

    function check(uint256 wanted, uint256 wantedAt, bool wantedOk) private view {
        (uint256 price, uint256 at, bool ok) = adapter.read(FEED);
        assertEq(price, wanted);
        assertEq(at, wantedAt);
        assertEq(ok, wantedOk);
    }

    function test_a_composed_price_is_ratio_times_base_and_as_old_as_the_older() public {
        check(2500e18, nowS() - 100, true);
        base.setRound(2000e8, nowS() - 200);
        check(2500e18, nowS() - 200, true);
    }

    function test_a_composed_price_rounds_down() public {
        ratio.setRound(0.999999999999999999e18, nowS());
        base.setRound(2.00000001e8, nowS());
        // 2.00000001 x (1 - 1e-18) = 2.00000001 - 2.00000001e-18.
        check(2.00000001e18 - 3, nowS(), true);
    }

    function test_each_answer_has_its_own_age() public {
        uint256 start = nowS();
        vm.warp(start + 3590);
        check(2500e18, start - 100, true);
        vm.warp(start + 3591);
        check(2500e18, start - 100, false);
        base.setRound(2000e8, nowS());
        check(2500e18, start - 100, true);
        vm.warp(start - 100 + 1 days);
        base.setRound(2000e8, nowS());
        check(2500e18, start - 100, true);
        vm.warp(start - 100 + 1 days + 1);
        check(2500e18, start - 100, false);
    }

    function test_each_answer_has_its_own_bounds() public {
        ratio.setRound(2e18, nowS());
        check(4000e18, nowS() - 10, false);
        ratio.setRound(2e18 - 1, nowS());
        check(4000e18 - 2000, nowS() - 10, true);
        base.setRound(2e8, nowS());
        (,, bool ok) = adapter.read(FEED);
        assertFalse(ok);
    }

    function test_no_price_comes_of_an_answer_that_cannot_be_read() public {
        base.setFails(true);
        check(0, 0, false);
        base.setFails(false);
        ratio.setRaw("");
        check(0, 0, false);
        ratio.setRound(-1, nowS());
        check(0, nowS() - 10, false);
        ratio.setRound(type(int256).max, nowS());
        check(0, nowS() - 10, false);
    }

    function test_the_largest_product_has_no_price() public {
        ratio.setRound(int256(uint256(type(uint128).max)), nowS());
        base.setRound(int256(uint256(type(uint128).max / 1e10)), nowS());
        check(0, nowS(), false);
    }

    function test_a_product_that_rounds_to_nothing_is_not_ok() public {
        bytes32 feedId = "tiny";
        AnyAggregator a = new AnyAggregator(18);
        a.setBounds(0, 1e18);
        adapter.setComposed(feedId, part(a, 3600, 1, 10), part(a, 3600, 1, 10));
        a.setRound(2, nowS());
        (uint256 price,, bool ok) = adapter.read(feedId);
        assertEq(price, 0);
        assertFalse(ok);
    }

    function test_starving_either_answer_of_gas_reverts_rather_than_looking_like_a_failure() public {
        ratio.setBurns(100_000);
        base.setBurns(100_000);
        uint256 failures;
        for (uint256 gas_ = 20_000; gas_ < 500_000; gas_ += 4_000) {
            try adapter.read{gas: gas_}(FEED) returns (uint256 price, uint256, bool ok) {
                assertTrue(ok);
                assertEq(price, 2500e18);
            } catch {
                ++failures;
            }
        }
        assertGt(failures, 40);
        base.setBurns(type(uint256).max);
        vm.expectRevert(GuardedCall.GasTooLow.selector);
        adapter.read{gas: 220_000}(FEED);
    }

    function test_both_parts_are_checked_and_fixed() public {
        ChainlinkAdapter.Part memory r = part(ratio, 1 days, 0.5e18, 2e18);
        ChainlinkAdapter.Part memory b = part(base, 3600, 2e18, 90_000e18);
        adapter.setComposed(FEED, r, part(base, 60, 3e18, 90_000e18));
        check(2500e18, nowS() - 100, true);
        ChainlinkAdapter.Part memory other = part(new AnyAggregator(8), 3600, 2e18, 90_000e18);
        bytes memory fixed_ = abi.encodeWithSelector(ChainlinkAdapter.SourceFixed.selector, FEED);
        vm.expectRevert(fixed_);
        adapter.setComposed(FEED, b, r);
        vm.expectRevert(fixed_);
        adapter.setComposed(FEED, r, other);
        vm.expectRevert(fixed_);
        adapter.setSource(FEED, r.aggregator, r.bounds, 1 days, 0.5e18, 2e18);
        adapter.setSource("alone", b.aggregator, b.bounds, 3600, 2e18, 90_000e18);
        vm.expectRevert(abi.encodeWithSelector(ChainlinkAdapter.SourceFixed.selector, bytes32("alone")));
        adapter.setComposed("alone", b, b);
    }

    function test_each_part_is_registered_inside_its_bounds() public {
        ChainlinkAdapter.Part memory r = part(ratio, 1 days, 0.5e18, 2e18);
        vm.expectRevert(ChainlinkAdapter.ZeroAge.selector);
        adapter.setComposed("new", r, part(base, 0, 2e18, 90_000e18));
        vm.expectPartialRevert(ChainlinkAdapter.BoundsOutside.selector);
        adapter.setComposed("new", part(ratio, 1 days, 0.5e18, 10_000_000e18), r);
        ChainlinkAdapter.Part memory many = part(new AnyAggregator(19), 3600, 2e18, 90_000e18);
        vm.expectRevert(abi.encodeWithSelector(ChainlinkAdapter.TooManyDecimals.selector, 19));
        adapter.setComposed("new", r, many);
    }
}
