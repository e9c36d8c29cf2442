// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @title Questions that may go unanswered
/// @notice One price source that reverts must not keep the others from being read.
abstract contract Trying {
    /// @dev says that there is no answer
    uint256 internal constant NONE = type(uint256).max;
    /// @dev of each question, so that none takes the gas of those behind it
    uint256 private constant MOST_GAS = 2_000_000;

    /// @notice What some contracts answer, in the order of the questions; nothing where one reverts.
    function tried(address[] calldata to, bytes[] calldata questions) external view returns (bytes[] memory answers) {
        answers = new bytes[](to.length);
        for (uint256 i; i < to.length; ++i) {
            answers[i] = _tried(to[i], questions[i]);
        }
    }

    function _tried(address to, bytes memory question) internal view returns (bytes memory answer) {
        (bool ok, bytes memory told) = to.staticcall{gas: MOST_GAS}(question);
        if (ok) answer = told;
    }

    /// @dev One word of an answer.
    function _word(bytes memory answer, uint256 place) internal pure returns (uint256 word) {
        if (answer.length < 32 * (place + 1)) return NONE;
        assembly ("memory-safe") {
            word := mload(add(add(answer, 32), mul(32, place)))
        }
    }
}
