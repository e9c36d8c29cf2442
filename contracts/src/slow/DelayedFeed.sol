// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IQueuedOracle} from "../interfaces/IQueuedOracle.sol";
import {ISlowOracle} from "../interfaces/ISlowOracle.sol";
import {GuardedCall} from "./GuardedCall.sol";

/// @title Another slow oracle's prices, each after it has waited in public
/// @notice One value waits at a time, as in Maker's oracle security module, so that everyone sees the next price
/// before it counts and the breaker can look at the step. A price is as old as its time in the queue says: told
/// by when it became current, a value from before an alarm would pass for evidence newer than it.
contract DelayedFeed is IQueuedOracle, Ownable2Step {
    /// @param delay how long a value waits, seconds
    /// @param maxAge oldest believable value, seconds since it was queued
    struct Source {
        ISlowOracle oracle;
        uint32 delay;
        uint32 maxAge;
    }

    /// @param price WAD
    struct Value {
        uint128 price;
        uint40 queuedAt;
    }

    uint256 public constant MIN_DELAY = 60;
    uint256 public constant MAX_DELAY = 1 hours;
    uint256 public constant MAX_AGE = 1 days;
    /// @notice What the source may spend on its answer, gas: as much as the router gives it.
    uint256 public constant READ_GAS = 300_000;

    mapping(bytes32 => Source) public sources;
    mapping(bytes32 => Value) public current;
    mapping(bytes32 => Value) public next;

    event SourceSet(bytes32 indexed feedId, address oracle, uint32 delay, uint32 maxAge);
    event Queued(bytes32 indexed feedId, uint256 price, uint256 queuedAt);
    event Promoted(bytes32 indexed feedId, uint256 price, uint256 queuedAt);

    error BadSource(string what);
    error SourceFixed(bytes32 feedId);
    error UnknownFeed(bytes32 feedId);
    error TooSoon(uint256 dueAt, uint256 nowS);
    error SourceNotOk(bytes32 feedId);

    constructor(address admin) Ownable(admin) {}

    /// @notice Register a source, or give a registered one other times. The source is fixed by the first
    /// registration.
    /// @param maxAge at least twice the delay: a value is one delay old when it becomes current, and two when
    /// the next one does
    function setSource(bytes32 feedId, ISlowOracle oracle, uint32 delay, uint32 maxAge) external onlyOwner {
        if (address(oracle).code.length == 0) revert BadSource("oracle");
        if (delay < MIN_DELAY || delay > MAX_DELAY) revert BadSource("delay");
        if (maxAge < 2 * uint256(delay) || maxAge > MAX_AGE) revert BadSource("maxAge");
        ISlowOracle old = sources[feedId].oracle;
        if (address(old) != address(0) && old != oracle) revert SourceFixed(feedId);
        sources[feedId] = Source(oracle, delay, maxAge);
        emit SourceSet(feedId, address(oracle), delay, maxAge);
    }

    /// @notice Make the waiting value current once it has waited, and queue the source's value of now. By anyone.
    /// A source that is not ok keeps nothing from becoming current.
    function poke(bytes32 feedId) external {
        Source memory s = sources[feedId];
        if (address(s.oracle) == address(0)) revert UnknownFeed(feedId);
        Value memory waiting = next[feedId];
        if (waiting.queuedAt != 0) {
            uint256 dueAt = uint256(waiting.queuedAt) + s.delay;
            if (block.timestamp < dueAt) revert TooSoon(dueAt, block.timestamp);
            current[feedId] = waiting;
            delete next[feedId];
            emit Promoted(feedId, waiting.price, waiting.queuedAt);
        }
        (uint256 price, bool ok) = _ask(s.oracle, feedId);
        if (ok) {
            next[feedId] = Value(uint128(price), uint40(block.timestamp));
            emit Queued(feedId, price, block.timestamp);
        } else if (waiting.queuedAt == 0) {
            revert SourceNotOk(feedId);
        }
    }

    /// @inheritdoc ISlowOracle
    function read(bytes32 feedId) external view returns (uint256 price, uint256 updatedAt, bool ok) {
        Value memory v = current[feedId];
        return (v.price, v.queuedAt, v.queuedAt != 0 && block.timestamp - v.queuedAt <= sources[feedId].maxAge);
    }

    /// @inheritdoc IQueuedOracle
    function peekNext(bytes32 feedId) external view returns (uint256 price, uint256 queuedAt, bool queued) {
        Value memory v = next[feedId];
        return (v.price, v.queuedAt, v.queuedAt != 0);
    }

    function _ask(ISlowOracle oracle, bytes32 feedId) private view returns (uint256 price, bool ok) {
        bytes memory data =
            GuardedCall.ask(address(oracle), abi.encodeCall(ISlowOracle.read, (feedId)), READ_GAS, 96);
        if (data.length == 0) return (0, false);
        uint256 updatedAt;
        uint256 said;
        (price, updatedAt, said) = abi.decode(data, (uint256, uint256, uint256));
        ok = said == 1 && price != 0 && price <= type(uint128).max && updatedAt <= block.timestamp;
    }
}
