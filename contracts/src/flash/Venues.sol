// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

// What FlashLiquidator asks of the contracts of others, written down from their public interfaces.

/// @notice What a market of Morpho is made of; its id is the hash of this.
struct MarketParams {
    address loanToken;
    address collateralToken;
    address oracle;
    address irm;
    uint256 lltv;
}

interface IMorpho {
    function idToMarketParams(bytes32 id) external view returns (MarketParams memory);
    function flashLoan(address token, uint256 assets, bytes calldata data) external;
    function liquidate(
        MarketParams memory params,
        address borrower,
        uint256 seizedAssets,
        uint256 repaidShares,
        bytes memory data
    ) external returns (uint256 seized, uint256 repaid);
}

interface IPreLiquidation {
    function preLiquidate(address borrower, uint256 seizedAssets, uint256 repaidShares, bytes memory data)
        external
        returns (uint256 seized, uint256 repaid);
}

interface IAavePool {
    function flashLoanSimple(
        address receiver,
        address asset,
        uint256 amount,
        bytes calldata params,
        uint16 referralCode
    ) external;
    function liquidationCall(address collateral, address debt, address user, uint256 debtToCover, bool receiveAToken)
        external;
}

/// @notice A market of Compound v2 or Venus. Venus reverts where it refuses; older ones only return a code.
interface IVToken {
    function balanceOf(address holder) external view returns (uint256);
    function liquidateBorrow(address borrower, uint256 repayAmount, address vTokenCollateral)
        external
        returns (uint256 code);
    function redeem(uint256 vTokens) external returns (uint256 code);
}

/// @notice Of Perpetual v2 (Curie), by whose rules a position is taken over into the account of the caller.
interface IPerpHouse {
    struct ClosePositionParams {
        address baseToken;
        uint160 sqrtPriceLimitX96;
        uint256 oppositeAmountBound;
        uint256 deadline;
        bytes32 referralCode;
    }

    function getVault() external view returns (address);
    function getAccountBalance() external view returns (address);
    function liquidate(address trader, address baseToken, int256 positionSize) external;
    function closePosition(ClosePositionParams calldata params) external returns (uint256 base, uint256 quote);
}

interface IPerpVault {
    function deposit(address token, uint256 amount) external;
    function withdrawAll(address token) external returns (uint256 amount);
}

interface IPerpAccounts {
    function getTotalPositionSize(address trader, address baseToken) external view returns (int256);
}

interface IUniswapV3Factory {
    function getPool(address a, address b, uint24 fee) external view returns (address);
}

interface IUniswapV3Pool {
    function token0() external view returns (address);
    function token1() external view returns (address);
    function fee() external view returns (uint24);
    function flash(address recipient, uint256 amount0, uint256 amount1, bytes calldata data) external;
    function swap(address recipient, bool zeroForOne, int256 amountSpecified, uint160 sqrtPriceLimitX96, bytes calldata data)
        external
        returns (int256 amount0, int256 amount1);
}

interface IUniswapV2Factory {
    function getPair(address a, address b) external view returns (address);
}

interface IUniswapV2Pair {
    function getReserves() external view returns (uint112 reserve0, uint112 reserve1, uint32 updatedAt);
    function swap(uint256 amount0Out, uint256 amount1Out, address to, bytes calldata data) external;
}
