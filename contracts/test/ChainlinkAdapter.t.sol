// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {IAggregatorV3, IAnswerBounds} from "../src/interfaces/IAggregatorV3.sol";
import {ChainlinkAdapter} from "../src/slow/ChainlinkAdapter.sol";

/// @dev An aggregator that answers whatever the test says, also nonsense.
contract AnyAggregator is IAggregatorV3, IAnswerBounds {
    uint8 public decimals;
    int192 public minAnswer = 1e8;
    int192 public maxAnswer = 1e13;
    bytes private _data;
    bool private _fails;
    bool private _burns;

    constructor(uint8 decimals_) {
        decimals = decimals_;
    }

    function set(int256 answer, uint256 updatedAt) external {
        _data = abi.encode(uint80(1), answer, updatedAt, updatedAt, uint80(1));
    }

    function setRaw(bytes calldata data) external {
        _data = data;
    }

    function setFails(bool fails) external {
        _fails = fails;
    }

    function setBurns(bool burns) external {
        _burns = burns;
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        if (_fails) revert("down");
        if (_burns) {
            uint256 sum;
            for (uint256 i; i < 1000; ++i) {
                unchecked {
                    sum += uint256(keccak256(abi.encode(i, sum)));
                }
            }
            if (sum == 0) revert();
        }
        bytes memory data = _data;
        assembly {
            return(add(data, 32), mload(data))
        }
    }
}

contract ChainlinkAdapterTest is Test {
    bytes32 internal constant FEED = "ETH";
    ChainlinkAdapter internal adapter = new ChainlinkAdapter(address(this));
    AnyAggregator internal source = new AnyAggregator(8);

    function setUp() public {
        vm.warp(1_700_000_000);
        adapter.setSource(FEED, source, source, 3600, 2e18, 90_000e18);
        source.set(200e8, block.timestamp);
    }

    function check(uint256 wanted, bool wantedOk) private view {
        (uint256 price,, bool ok) = adapter.read(FEED);
        assertEq(price, wanted);
        assertEq(ok, wantedOk);
    }

    function test_an_answer_is_scaled_to_wad() public {
        check(200e18, true);
        AnyAggregator other = new AnyAggregator(6);
        adapter.setSource(FEED, other, other, 3600, 101e18, 90_000e18);
        other.set(200e6, block.timestamp);
        check(200e18, true);
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
        source.set(200e8, 0);
        check(200e18, false);
        source.set(200e8, block.timestamp + 1);
        check(200e18, false);
    }

    function test_an_answer_must_be_positive() public {
        source.set(0, block.timestamp);
        check(0, false);
        source.set(-1, block.timestamp);
        check(0, false);
    }

    function test_an_answer_at_its_bounds_is_not_believed() public {
        source.set(2e8, block.timestamp);
        check(2e18, false);
        source.set(2e8 + 1, block.timestamp);
        check(2e18 + 1e10, true);
        source.set(90_000e8, block.timestamp);
        check(90_000e18, false);
        source.set(90_000e8 - 1, block.timestamp);
        check(90_000e18 - 1e10, true);
    }

    function test_an_absurd_answer_has_no_price_so_that_it_overflows_nothing() public {
        source.set(int256(uint256(type(uint128).max)), block.timestamp);
        check(0, false);
        source.set(type(int256).max, block.timestamp);
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
        source.setBurns(true);
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
            adapter.setSource(FEED, source, source, 3600, lows[i], highs[i]);
        }
    }

    function test_more_than_eighteen_decimals_and_no_age_are_refused() public {
        AnyAggregator other = new AnyAggregator(19);
        vm.expectPartialRevert(ChainlinkAdapter.TooManyDecimals.selector);
        adapter.setSource(FEED, other, other, 3600, 2e18, 90_000e18);
        vm.expectRevert(ChainlinkAdapter.ZeroAge.selector);
        adapter.setSource(FEED, source, source, 0, 2e18, 90_000e18);
    }

    function test_only_the_admin_registers_a_source() public {
        vm.prank(address(1));
        vm.expectRevert();
        adapter.setSource(FEED, source, source, 3600, 2e18, 90_000e18);
    }
}
