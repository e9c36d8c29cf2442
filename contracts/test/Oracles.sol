// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {TestAggregator} from "../demo/TestAggregator.sol";
import {FastOracle} from "../src/FastOracle.sol";
import {Bundle, Report} from "../src/HybridTypes.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {ChainlinkAdapter} from "../src/slow/ChainlinkAdapter.sol";

/// @notice Both oracles of one feed with the router, and no protocol behind them: five reporters of which three
/// make a quorum, and an aggregator that the test sets.
abstract contract Oracles is Test {
    bytes32 internal constant ETH = "ETH";
    uint256 internal constant START = 1_700_000_000;

    FastOracle internal fastOracle;
    ChainlinkAdapter internal adapter;
    OracleRouter internal router;
    mapping(bytes32 feedId => TestAggregator) internal aggregators;
    uint256[5] internal signerKeys = [uint256(11), 12, 13, 14, 15];
    address internal admin = makeAddr("admin");

    function setUp() public virtual {
        vm.warp(START);
        fastOracle = new FastOracle(admin);
        adapter = new ChainlinkAdapter(admin);
        router = new OracleRouter(fastOracle, admin);
        address[] memory signers = new address[](5);
        for (uint256 i; i < 5; ++i) {
            signers[i] = vm.addr(signerKeys[i]);
        }
        vm.prank(admin);
        fastOracle.setSigners(signers, 3);
        newFeed(ETH, 200e18, 12);
    }

    /// @dev A feed with an aggregator of its own; proven, since both prices begin alike.
    function newFeed(bytes32 feedId, uint256 price, uint32 minDelay) internal {
        TestAggregator aggregator = new TestAggregator(8, 1, 1e20, address(this));
        aggregators[feedId] = aggregator;
        vm.startPrank(admin);
        adapter.setSource(feedId, aggregator, aggregator, 2 hours, 1e12, 1e28);
        router.setFeed(feedId, adapter, 0.01e18, 1 hours, minDelay);
        vm.stopPrank();
        setFast(feedId, price);
        setSlow(feedId, price);
        router.prove(feedId);
    }

    /// @dev Not block.timestamp: the IR optimiser takes that for constant within a call.
    function nowS() internal view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    /// @dev Let time pass without a word from either oracle.
    function pass(uint256 age) internal {
        vm.warp(nowS() + age);
    }

    function setFast(bytes32 feedId, uint256 price) internal {
        (, uint256 observedAt,) = fastOracle.read(feedId);
        if (observedAt >= nowS()) vm.warp(observedAt + 1);
        fastOracle.post(bundle(feedId, price));
    }

    function setSlow(bytes32 feedId, uint256 price) internal {
        aggregators[feedId].update(int256(price / 1e10));
    }

    /// @dev The first three reporters agree, now.
    function bundle(bytes32 feedId, uint256 price) internal view returns (Bundle memory b) {
        b = Bundle(feedId, new Report[](3));
        for (uint256 i; i < 3; ++i) {
            b.reports[i] = report(signerKeys[i], feedId, price, 10, nowS(), nowS() + 60);
        }
    }

    function report(
        uint256 key,
        bytes32 feedId,
        uint256 price,
        uint256 confBps,
        uint256 observedAt,
        uint256 validUntil
    ) internal view returns (Report memory r) {
        r = Report(uint128(price), uint64(confBps), uint40(observedAt), uint40(validUntil), "");
        bytes32 digest = fastOracle.reportDigest(feedId, r.price, r.confBps, r.observedAt, r.validUntil);
        r.signature = signature(key, digest);
    }

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}
