// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {FeedPrice} from "../src/HybridTypes.sol";

/// @notice Answers as the router does, with prices that the test sets; for the modules that only ask for them.
contract StubRouter {
    mapping(bytes32 => FeedPrice) private _prices;
    mapping(bytes32 => address) private _sources;

    error UnknownFeed(bytes32 feedId);

    /// @dev Both prices fresh, observed now.
    function set(bytes32 feedId, uint256 fast, uint256 slow) external {
        if (_sources[feedId] == address(0)) _sources[feedId] = address(this);
        FeedPrice storage p = _prices[feedId];
        (p.fast, p.fastAt, p.fastFresh) = (fast, block.timestamp, true);
        (p.slow, p.slowAt, p.slowFresh) = (slow, block.timestamp, true);
    }

    function setFresh(bytes32 feedId, bool fastFresh, bool slowFresh) external {
        (_prices[feedId].fastFresh, _prices[feedId].slowFresh) = (fastFresh, slowFresh);
    }

    function setFastAt(bytes32 feedId, uint256 at) external {
        _prices[feedId].fastAt = at;
    }

    function setSource(bytes32 feedId, address source) external {
        _sources[feedId] = source;
    }

    /// @dev The router's getter returns more than the source.
    function feeds(bytes32 feedId) external view returns (address slow, uint64 deviation, uint32 heartbeat) {
        return (_sources[feedId], 0.01e18, 1 hours);
    }

    function price(bytes32 feedId) external view returns (FeedPrice memory) {
        if (_sources[feedId] == address(0)) revert UnknownFeed(feedId);
        return _prices[feedId];
    }
}
