// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @title Many calls in one, by the interface that Multicall3 has
/// @notice For benchmarks only: what the usual way of reading many accounts is measured with.
contract Multicall {
    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    struct Result {
        bool success;
        bytes returnData;
    }

    error CallFailed(uint256 index);

    function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory found) {
        found = new Result[](calls.length);
        for (uint256 i; i < calls.length; ++i) {
            (found[i].success, found[i].returnData) = calls[i].target.call(calls[i].callData);
            if (!found[i].success && !calls[i].allowFailure) revert CallFailed(i);
        }
    }
}
