// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @notice A slow, on-chain price source that must agree before anything is closed. What a feed is read from
/// never changes behind the same oracle: another source is another oracle, and goes through the router's
/// probation.
interface ISlowOracle {
    /// @return price WAD
    /// @return updatedAt when the source last observed it, unix seconds
    /// @return ok false where the source is stale, out of bounds or unreadable; never reverts for these
    function read(bytes32 feedId) external view returns (uint256 price, uint256 updatedAt, bool ok);
}
