// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {IBreaker} from "./interfaces/IModules.sol";
import {IQueuedOracle} from "./interfaces/IQueuedOracle.sol";
import {FeedPrice, WAD} from "./HybridTypes.sol";

/// @dev The first word that the router's getter returns; what follows it does not matter here.
interface ISlowSource {
    function feeds(bytes32 feedId) external view returns (address slow);
}

/// @title The brake: four levels that go up at once and down by themselves
/// @notice 0 normal; 1 no new risk and no withdrawal; 2 also no flag and no confirmation, and clocks stand; 3
/// also no slice. One level is lost every six hours. The guardian and the trips can only raise, and nobody can
/// lower: a brake that somebody can release at will protects only whom he likes.
contract Breaker is IBreaker, Ownable2Step {
    /// @dev Times of the last two sightings of a feed's divergence, and the fast observation of the last.
    struct Sightings {
        uint40 older;
        uint40 last;
        uint40 fastAt;
    }

    uint256 public constant LEVEL_MAX = 3;
    /// @notice Seconds after which one level is lost.
    uint256 public constant DECAY = 6 hours;
    /// @notice Distance of a delayed source's next price from its present one that trips, WAD.
    uint256 public constant QUEUE_JUMP = 0.25e18;
    /// @notice Distance of fast from slow that counts as a sighting, WAD.
    uint256 public constant DIVERGENCE = 0.1e18;
    /// @notice Least time between two sightings, and most from the first to the third, seconds.
    uint256 public constant SIGHTING_GAP = 5;
    uint256 public constant SIGHTING_SPAN = 5 minutes;

    OracleRouter public immutable router;
    /// @notice Who may raise the level without a reason on chain.
    address public guardian;
    /// @notice When the level last rose to a height that it did not have. Raising it anew to the height that it
    /// has leaves this: it would start the hour afresh after which level 3 stops protecting the insolvent.
    uint256 public raisedAt;
    uint128 private _stored;
    /// @dev Since when `_stored` decays.
    uint128 private _since;
    mapping(bytes32 feedId => Sightings) public sightings;

    event BreakerSet(uint256 level, address by);
    event GuardianSet(address guardian);
    event DivergenceSeen(bytes32 indexed feedId, uint256 fast, uint256 slow, uint256 fastAt);

    error NotGuardian(address caller);
    error BadLevel(uint256 level);
    error NotUpward(uint256 wanted, uint256 current);
    error NothingQueued(bytes32 feedId);
    error StaleOracle(bytes32 feedId);
    error TooClose(bytes32 feedId, uint256 a, uint256 b);
    error NotNewer(uint256 observedAt, uint256 seen);
    error TooSoon(uint256 earliest, uint256 nowS);

    constructor(OracleRouter router_, address guardian_, address admin) Ownable(admin) {
        router = router_;
        guardian = guardian_;
        emit GuardianSet(guardian_);
    }

    /// @notice Replace the guardian; zero leaves the trips alone.
    function setGuardian(address guardian_) external onlyOwner {
        guardian = guardian_;
        emit GuardianSet(guardian_);
    }

    /// @notice Raise the level, or let the one in force last six hours from now.
    function raise(uint256 wanted) external {
        if (msg.sender != guardian) revert NotGuardian(msg.sender);
        if (wanted == 0 || wanted > LEVEL_MAX) revert BadLevel(wanted);
        _raise(wanted);
    }

    /// @notice Level 1 where a feed's delayed source is fresh and about to move by a quarter or more; by anyone.
    function tripOnQueue(bytes32 feedId) external {
        FeedPrice memory p = router.price(feedId);
        if (!p.slowFresh) revert StaleOracle(feedId);
        (uint256 next,, bool ok) = IQueuedOracle(ISlowSource(address(router)).feeds(feedId)).peekNext(feedId);
        if (!ok) revert NothingQueued(feedId);
        if (!_apart(next, p.slow, QUEUE_JUMP)) revert TooClose(feedId, next, p.slow);
        _raise(1);
    }

    /// @notice See a feed's fresh prices a tenth or more apart; the third time within five minutes, each with a
    /// newer fast price than the last, is level 1. By anyone. One wick is not enough, nor one posted three times.
    function tripOnDivergence(bytes32 feedId) external {
        FeedPrice memory p = router.price(feedId);
        if (!p.fastFresh || !p.slowFresh) revert StaleOracle(feedId);
        if (!_apart(p.fast, p.slow, DIVERGENCE)) revert TooClose(feedId, p.fast, p.slow);
        Sightings memory s = sightings[feedId];
        if (p.fastAt <= s.fastAt) revert NotNewer(p.fastAt, s.fastAt);
        if (block.timestamp < s.last + SIGHTING_GAP) revert TooSoon(s.last + SIGHTING_GAP, block.timestamp);
        emit DivergenceSeen(feedId, p.fast, p.slow, p.fastAt);
        bool third = s.older != 0 && block.timestamp <= s.older + SIGHTING_SPAN;
        // After a trip the count begins afresh, but no observation counts twice.
        (s.older, s.last) = third ? (0, 0) : (s.last, uint40(block.timestamp));
        s.fastAt = uint40(p.fastAt);
        sightings[feedId] = s;
        if (third) _raise(1);
    }

    /// @inheritdoc IBreaker
    function level() public view returns (uint256) {
        uint256 lost = (block.timestamp - _since) / DECAY;
        return lost < _stored ? _stored - lost : 0;
    }

    /// @dev Of two levels that decay at one pace the higher stays the higher, so that one of them can be kept:
    /// the new one where it is higher now, or as high and with longer to go.
    function _raise(uint256 wanted) private {
        uint256 current = level();
        if (wanted < current) revert NotUpward(wanted, current);
        if (wanted > current) raisedAt = block.timestamp;
        (_stored, _since) = (uint128(wanted), uint128(block.timestamp));
        emit BreakerSet(wanted, msg.sender);
    }

    /// @dev |x / base - 1| >= bound, without rounding.
    function _apart(uint256 x, uint256 base, uint256 bound) private pure returns (bool) {
        return (x > base ? x - base : base - x) * WAD >= bound * base;
    }
}
