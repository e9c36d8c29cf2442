// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @title Questions to contracts that may fail, without letting the caller fake the failure
/// @notice A call that runs out of gas looks like one that failed. So the call is given a stipend, and its
/// failure is believed only where the whole stipend was there to give: with EIP-150 at most 63/64 of the gas
/// goes into a call, and whoever brings less than that needs is told so. The stipend is also the most that a
/// target which burns gas can cost, and no more of an answer is copied than was asked for. A target may ask on
/// in the same way as long as its stipends fit into its own.
library GuardedCall {
    /// @dev What the call itself needs besides the stipend: a cold account, and the words that hold the answer.
    uint256 private constant OVERHEAD = 5_000;

    error GasTooLow();

    /// @notice Ask with at most `stipend` gas.
    /// @param size bytes of the answer that are wanted
    /// @return data exactly `size` bytes; none where the target failed, answered less, or has no code
    function ask(address target, bytes memory question, uint256 stipend, uint256 size)
        internal
        view
        returns (bytes memory data)
    {
        uint256 gasBefore = gasleft();
        bool answered;
        assembly ("memory-safe") {
            data := mload(0x40)
            let answer := add(data, 32)
            mstore(0x40, add(answer, size))
            answered := staticcall(stipend, target, add(question, 32), mload(question), answer, size)
            answered := and(answered, iszero(lt(returndatasize(), size)))
            mstore(data, mul(answered, size))
        }
        if (!answered && gasBefore < stipend + stipend / 63 + OVERHEAD) revert GasTooLow();
    }
}
