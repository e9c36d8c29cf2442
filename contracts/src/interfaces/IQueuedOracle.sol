// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ISlowOracle} from "./ISlowOracle.sol";

/// @notice A slow oracle whose next price is known before it counts.
interface IQueuedOracle is ISlowOracle {
    /// @return price the value that waits, WAD
    /// @return queuedAt when it was taken from the source, unix seconds
    /// @return queued false where nothing waits
    function peekNext(bytes32 feedId) external view returns (uint256 price, uint256 queuedAt, bool queued);
}
