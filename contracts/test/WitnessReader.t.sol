// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {IRounds, WitnessReader} from "../src/readers/WitnessReader.sol";

/// @notice An aggregator that keeps its rounds, a minute apart, behind a proxy that begins with round 5.
contract Rounds {
    uint80 internal constant FIRST = 5;
    uint80 public last = FIRST + 9;

    error NoDataPresent();

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        return getRoundData(last);
    }

    function getRoundData(uint80 round) public view returns (uint80, int256, uint256, uint256, uint80) {
        if (round < FIRST || round > last) revert NoDataPresent();
        uint256 at = 1_000_000 + 60 * uint256(round - FIRST);
        return (round, int256(100 + uint256(round)), at, at, round);
    }
}

contract WitnessReaderTest is Test {
    WitnessReader internal reader = new WitnessReader();
    IRounds internal feed = IRounds(address(new Rounds()));
    /// @dev ten seconds after the newest round
    uint256 internal constant NOW = 1_000_000 + 9 * 60 + 10;

    function setUp() public {
        vm.warp(NOW);
    }

    function test_the_newest_round_that_is_old_enough_is_found_by_going_back() public view {
        _finds(0, 14, NOW - 10);
        _finds(10, 14, NOW - 10);
        _finds(11, 13, NOW - 70);
        _finds(70, 13, NOW - 70);
        _finds(550, 5, NOW - 550);
    }

    function test_where_no_round_is_so_old_there_is_none() public {
        // Before the first round of the newest aggregator there is nothing to go back to.
        vm.expectRevert(Rounds.NoDataPresent.selector);
        reader.roundBefore(feed, 551, 64);
    }

    function test_it_goes_back_so_many_rounds_and_no_further() public {
        reader.roundBefore(feed, 130, 3);
        vm.expectRevert(abi.encodeWithSelector(WitnessReader.NoneSoOld.selector, NOW - 131));
        reader.roundBefore(feed, 131, 3);
    }

    function test_it_is_asked_of_the_reader_itself_among_other_questions() public view {
        address[] memory to = new address[](2);
        bytes[] memory questions = new bytes[](2);
        (to[0], to[1]) = (address(reader), address(reader));
        questions[0] = abi.encodeCall(WitnessReader.roundBefore, (feed, 551, 64));
        questions[1] = abi.encodeCall(WitnessReader.roundBefore, (feed, 11, 64));
        bytes[] memory answers = reader.tried(to, questions);
        assertEq(answers[0].length, 0);
        (uint80 round,,,) = abi.decode(answers[1], (uint80, int256, uint256, uint80));
        assertEq(round, 13);
    }

    function _finds(uint256 delayS, uint80 round, uint256 at) private view {
        (uint80 found, int256 answer, uint256 updatedAt, uint80 answeredIn) = reader.roundBefore(feed, delayS, 64);
        assertEq(found, round);
        assertEq(answer, int256(100 + uint256(round)));
        assertEq(updatedAt, at);
        assertEq(answeredIn, round);
    }
}
