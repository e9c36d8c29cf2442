// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @dev One, in the unit of every quote amount, price, size and fraction of the protocol.
uint256 constant WAD = 1e18;
/// @dev Most positions and most collateral types of one account.
uint256 constant MAX_LEGS = 8;
uint256 constant MAX_HOLDINGS = 4;
/// @dev Scenarios of a risk array.
uint256 constant SCENARIOS = 16;

/// @notice Where an account stands. Only risk-reducing acts are open to one that is not Healthy.
enum State {
    Healthy,
    Flagged,
    Confirmed,
    Closed
}

/// @notice What a market trades. Options are European and settled in cash.
enum Kind {
    Perp,
    Call,
    Put
}

/// @notice A listed market.
/// @param feedId the underlying's feed
/// @param expiry unix seconds, 0 for a perp
/// @param strike WAD, 0 for a perp
struct Market {
    bytes32 feedId;
    Kind kind;
    uint40 expiry;
    uint128 strike;
}

/// @notice What the margin of an underlying's perps and options asks now, WAD fractions of its price.
/// @param mmr maintenance: the range of price moves that the scenarios cover
/// @param imr initial margin: the scenarios' losses times imr / mmr
/// @param shortMin least requirement of a short option
struct Risk {
    uint256 mmr;
    uint256 imr;
    uint256 shortMin;
}

/// @notice A position as the Clearing keeps it.
/// @param size units, WAD, negative is short
/// @param quoteLeg the quote side of what was paid, WAD, less the losses socialised since: PnL = size x price + quoteLeg
struct Position {
    uint16 market;
    int256 size;
    int256 quoteLeg;
}

/// @notice A collateral balance as the Clearing keeps it, WAD whatever the token's decimals.
struct Balance {
    uint8 collateral;
    uint256 amount;
}

/// @notice A position with everything that its margin needs.
/// @param settlement the option's settlement price, WAD; 0 before there is one
struct Leg {
    uint16 market;
    bytes32 feedId;
    Kind kind;
    uint40 expiry;
    uint256 strike;
    uint256 settlement;
    int256 size;
    int256 quoteLeg;
    Risk risk;
    Quote array;
}

/// @notice A risk array in memory, WAD throughout: what one option is worth at `refPrice`, and in each scenario.
/// @param delta change of the mark with the underlying's price, WAD
/// @param pnl change of the mark in each scenario, unweighted
struct Quote {
    uint256 refPrice;
    uint256 mark;
    int256 delta;
    uint256 observedAt;
    int256[16] pnl;
}

/// @notice A collateral balance with its haircuts.
struct Holding {
    uint8 collateral;
    bytes32 feedId;
    uint256 amount;
    uint256 hMM;
    uint256 hIM;
    uint256 saleDiscMax;
}

/// @notice Everything that margin depends on. Price vectors list the legs' underlyings first, then the holdings.
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
/// @param silent no fast price was accepted for so long that the slow one may act alone
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
    bool silent;
    uint256 deviation;
    uint256 heartbeat;
    uint256 minDelay;
}

/// @notice An account at the three price vectors: the legs' underlyings first, then the holdings.
/// @param feedIds,feeds one for each entry of the price vectors
/// @param exec execution prices p_L: fast, held within `band` of slow
/// @param legPrices what one unit of each leg changes hands for: p_L of a perp, the mark at p_L of an option
/// @param fresh both oracles are fresh on every feed and no risk array is silent: the clock runs
/// @param fastFresh,slowFresh of every feed
/// @param slowOnly the slow oracle acts alone: fresh on every feed, and each fast price is fresh or silent, one silent at least
/// @param arraysSilent an option's risk array is too old to judge by and not yet given up
struct View {
    Book book;
    bytes32[] feedIds;
    FeedPrice[] feeds;
    uint256[] fast;
    uint256[] slow;
    uint256[] exec;
    uint256[] legPrices;
    Margin atFast;
    Margin atSlow;
    Margin atExec;
    bool fresh;
    bool fastFresh;
    bool slowFresh;
    bool slowOnly;
    bool arraysSilent;
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

/// @notice An option's value and its change in each of 16 scenarios, as a quorum signs it.
/// @param refPrice,mark underlying's price and option's value, 8 decimals
/// @param delta change of the mark per unit of the underlying's price, 9 decimals
/// @param pnl change of the mark in each scenario, 8 decimals, the two extremes unweighted
struct RiskArray {
    uint16 market;
    uint40 observedAt;
    uint64 refPrice;
    uint64 mark;
    int32 delta;
    int64[16] pnl;
}

/// @dev An account is its owner (20 bytes) followed by a sub-account number (12 bytes).
function ownerOf(bytes32 acct) pure returns (address) {
    return address(bytes20(acct));
}
