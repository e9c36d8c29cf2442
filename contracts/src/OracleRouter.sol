// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {FastOracle} from "./FastOracle.sol";
import {ISlowOracle} from "./interfaces/ISlowOracle.sol";
import {FeedPrice, WAD} from "./HybridTypes.sol";

/// @title Both prices of every feed in one call
contract OracleRouter is Ownable2Step {
    /// @notice What a feed's two clocks allow: opening and slices need NORMAL; FAST_ONLY allows alarms only;
    /// SLOW_ONLY and FROZEN leave deposits and risk reduction.
    enum Mode {
        NORMAL,
        SLOW_ONLY,
        FAST_ONLY,
        FROZEN
    }

    /// @param deviation twice the slow feed's nominal deviation, WAD
    /// @param heartbeat the slow feed's heartbeat, seconds
    /// @param minDelay T_min: 12 s where the slow source shares no venue with the fast one, else 60 s
    struct Feed {
        ISlowOracle slow;
        uint64 deviation;
        uint32 heartbeat;
        uint32 minDelay;
    }

    FastOracle public immutable fastOracle;
    mapping(bytes32 => Feed) public feeds;

    event FeedSet(bytes32 indexed feedId, address slow, uint64 deviation, uint32 heartbeat, uint32 minDelay);

    error UnknownFeed(bytes32 feedId);
    error BadFeed(string what);

    constructor(FastOracle fastOracle_, address admin) Ownable(admin) {
        fastOracle = fastOracle_;
    }

    /// @notice Register or change a feed, inside hard bounds.
    function setFeed(bytes32 feedId, ISlowOracle slow, uint64 deviation, uint32 heartbeat, uint32 minDelay)
        external
        onlyOwner
    {
        if (address(slow).code.length == 0) revert BadFeed("slow");
        if (deviation > 0.1e18) revert BadFeed("deviation");
        if (heartbeat == 0) revert BadFeed("heartbeat");
        if (minDelay < 5 || minDelay > 600) revert BadFeed("minDelay");
        feeds[feedId] = Feed(slow, deviation, heartbeat, minDelay);
        emit FeedSet(feedId, address(slow), deviation, heartbeat, minDelay);
    }

    /// @notice Both prices of one feed; stale ones keep their last value and say so.
    function price(bytes32 feedId) public view returns (FeedPrice memory p) {
        Feed memory feed = feeds[feedId];
        if (address(feed.slow) == address(0)) revert UnknownFeed(feedId);
        (p.fast, p.fastAt, p.fastFresh) = fastOracle.read(feedId);
        (p.slow, p.slowAt, p.slowFresh) = feed.slow.read(feedId);
        (p.deviation, p.heartbeat, p.minDelay) = (feed.deviation, feed.heartbeat, feed.minDelay);
    }

    /// @notice Both prices of several feeds, in the order asked for.
    function prices(bytes32[] calldata feedIds) external view returns (FeedPrice[] memory all) {
        all = new FeedPrice[](feedIds.length);
        for (uint256 i; i < feedIds.length; ++i) {
            all[i] = price(feedIds[i]);
        }
    }

    /// @notice The mode of one feed.
    function mode(bytes32 feedId) external view returns (Mode) {
        FeedPrice memory p = price(feedId);
        if (p.fastFresh) return p.slowFresh ? Mode.NORMAL : Mode.FAST_ONLY;
        return p.slowFresh ? Mode.SLOW_ONLY : Mode.FROZEN;
    }
}
