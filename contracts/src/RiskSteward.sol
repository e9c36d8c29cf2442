// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {FastOracle} from "./FastOracle.sol";
import {Risk, WAD} from "./HybridTypes.sol";
import {Instruments} from "./Instruments.sol";
import {Quorum} from "./Quorum.sol";

/// @title Margins that follow the market, moved by the reporters inside what the owner allows
/// @notice A quorum of the reporters signs an underlying's maintenance and initial margin. The owner says between
/// which values each may lie, by how much of today's value one change may raise or lower it, and how long there is
/// between two changes. A change is a ramp of a day or longer in either direction: however often a bad quorum signs,
/// what accounts need rises by a factor of e^rise a day at most, and never past its bound.
///
/// A change takes along what the owner has set on its way for the least requirement of a short option: from what it
/// is then it goes on to the owner's value, and is there when the change's own ramp ends. A quorum may bring it there
/// sooner or later, and nowhere else. Nothing besides is in its hands: that value, the haircuts and the listings stay
/// the owner's, who may also set margins past this contract, and end its part by `Instruments.setSteward`.
contract RiskSteward is Quorum, Ownable2Step {
    /// @notice What the reporters sign for one underlying.
    /// @param mmr,imr maintenance and initial margin at the ramp's end, WAD
    /// @param duration of the ramp, seconds
    /// @param observedAt when the newest of the prices was seen that the margins were estimated from
    /// @param validUntil last second at which the signatures count
    struct MarginChange {
        bytes32 feedId;
        uint64 mmr;
        uint64 imr;
        uint40 duration;
        uint40 observedAt;
        uint40 validUntil;
    }

    /// @notice Between what a quorum may move an underlying's margins.
    /// @param rise,fall how much of today's value one change may add or take away, WAD
    /// @param interval least time between two changes, seconds
    struct Bounds {
        uint64 mmrLeast;
        uint64 mmrMost;
        uint64 imrLeast;
        uint64 imrMost;
        uint64 rise;
        uint64 fall;
        uint40 interval;
    }

    /// @notice The last change of an underlying.
    struct Last {
        uint40 observedAt;
        uint40 changedAt;
    }

    bytes32 public constant CHANGE_TYPEHASH = keccak256(
        "MarginChange(bytes32 feedId,uint64 mmr,uint64 imr,uint40 duration,uint40 observedAt,uint40 validUntil)"
    );
    /// @notice How old the newest price of an estimate may be, seconds: of daily closes the last is up to a day old.
    uint256 public constant MAX_AGE = 2 days;
    /// @notice The most that one change may add to today's value: it doubles.
    uint256 public constant RISE_MAX = WAD;

    Instruments public immutable instruments;

    /// @notice What the owner allows; nothing where it was never set.
    mapping(bytes32 feedId => Bounds) public bounds;
    mapping(bytes32 feedId => Last) public last;

    event BoundsSet(bytes32 indexed feedId, Bounds bounds);
    event MarginsChanged(bytes32 indexed feedId, uint256 mmr, uint256 imr, uint256 duration, uint256 observedAt);

    error BadBounds(string what);
    error NoBounds(bytes32 feedId);
    error NotNewer(uint256 observedAt, uint256 stored);
    error FromFuture(uint256 observedAt, uint256 nowS);
    error TooOld(uint256 observedAt, uint256 nowS);
    error TooSoon(uint256 nowS, uint256 earliest);
    error TooFast(uint256 duration, uint256 least);
    /// @dev Values WAD; `least` exceeds `most` where today's value lies so far outside the bounds that one change
    /// does not bring it back: then the owner must.
    error OutOfBounds(string parameter, uint256 value, uint256 least, uint256 most);

    constructor(FastOracle fastOracle_, Instruments instruments_, address admin)
        EIP712("HybridMargin RiskSteward", "1")
        Quorum(fastOracle_)
        Ownable(admin)
    {
        instruments = instruments_;
    }

    /// @notice Say between what a quorum may move an underlying's margins. Nothing moves by it.
    function setBounds(bytes32 feedId, Bounds calldata b) external onlyOwner {
        if (b.mmrLeast < instruments.MMR_MIN() || b.mmrLeast > b.mmrMost) revert BadBounds("mmrLeast");
        if (b.mmrMost > instruments.MMR_MAX()) revert BadBounds("mmrMost");
        if (b.imrLeast <= b.mmrLeast || b.imrLeast > b.imrMost) revert BadBounds("imrLeast");
        if (b.imrMost <= b.mmrMost || b.imrMost > WAD) revert BadBounds("imrMost");
        if (b.rise > RISE_MAX) revert BadBounds("rise");
        if (b.fall >= WAD) revert BadBounds("fall");
        bounds[feedId] = b;
        emit BoundsSet(feedId, b);
    }

    /// @notice Start an underlying's margins on their way to what a quorum signed, or revert with the reason.
    /// Anybody may call.
    /// @param signatures over `digest(c)`, of as many reporters as the quorum asks for
    function change(MarginChange calldata c, bytes[] calldata signatures) external {
        _checkSigners(digest(c), c.validUntil, signatures);
        Bounds memory b = bounds[c.feedId];
        if (b.mmrMost == 0) revert NoBounds(c.feedId);
        _checkTimes(c, b.interval);
        Risk memory today = instruments.risk(c.feedId);
        _checkReach("mmr", c.mmr, today.mmr, b.mmrLeast, b.mmrMost, b);
        _checkReach("imr", c.imr, today.imr, b.imrLeast, b.imrMost, b);

        last[c.feedId] = Last(c.observedAt, uint40(block.timestamp));
        emit MarginsChanged(c.feedId, c.mmr, c.imr, c.duration, c.observedAt);
        uint64 shortMin = instruments.underlying(c.feedId).shortMin.to;
        instruments.setMargins(c.feedId, c.mmr, c.imr, shortMin, c.duration);
    }

    /// @notice The digest that reporters sign.
    function digest(MarginChange calldata c) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CHANGE_TYPEHASH, c)));
    }

    function _checkTimes(MarginChange calldata c, uint256 interval) private view {
        Last memory before = last[c.feedId];
        if (c.observedAt <= before.observedAt) revert NotNewer(c.observedAt, before.observedAt);
        if (c.observedAt > block.timestamp) revert FromFuture(c.observedAt, block.timestamp);
        if (block.timestamp > c.observedAt + MAX_AGE) revert TooOld(c.observedAt, block.timestamp);
        uint256 earliest = before.changedAt + interval;
        if (block.timestamp < earliest) revert TooSoon(block.timestamp, earliest);
        uint256 least = instruments.RAMP_MIN();
        if (c.duration < least) revert TooFast(c.duration, least);
    }

    /// @dev What one change reaches is rounded toward today's value.
    function _checkReach(
        string memory parameter,
        uint256 value,
        uint256 today,
        uint256 least,
        uint256 most,
        Bounds memory b
    ) private pure {
        uint256 lowest = today - today * b.fall / WAD;
        uint256 highest = today + today * b.rise / WAD;
        if (lowest > least) least = lowest;
        if (highest < most) most = highest;
        if (value < least || value > most) revert OutOfBounds(parameter, value, least, most);
    }
}
