// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @notice A parameter on its way: `from` until `start`, `to` from `end` on, a straight line between.
/// @param from,to WAD
/// @param start,end unix seconds; equal where the parameter stands still
struct Ramp {
    uint64 from;
    uint64 to;
    uint40 start;
    uint40 end;
}

/// @title Parameters that change without a jump
/// @notice A requirement that rose at once would breach accounts that did nothing: a cliff made by a vote.
library RampMath {
    /// @notice The value at a time, WAD; rounded toward `from`, so that it never runs ahead of the line.
    function valueAt(Ramp memory r, uint256 at) internal pure returns (uint256) {
        return between(r.from, r.to, r.start, r.end, at);
    }

    /// @notice The same of numbers that are not kept as a `Ramp`.
    function between(uint256 from, uint256 to, uint256 start, uint256 end, uint256 at)
        internal
        pure
        returns (uint256)
    {
        if (at >= end) return to;
        if (at <= start) return from;
        uint256 passed = at - start;
        return to >= from
            ? from + (to - from) * passed / (end - start)
            : from - (from - to) * passed / (end - start);
    }
}
