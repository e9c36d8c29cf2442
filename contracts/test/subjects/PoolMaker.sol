// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

interface IPool {
    function token0() external view returns (address);
    function token1() external view returns (address);
    function slot0() external view returns (uint160, int24, uint16, uint16, uint16, uint8, bool);
    function mint(address to, int24 lower, int24 upper, uint128 liquidity, bytes calldata data)
        external
        returns (uint256, uint256);
    function swap(address to, bool zeroForOne, int256 amount, uint160 limitX96, bytes calldata data)
        external
        returns (int256, int256);
}

interface IMinted {
    function mint(address to, uint256 units) external;
}

/// @notice Gives pools of Uniswap v3 their liquidity and moves their prices; pays with tokens that anyone may mint.
contract PoolMaker {
    function add(IPool pool, int24 widest, uint128 liquidity) external {
        pool.mint(address(this), -widest, widest, liquidity, "");
    }

    function moveTo(IPool pool, uint160 sqrtPriceX96) external {
        (uint160 from,,,,,,) = pool.slot0();
        if (from != sqrtPriceX96) {
            pool.swap(address(this), sqrtPriceX96 < from, type(int128).max, sqrtPriceX96, "");
        }
    }

    function uniswapV3MintCallback(uint256 owed0, uint256 owed1, bytes calldata) external {
        pay(owed0, owed1);
    }

    function uniswapV3SwapCallback(int256 owed0, int256 owed1, bytes calldata) external {
        pay(owed0 > 0 ? uint256(owed0) : 0, owed1 > 0 ? uint256(owed1) : 0);
    }

    function pay(uint256 owed0, uint256 owed1) private {
        IMinted(IPool(msg.sender).token0()).mint(msg.sender, owed0);
        IMinted(IPool(msg.sender).token1()).mint(msg.sender, owed1);
    }
}
