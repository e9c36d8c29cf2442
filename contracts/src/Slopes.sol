// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Clearing} from "./Clearing.sol";
import {Slope, SlopeParams} from "./Slope.sol";
import {Margin, Position, State, ownerOf} from "./HybridTypes.sol";
import {IMarginEngine} from "./interfaces/IModules.sol";

/// @title Versions of the slope, and which of them an account's next episode follows
/// @notice A version never changes once added, and a running episode keeps the one that it was flagged with, so
/// that no change of terms meets an account in the middle of a breach.
contract Slopes is Ownable2Step {
    Clearing public immutable clearing;
    IMarginEngine public immutable engine;

    SlopeParams[] private _slopes;
    uint16 public defaultSlope;
    /// @notice Counts every change of what an account's next episode may follow.
    uint256 public version;
    mapping(uint16 id => bool) public offered;
    /// @notice The slope that an owner chose; 0 for whatever the default is.
    mapping(bytes32 acct => uint16) public slopeChoice;

    event SlopeAdded(uint16 id);
    event DefaultSlopeSet(uint16 id);
    event SlopeOffered(uint16 id, bool open);
    event SlopeChosen(bytes32 indexed acct, uint16 id);

    error UnknownSlope(uint16 id);
    error TooManySlopes();
    error NotOffered(uint16 id);
    error NotOwner(bytes32 acct, address caller);
    error NotHealthy(bytes32 acct, State state);
    error BelowInitialMargin(bytes32 acct, int256 equity, uint256 requirement);

    constructor(Clearing clearing_, IMarginEngine engine_, SlopeParams memory first, address admin) Ownable(admin) {
        (clearing, engine) = (clearing_, engine_);
        _add(first);
        _setDefault(0);
    }

    /// @notice Add a version, inside the slope's hard bounds.
    function addSlope(SlopeParams calldata p) external onlyOwner returns (uint16 id) {
        return _add(p);
    }

    /// @notice Set the slope of the accounts whose owners chose none. It begins at maintenance: to be reduced
    /// earlier, for a lower fee, is each owner's own choice.
    /// @dev A larger beta raises their initial margin to (1 + beta) mmr at once, without a ramp: that bars new risk
    /// and withdrawals, but maintenance does not move, so that nobody is liquidated for it.
    function setDefaultSlope(uint16 id) external onlyOwner {
        _setDefault(id);
    }

    /// @notice Open or close a slope to the owners' choice; who has chosen it keeps it.
    function offerSlope(uint16 id, bool open) external onlyOwner {
        _require(id);
        offered[id] = open;
        version += 1;
        emit SlopeOffered(id, open);
    }

    /// @notice Choose the slope of one's own account's next episodes, 0 for the default. Open positions must
    /// meet the initial margin that the slope asks for.
    function chooseSlope(bytes32 acct, uint16 id) external {
        if (msg.sender != ownerOf(acct)) revert NotOwner(acct, msg.sender);
        if (id != 0 && !offered[id]) revert NotOffered(id);
        (State state,,,,,) = clearing.status(acct);
        if (state != State.Healthy) revert NotHealthy(acct, state);
        slopeChoice[acct] = id;
        emit SlopeChosen(acct, id);
        (, Position[] memory positions,) = clearing.account(acct);
        if (positions.length == 0) return;
        (bool ok, Margin memory worst) = engine.initial(acct, _slopes[nextOf(acct)].beta);
        if (!ok) revert BelowInitialMargin(acct, worst.equity, worst.requirement);
    }

    // --- views ---

    /// @notice The slope that the account's next episode follows.
    function nextOf(bytes32 acct) public view returns (uint16 id) {
        id = slopeChoice[acct];
        if (id == 0) id = defaultSlope;
    }

    function slopeCount() external view returns (uint256) {
        return _slopes.length;
    }

    function slopes(uint16 id) external view returns (SlopeParams memory) {
        _require(id);
        return _slopes[id];
    }

    /// @notice Where a slope ends: at H = 1 + beta, WAD.
    function betaOf(uint16 id) external view returns (uint256) {
        _require(id);
        return _slopes[id].beta;
    }

    // --- inside ---

    function _add(SlopeParams memory p) private returns (uint16 id) {
        Slope.validate(p);
        if (_slopes.length > type(uint16).max) revert TooManySlopes();
        id = uint16(_slopes.length);
        _slopes.push(p);
        version += 1;
        emit SlopeAdded(id);
    }

    function _setDefault(uint16 id) private {
        _require(id);
        if (_slopes[id].betaFlag != 0) revert Slope.BadSlope("betaFlag of the default");
        defaultSlope = id;
        version += 1;
        emit DefaultSlopeSet(id);
    }

    function _require(uint16 id) private view {
        if (id >= _slopes.length) revert UnknownSlope(id);
    }
}
