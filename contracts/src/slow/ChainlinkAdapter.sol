// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IAggregatorV3, IAnswerBounds} from "../interfaces/IAggregatorV3.sol";
import {ISlowOracle} from "../interfaces/ISlowOracle.sol";
import {WAD} from "../HybridTypes.sol";
import {GuardedCall} from "./GuardedCall.sol";

/// @title Chainlink AggregatorV3 feeds as the slow oracle: one aggregator, or a ratio times a base
/// @notice Believes an answer only when it is positive, young enough, and strictly inside bounds that
/// themselves lie strictly inside the aggregator's own: at its own bounds an aggregator's answer sticks
/// (Venus and Blizz, LUNA, May 2022).
contract ChainlinkAdapter is ISlowOracle, Ownable2Step {
    /// @param composed the price is this answer times that of `bases`
    /// @param lower smallest believable answer, WAD; upper the largest
    /// @param maxAge oldest believable round, seconds
    struct Source {
        IAggregatorV3 aggregator;
        uint8 decimals;
        uint32 maxAge;
        bool composed;
        uint128 lower;
        uint128 upper;
    }

    /// @notice One aggregator of a composed price, as it is registered.
    /// @param bounds the contract that knows minAnswer and maxAnswer (behind a proxy: its aggregator())
    struct Part {
        IAggregatorV3 aggregator;
        IAnswerBounds bounds;
        uint32 maxAge;
        uint128 lower;
        uint128 upper;
    }

    /// @notice What one aggregator may spend on its answer, gas; a proxy with cold storage needs about 20,000.
    uint256 public constant READ_GAS = 120_000;

    mapping(bytes32 => Source) public sources;
    mapping(bytes32 => Source) public bases;

    event SourceSet(
        bytes32 indexed feedId, address aggregator, uint8 decimals, uint32 maxAge, uint128 lower, uint128 upper
    );
    event BaseSet(
        bytes32 indexed feedId, address aggregator, uint8 decimals, uint32 maxAge, uint128 lower, uint128 upper
    );

    error TooManyDecimals(uint8 decimals);
    error BoundsOutside(int256 minAnswer, int256 maxAnswer);
    error ZeroAge();
    error SourceFixed(bytes32 feedId);

    constructor(address admin) Ownable(admin) {}

    /// @notice Register an aggregator, or give a registered one other limits. The aggregator and its decimals
    /// are fixed by the first registration.
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
        Source memory s = _checked(Part(aggregator, bounds, maxAge, lower, upper));
        _fix(feedId, sources[feedId], s);
        sources[feedId] = s;
        emit SourceSet(feedId, address(aggregator), s.decimals, maxAge, lower, upper);
    }

    /// @notice Register a price made of two, such as wstETH / ETH times ETH / USD. In one call, because a ratio
    /// that stands alone for a moment is taken for a price (Moonwell, February 2026).
    function setComposed(bytes32 feedId, Part calldata ratio, Part calldata base) external onlyOwner {
        Source memory s = _checked(ratio);
        Source memory b = _checked(base);
        s.composed = true;
        _fix(feedId, sources[feedId], s);
        _fix(feedId, bases[feedId], b);
        (sources[feedId], bases[feedId]) = (s, b);
        emit SourceSet(feedId, address(s.aggregator), s.decimals, s.maxAge, s.lower, s.upper);
        emit BaseSet(feedId, address(b.aggregator), b.decimals, b.maxAge, b.lower, b.upper);
    }

    /// @inheritdoc ISlowOracle
    /// @dev A composed price rounds down, is as old as the older of its answers, and ok only when both are.
    function read(bytes32 feedId) external view returns (uint256 price, uint256 updatedAt, bool ok) {
        Source memory s = sources[feedId];
        (price, updatedAt, ok) = _answer(s);
        if (!s.composed) return (price, updatedAt, ok);

        (uint256 basePrice, uint256 baseAt, bool baseOk) = _answer(bases[feedId]);
        // Both are below 2^128.
        price = price * basePrice / WAD;
        if (baseAt < updatedAt) updatedAt = baseAt;
        if (price > type(uint128).max) return (0, updatedAt, false);
        return (price, updatedAt, ok && baseOk && price != 0);
    }

    /// @dev A failing aggregator is "not ok"; one that the caller starved of gas is not, and reverts.
    function _answer(Source memory s) private view returns (uint256 price, uint256 updatedAt, bool ok) {
        bytes memory data = GuardedCall.ask(
            address(s.aggregator), abi.encodeCall(IAggregatorV3.latestRoundData, ()), READ_GAS, 160
        );
        if (data.length == 0) return (0, 0, false);
        (, int256 answer,, uint256 at,) = abi.decode(data, (uint256, int256, uint256, uint256, uint256));
        uint256 scale = 10 ** (18 - s.decimals);
        if (answer <= 0 || uint256(answer) > type(uint128).max / scale) return (0, at, false);
        price = uint256(answer) * scale;
        ok = at != 0 && at <= block.timestamp && block.timestamp - at <= s.maxAge && price > s.lower
            && price < s.upper;
        return (price, at, ok);
    }

    function _checked(Part memory p) private view returns (Source memory) {
        uint8 decimals = p.aggregator.decimals();
        if (decimals > 18) revert TooManyDecimals(decimals);
        if (p.maxAge == 0) revert ZeroAge();
        int256 scale = int256(10 ** (18 - decimals));
        int256 low = int256(p.bounds.minAnswer()) * scale;
        int256 high = int256(p.bounds.maxAnswer()) * scale;
        if (
            p.lower == 0 || p.upper <= p.lower || int256(uint256(p.lower)) <= low
                || int256(uint256(p.upper)) >= high
        ) {
            revert BoundsOutside(low, high);
        }
        return Source(p.aggregator, decimals, p.maxAge, false, p.lower, p.upper);
    }

    /// @dev Anything that could change the meaning of the price must not happen behind the router's back.
    function _fix(bytes32 feedId, Source storage old, Source memory next) private view {
        if (address(old.aggregator) == address(0)) return;
        if (
            old.aggregator != next.aggregator || old.decimals != next.decimals || old.composed != next.composed
        ) {
            revert SourceFixed(feedId);
        }
    }
}
