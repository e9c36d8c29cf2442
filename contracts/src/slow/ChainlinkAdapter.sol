// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IAggregatorV3, IAnswerBounds} from "../interfaces/IAggregatorV3.sol";
import {ISlowOracle} from "../interfaces/ISlowOracle.sol";
import {WAD} from "../HybridTypes.sol";

/// @title A Chainlink AggregatorV3 feed as the slow oracle
/// @notice Believes an answer only when it is positive, young enough, and strictly inside bounds that
/// themselves lie strictly inside the aggregator's own: at its own bounds an aggregator's answer sticks
/// (Venus and Blizz, LUNA, May 2022).
contract ChainlinkAdapter is ISlowOracle, Ownable2Step {
    /// @param lower smallest believable answer, WAD; upper the largest
    /// @param maxAge oldest believable round, seconds
    struct Source {
        IAggregatorV3 aggregator;
        uint8 decimals;
        uint32 maxAge;
        uint128 lower;
        uint128 upper;
    }

    mapping(bytes32 => Source) public sources;

    event SourceSet(
        bytes32 indexed feedId, address aggregator, uint8 decimals, uint32 maxAge, uint128 lower, uint128 upper
    );

    error TooManyDecimals(uint8 decimals);
    error BoundsOutside(int256 minAnswer, int256 maxAnswer);
    error ZeroAge();
    error GasTooLow();

    constructor(address admin) Ownable(admin) {}

    /// @notice Register an aggregator; its decimals are fixed here.
    /// @param bounds the contract that knows minAnswer and maxAnswer (behind a proxy: its aggregator())
    /// @param lower,upper believable range, WAD
    function setSource(
        bytes32 feedId,
        IAggregatorV3 aggregator,
        IAnswerBounds bounds,
        uint32 maxAge,
        uint128 lower,
        uint128 upper
    ) external onlyOwner {
        uint8 decimals = aggregator.decimals();
        if (decimals > 18) revert TooManyDecimals(decimals);
        if (maxAge == 0) revert ZeroAge();
        int256 scale = int256(10 ** (18 - decimals));
        int256 low = int256(bounds.minAnswer()) * scale;
        int256 high = int256(bounds.maxAnswer()) * scale;
        if (lower == 0 || upper <= lower || int256(uint256(lower)) <= low || int256(uint256(upper)) >= high) {
            revert BoundsOutside(low, high);
        }
        sources[feedId] = Source(aggregator, decimals, maxAge, lower, upper);
        emit SourceSet(feedId, address(aggregator), decimals, maxAge, lower, upper);
    }

    /// @inheritdoc ISlowOracle
    /// @dev A failing aggregator is "not ok"; a call starved of gas by the caller is not the aggregator's
    /// failure and reverts: with EIP-150 at most 63/64 of the gas went into the call.
    function read(bytes32 feedId) external view returns (uint256 price, uint256 updatedAt, bool ok) {
        Source memory s = sources[feedId];
        if (address(s.aggregator).code.length == 0) return (0, 0, false);
        uint256 gasBefore = gasleft();
        // Not try/catch: an answer that does not decode would revert here and not be caught.
        (bool answered, bytes memory data) =
            address(s.aggregator).staticcall(abi.encodeCall(IAggregatorV3.latestRoundData, ()));
        if (!answered && gasleft() <= gasBefore / 63) revert GasTooLow();
        if (!answered || data.length < 160) return (0, 0, false);
        (, int256 answer,, uint256 at,) = abi.decode(data, (uint256, int256, uint256, uint256, uint256));
        uint256 scale = 10 ** (18 - s.decimals);
        if (answer <= 0 || uint256(answer) > type(uint128).max / scale) return (0, at, false);
        price = uint256(answer) * scale;
        ok = at != 0 && at <= block.timestamp && block.timestamp - at <= s.maxAge && price > s.lower
            && price < s.upper;
        return (price, at, ok);
    }
}
