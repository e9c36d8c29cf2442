// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

struct MarketParams {
    address loanToken;
    address collateralToken;
    address oracle;
    address irm;
    uint256 lltv;
}

struct Market {
    uint128 totalSupplyAssets;
    uint128 totalSupplyShares;
    uint128 totalBorrowAssets;
    uint128 totalBorrowShares;
    uint128 lastUpdate;
    uint128 fee;
}

struct Position {
    uint256 supplyShares;
    uint128 borrowShares;
    uint128 collateral;
}

struct Terms {
    uint256 preLltv;
    uint256 preLCF1;
    uint256 preLCF2;
    uint256 preLIF1;
    uint256 preLIF2;
    address preLiquidationOracle;
}

interface IMorpho {
    function accrueInterest(MarketParams memory params) external;
    function idToMarketParams(bytes32 id) external view returns (MarketParams memory);
    function market(bytes32 id) external view returns (Market memory);
    function position(bytes32 id, address owner) external view returns (Position memory);
    function repay(MarketParams memory params, uint256 assets, uint256 shares, address owner, bytes memory data)
        external
        returns (uint256, uint256);
    function withdrawCollateral(MarketParams memory params, uint256 assets, address owner, address receiver) external;
}

interface IPrice {
    function price() external view returns (uint256);
}

interface IToken {
    function approve(address spender, uint256 units) external returns (bool);
    function transferFrom(address from, address to, uint256 units) external returns (bool);
}

/// @notice Pre-liquidation on Morpho, written from its public specification: close factor and incentive rise in a
/// straight line with the loan-to-value, from preLltv to the market's LLTV. No package holds the real contract.
contract PreLiquidation {
    uint256 private constant WAD = 1e18;
    uint256 private constant SCALE = 1e36;

    IMorpho public immutable MORPHO;
    bytes32 public immutable ID;

    Terms private _terms;
    MarketParams private _params;

    error InconsistentInput();
    error LiquidatablePosition();
    error NotMorpho();
    error NotPreLiquidatablePosition();
    error PreLiquidationTooLarge(uint256 repaidShares, uint256 repayableShares);

    constructor(address morpho, bytes32 id, Terms memory terms) {
        (MORPHO, ID, _terms) = (IMorpho(morpho), id, terms);
        _params = MORPHO.idToMarketParams(id);
        IToken(_params.loanToken).approve(morpho, type(uint256).max);
    }

    function preLiquidationParams() external view returns (Terms memory) {
        return _terms;
    }

    function preLiquidate(address borrower, uint256 seizedAssets, uint256 repaidShares, bytes calldata)
        external
        returns (uint256 seized, uint256 repaid)
    {
        if ((seizedAssets == 0) == (repaidShares == 0)) revert InconsistentInput();
        MORPHO.accrueInterest(_params);
        (uint256 steepness, uint256 price, uint256 shares) = _standing(borrower);
        uint256 incentive = _between(_terms.preLIF1, _terms.preLIF2, steepness);
        (seized, repaidShares) = _converted(seizedAssets, repaidShares, price, incentive);
        uint256 repayable = shares * _between(_terms.preLCF1, _terms.preLCF2, steepness) / WAD;
        if (repaidShares > repayable) revert PreLiquidationTooLarge(repaidShares, repayable);
        repaid = _repay(repaidShares, borrower, abi.encode(seized, borrower, msg.sender));
    }

    function onMorphoRepay(uint256 repaid, bytes calldata data) external {
        if (msg.sender != address(MORPHO)) revert NotMorpho();
        (uint256 seized, address borrower, address taker) = abi.decode(data, (uint256, address, address));
        MORPHO.withdrawCollateral(_params, seized, borrower, taker);
        IToken(_params.loanToken).transferFrom(taker, address(this), repaid);
    }

    function _repay(uint256 shares, address borrower, bytes memory data) private returns (uint256 repaid) {
        (repaid,) = MORPHO.repay(_params, 0, shares, borrower, data);
    }

    /// @dev how far the borrower is on the way from preLltv (0) to LLTV (1e18)
    function _standing(address borrower) private view returns (uint256 steepness, uint256 price, uint256 shares) {
        Position memory position = MORPHO.position(ID, borrower);
        (uint256 assets, uint256 all) = _totals();
        price = IPrice(_terms.preLiquidationOracle).price();
        shares = position.borrowShares;
        uint256 worth = position.collateral * price / SCALE;
        uint256 owed = _up(shares, assets, all);
        if (owed > worth * _params.lltv / WAD) revert LiquidatablePosition();
        if (owed <= worth * _terms.preLltv / WAD) revert NotPreLiquidatablePosition();
        steepness = (_up(owed, WAD, worth) - _terms.preLltv) * WAD / (_params.lltv - _terms.preLltv);
    }

    function _converted(uint256 seized, uint256 shares, uint256 price, uint256 incentive)
        private
        view
        returns (uint256, uint256)
    {
        (uint256 assets, uint256 all) = _totals();
        if (seized > 0) return (seized, _up(_up(_up(seized, price, SCALE), WAD, incentive), all, assets));
        return (shares * assets / all * incentive / WAD * SCALE / price, shares);
    }

    /// @dev with the virtual asset and the virtual shares that Morpho reckons with
    function _totals() private view returns (uint256 assets, uint256 shares) {
        Market memory market = MORPHO.market(ID);
        return (uint256(market.totalBorrowAssets) + 1, uint256(market.totalBorrowShares) + 1e6);
    }

    function _between(uint256 low, uint256 high, uint256 steepness) private pure returns (uint256) {
        return low + steepness * (high - low) / WAD;
    }

    function _up(uint256 a, uint256 b, uint256 divisor) private pure returns (uint256) {
        return (a * b + divisor - 1) / divisor;
    }
}
