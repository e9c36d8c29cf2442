// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {FastOracle} from "./FastOracle.sol";
import {FeedPrice, WAD} from "./HybridTypes.sol";
import {IAggregatorV3} from "./interfaces/IAggregatorV3.sol";
import {ISlowOracle} from "./interfaces/ISlowOracle.sol";
import {GuardedCall} from "./slow/GuardedCall.sol";

/// @title Both prices of every feed in one call
/// @notice Neither oracle counts while the chain's sequencer is down or only just up again, and a slow source
/// counts only once it was seen to agree with the fast price: an adapter that answers promptly can still answer
/// with a ratio where a price was meant (Moonwell, February 2026).
contract OracleRouter is Ownable2Step {
    /// @notice What a feed's two clocks allow: opening needs NORMAL; FAST_ONLY allows alarms only; in SLOW_ONLY the
    /// fast price is silent and the slow one acts alone; FROZEN leaves deposits and risk reduction.
    enum Mode {
        NORMAL,
        SLOW_ONLY,
        FAST_ONLY,
        FROZEN
    }

    /// @param deviation twice the slow feed's nominal deviation, WAD
    /// @param heartbeat the slow feed's heartbeat, seconds
    /// @param minDelay T_min: 12 s where the slow source shares no venue with the fast one, else 60 s
    /// @param proven the slow source was seen to agree with the fast price
    struct Feed {
        ISlowOracle slow;
        uint64 deviation;
        uint32 heartbeat;
        uint32 minDelay;
        bool proven;
    }

    /// @param uptime Chainlink's sequencer uptime feed: 0 is up, 1 is down, startedAt says since when
    /// @param grace how long after a restart nothing counts yet, seconds
    struct Sequencer {
        IAggregatorV3 uptime;
        uint32 grace;
    }

    /// @notice How long no fast price was observed before the slow one may act alone, seconds. Much more than a
    /// fast price's age: else whoever keeps one report out of a block would switch the fast oracle's veto off.
    uint256 public constant SLOW_ONLY_AFTER = 600;
    /// @notice How far apart the prices may be when a slow source is proven, WAD.
    uint256 public constant MAX_PROOF_GAP = 0.05e18;
    /// @notice Shortest grace: as long as silence takes, or an outage of the chain would count as the reporters' own.
    uint256 public constant MIN_GRACE = SLOW_ONLY_AFTER;
    uint256 public constant MAX_GRACE = 1 days;
    /// @notice What a slow source may spend on its answer, gas: two aggregators, or one pool, and some more.
    uint256 public constant READ_GAS = 300_000;
    /// @notice What the uptime feed may spend, gas.
    uint256 public constant UPTIME_GAS = 120_000;

    FastOracle public immutable fastOracle;
    mapping(bytes32 => Feed) public feeds;
    Sequencer public sequencer;

    event FeedSet(bytes32 indexed feedId, address slow, uint64 deviation, uint32 heartbeat, uint32 minDelay);
    event FeedProven(bytes32 indexed feedId, uint256 fast, uint256 slow);
    event SequencerSet(address uptime, uint32 grace);

    error UnknownFeed(bytes32 feedId);
    error BadFeed(string what);
    error BadSequencer(string what);
    error NotFresh(bytes32 feedId);
    error TooFarApart(uint256 fast, uint256 slow);

    constructor(FastOracle fastOracle_, address admin) Ownable(admin) {
        fastOracle = fastOracle_;
    }

    /// @notice Register or change a feed, inside hard bounds. A new or another slow source is on probation until
    /// somebody proves it; other terms of the same source do not interrupt it.
    function setFeed(bytes32 feedId, ISlowOracle slow, uint64 deviation, uint32 heartbeat, uint32 minDelay)
        external
        onlyOwner
    {
        if (address(slow).code.length == 0) revert BadFeed("slow");
        if (deviation == 0 || deviation > 0.1e18) revert BadFeed("deviation");
        if (heartbeat == 0) revert BadFeed("heartbeat");
        if (minDelay < 5 || minDelay > 600) revert BadFeed("minDelay");
        Feed memory old = feeds[feedId];
        feeds[feedId] = Feed(slow, deviation, heartbeat, minDelay, old.proven && old.slow == slow);
        emit FeedSet(feedId, address(slow), deviation, heartbeat, minDelay);
    }

    /// @notice End a slow source's probation: both prices are fresh and within 5% of each other. By anyone.
    function prove(bytes32 feedId) external {
        FeedPrice memory p = _read(feedId, _feed(feedId), sequencerUp());
        if (!p.fastFresh || !p.slowFresh) revert NotFresh(feedId);
        uint256 gap = p.fast > p.slow ? p.fast - p.slow : p.slow - p.fast;
        if (gap * WAD > MAX_PROOF_GAP * p.slow) revert TooFarApart(p.fast, p.slow);
        feeds[feedId].proven = true;
        emit FeedProven(feedId, p.fast, p.slow);
    }

    /// @notice Heed the uptime feed of an L2's sequencer; the zero address for a chain without one.
    /// @param grace seconds, MIN_GRACE to MAX_GRACE
    function setSequencer(IAggregatorV3 uptime, uint32 grace) external onlyOwner {
        if (address(uptime) == address(0)) {
            delete sequencer;
            emit SequencerSet(address(0), 0);
            return;
        }
        if (grace < MIN_GRACE || grace > MAX_GRACE) revert BadSequencer("grace");
        if (_ask(uptime).length == 0) revert BadSequencer("uptime");
        sequencer = Sequencer(uptime, grace);
        emit SequencerSet(address(uptime), grace);
    }

    /// @notice Whether the chain has been up for longer than the grace; true where no uptime feed is set. An uptime
    /// feed that cannot be read, or has never been written, says that the chain is down.
    function sequencerUp() public view returns (bool) {
        Sequencer memory s = sequencer;
        if (address(s.uptime) == address(0)) return true;
        bytes memory data = _ask(s.uptime);
        if (data.length == 0) return false;
        (, int256 answer, uint256 startedAt) = abi.decode(data, (uint256, int256, uint256));
        return answer == 0 && startedAt != 0 && startedAt <= block.timestamp
            && block.timestamp - startedAt > s.grace;
    }

    /// @notice Both prices of one feed; stale ones keep their last value and say so.
    function price(bytes32 feedId) external view returns (FeedPrice memory) {
        return _price(feedId, sequencerUp());
    }

    /// @notice Both prices of several feeds, in the order asked for.
    function prices(bytes32[] calldata feedIds) external view returns (FeedPrice[] memory all) {
        all = new FeedPrice[](feedIds.length);
        bool up = sequencerUp();
        for (uint256 i; i < feedIds.length; ++i) {
            all[i] = _price(feedIds[i], up);
        }
    }

    /// @notice The mode of one feed.
    function mode(bytes32 feedId) external view returns (Mode) {
        FeedPrice memory p = _price(feedId, sequencerUp());
        if (p.fastFresh) return p.slowFresh ? Mode.NORMAL : Mode.FAST_ONLY;
        return p.silent && p.slowFresh ? Mode.SLOW_ONLY : Mode.FROZEN;
    }

    function _price(bytes32 feedId, bool up) private view returns (FeedPrice memory p) {
        Feed memory feed = _feed(feedId);
        p = _read(feedId, feed, up);
        if (!feed.proven) p.slowFresh = false;
    }

    function _feed(bytes32 feedId) private view returns (Feed memory feed) {
        feed = feeds[feedId];
        if (address(feed.slow) == address(0)) revert UnknownFeed(feedId);
    }

    /// @dev Both prices as their oracles tell them, probation left aside.
    function _read(bytes32 feedId, Feed memory feed, bool up) private view returns (FeedPrice memory p) {
        (p.fast, p.fastAt, p.fastFresh) = fastOracle.read(feedId);
        (p.slow, p.slowAt, p.slowFresh) = _slow(feed.slow, feedId);
        p.fastFresh = p.fastFresh && up;
        p.slowFresh = p.slowFresh && up;
        p.silent = up && block.timestamp >= p.fastAt + SLOW_ONLY_AFTER;
        (p.deviation, p.heartbeat, p.minDelay) = (feed.deviation, feed.heartbeat, feed.minDelay);
    }

    /// @dev A source that fails or answers nonsense is not fresh and has no price, so that it stops nothing else and
    /// overflows nothing; one that the caller starved of gas reverts.
    function _slow(ISlowOracle slow, bytes32 feedId)
        private
        view
        returns (uint256 value, uint256 updatedAt, bool fresh)
    {
        bytes memory data =
            GuardedCall.ask(address(slow), abi.encodeCall(ISlowOracle.read, (feedId)), READ_GAS, 96);
        if (data.length == 0) return (0, 0, false);
        uint256 ok;
        (value, updatedAt, ok) = abi.decode(data, (uint256, uint256, uint256));
        if (value > type(uint128).max || updatedAt > block.timestamp) return (0, 0, false);
        return (value, updatedAt, ok == 1 && value != 0);
    }

    /// @dev Round, answer and time of its beginning.
    function _ask(IAggregatorV3 uptime) private view returns (bytes memory) {
        return GuardedCall.ask(
            address(uptime), abi.encodeCall(IAggregatorV3.latestRoundData, ()), UPTIME_GAS, 96
        );
    }
}
