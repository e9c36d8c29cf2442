// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @dev One, in the unit of every quote amount, price, size and fraction of the protocol.
uint256 constant WAD = 1e18;
/// @dev Most perp positions and most collateral types of one account.
uint256 constant MAX_LEGS = 8;
uint256 constant MAX_HOLDINGS = 4;

/// @notice Where an account stands. Only risk-reducing acts are open to one that is not Healthy.
enum State {
    Healthy,
    Flagged,
    Confirmed,
    Closed
}

/// @notice A perp position with the parameters that its margin needs.
/// @param size units, WAD, negative is short
/// @param quoteLeg the quote side of what was paid, WAD: PnL = size x price + quoteLeg
struct Leg {
    uint16 market;
    bytes32 feedId;
    int256 size;
    int256 quoteLeg;
    uint256 mmr;
    uint256 imr;
}

/// @notice A collateral balance (WAD, whatever the token's decimals) with its haircuts.
struct Holding {
    uint8 collateral;
    bytes32 feedId;
    uint256 amount;
    uint256 hMM;
    uint256 hIM;
    uint256 saleDiscMax;
}

/// @notice Everything that margin depends on. Price vectors list the legs first, then the holdings.
struct Book {
    int256 cash;
    Leg[] legs;
    Holding[] holdings;
}

/// @notice Risk-adjusted equity E, maintenance requirement M and notional N at one price vector, WAD.
struct Margin {
    int256 equity;
    uint256 requirement;
    uint256 notional;
}

/// @notice Both prices of one feed, and how their age is judged.
/// @param deviation how far apart fast and slow may be for an old slow round to count as evidence, WAD
/// @param heartbeat how old such a round may be, seconds
/// @param minDelay T_min between alarm and confirmation, seconds
struct FeedPrice {
    uint256 fast;
    uint256 fastAt;
    uint256 slow;
    uint256 slowAt;
    bool fastFresh;
    bool slowFresh;
    uint256 deviation;
    uint256 heartbeat;
    uint256 minDelay;
}

/// @notice One reporter's signed value for one feed.
/// @param price WAD; confBps the half width of its confidence interval, basis points
struct Report {
    uint128 price;
    uint64 confBps;
    uint40 observedAt;
    uint40 validUntil;
    bytes signature;
}

/// @notice K reports of one feed, from K distinct signers.
struct Bundle {
    bytes32 feedId;
    Report[] reports;
}

/// @dev An account is its owner (20 bytes) followed by a sub-account number (12 bytes).
function ownerOf(bytes32 acct) pure returns (address) {
    return address(bytes20(acct));
}
