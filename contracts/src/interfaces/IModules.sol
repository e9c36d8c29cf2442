// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Balance, Holding, Margin, Market, Position, Quote, Risk, State, View} from "../HybridTypes.sol";

/// @notice What is listed, and on which terms now.
interface IInstruments {
    /// @notice A listed market; reverts UnknownMarket.
    function market(uint16 id) external view returns (Market memory);

    /// @notice Today's margin terms of an underlying; reverts UnknownUnderlying.
    function risk(bytes32 feedId) external view returns (Risk memory);

    /// @notice Markets and today's risk terms of several positions, in the order asked for.
    function terms(uint16[] calldata ids) external view returns (Market[] memory markets, Risk[] memory risks);

    /// @notice Balances with their feeds and today's haircuts, in the order given.
    function haircuts(Balance[] calldata balances) external view returns (Holding[] memory holdings);

    /// @notice The collateral's number, 0 where it is not listed.
    function collateralOf(address token) external view returns (uint8);

    /// @notice Token, feed, maintenance haircut today and deposit cap of a collateral; reverts UnknownCollateral.
    function collateral(uint8 id)
        external
        view
        returns (address token, bytes32 feedId, uint256 hMM, uint256 cap);

    /// @notice Notional of an underlying that slices may move within a minute, WAD of quote.
    function bucketCap(bytes32 feedId) external view returns (uint256);
}

/// @notice What an option is worth.
interface IRiskArrays {
    /// @notice The risk arrays of several options, in the order asked for; zeros where there is none.
    function quotes(uint16[] calldata markets) external view returns (Quote[] memory);

    /// @notice The settlement price of an underlying's expiry, WAD; 0 before there is one.
    function settlement(bytes32 feedId, uint40 expiry) external view returns (uint256);
}

/// @notice Values accounts; keeps nothing.
interface IMarginEngine {
    /// @notice An account at the fast, the slow and the execution price.
    /// @param band how far the execution price may lie from the slow one, WAD
    function look(bytes32 acct, uint256 band) external view returns (View memory);

    /// @notice Initial margin at both oracles, the worse of the two, for an account whose slope ends at
    /// H = 1 + beta; reverts StaleOracle where a feed is not fresh at both.
    function initial(bytes32 acct, uint256 beta) external view returns (bool ok, Margin memory worst);

    /// @notice The same for who takes a slice while the slow oracle acts alone: a feed whose fast price is silent
    /// is judged at its slow price; reverts StaleOracle where a feed is neither fresh at both nor such a one.
    function initialSlow(bytes32 acct, uint256 beta) external view returns (bool ok, Margin memory worst);

    /// @notice What one unit of a market is worth at the fast and at the slow price, and the underlying's own
    /// prices; an option's mark, a perp's price.
    /// `current` is whether the risk array of an option may be judged by at both prices; true for a perp.
    function fair(uint16 market)
        external
        view
        returns (uint256 atFast, uint256 atSlow, uint256 fast, uint256 slow, bool fastFresh, bool slowFresh, bool current);

    /// @notice The same at the execution price for a band around the slow price.
    function fairAt(uint16 market, uint256 band) external view returns (uint256 price, uint256 underlying);
}

/// @notice What the Clearing and the engine ask of the Liquidator.
interface ILiquidatorTerms {
    /// @notice The slope that an account's next or running episode follows: 1 + beta is where it ends, WAD.
    function betaOf(bytes32 acct) external view returns (uint256 beta);

    /// @notice Fee, WAD, and price band, WAD, by which a trade that reduces an account is judged.
    function reduceTerms(bytes32 acct) external view returns (uint256 fee, uint256 band);
}

/// @notice Insurance, and what it cannot pay.
interface IBackstop {
    function insurance() external view returns (uint256);
    function badDebt() external view returns (uint256);
    /// @notice Whether quote stays in the accounts for now, because the debt exceeds the insurance by far.
    function gated() external view returns (bool);
    /// @notice Add to the insurance quote that the caller has moved to the Clearing's credit. onlyModule.
    function receive_(uint256 amount) external;
    /// @notice Pay from the insurance on an account's behalf, as far as it and its caps reach. onlyModule.
    function draw(bytes32 acct, uint256 amount) external returns (uint256 paid);
    /// @notice Take over an account's debt: insurance first, then the markets by their notionals. onlyModule.
    function absorb(bytes32 acct, uint256 debt, uint16[] calldata markets, uint256[] calldata notionals) external;
}

interface IBreaker {
    /// @notice 0 normal, 1 no new risk and no withdrawal, 2 also no flag or confirmation, 3 also no slice.
    function level() external view returns (uint256);
    function raisedAt() external view returns (uint256);
}

/// @notice What the engine reads and the Backstop asks of the Clearing.
interface IAccounts {
    /// @notice Cash, positions and balances of an account; quote legs net of socialised losses.
    function account(bytes32 acct)
        external
        view
        returns (int256 cash, Position[] memory positions, Balance[] memory balances);

    /// @notice Sum of |size| over all accounts, WAD units.
    function openInterest(uint16 market) external view returns (uint256);

    /// @notice Charge a loss to everyone with a position in a market that has some: raises its loss index, so that
    /// it brings in `amount` at least. onlyBackstop.
    function chargeOpenInterest(uint16 market, uint256 amount) external;
}
