// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {GuardedCall} from "../slow/GuardedCall.sol";

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
            (bool ok, bytes memory told) = to[i].staticcall{gas: MOST_GAS}(questions[i]);
            if (ok) answers[i] = told;
        }
    }

    /// @dev Answers of one word, or `NONE`.
    function _tryWord(address to, bytes memory question) internal view returns (uint256) {
        bytes memory answer = GuardedCall.ask(to, question, MOST_GAS, 32);
        return answer.length == 0 ? NONE : abi.decode(answer, (uint256));
    }

    /// @dev The newest answer of a price feed, and its time; `NONE` for both where there is none.
    function _tryFeed(address feed) internal view returns (uint256, uint256) {
        bytes memory round = GuardedCall.ask(feed, abi.encodeCall(IFeed.latestRoundData, ()), MOST_GAS, 160);
        if (round.length == 0) return (NONE, NONE);
        (, uint256 answer,, uint256 updatedAt,) = abi.decode(round, (uint256, uint256, uint256, uint256, uint256));
        return (answer, updatedAt);
    }
}

interface IFeed {
    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80);
}
