// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {ISlowOracle} from "../interfaces/ISlowOracle.sol";
import {IUniswapV3PoolState} from "../interfaces/IUniswapV3PoolState.sol";
import {GuardedCall} from "./GuardedCall.sol";

/// @title The mean price of a Uniswap v3 pool over a window as the slow oracle
/// @notice A pool whose history is shorter than the whole window has no price: a mean over what there is can be
/// the mean of one block (Inverse Finance, April 2022). Nor has one whose liquidity in range was too thin, by its
/// harmonic mean, which one deep moment does not lift.
contract UniV3TwapAdapter is ISlowOracle, Ownable2Step {
    /// @param inverted the base is token1, so that the pool's price is the inverse of ours
    /// @param digits decimals of the base less those of the quote
    /// @param window seconds
    /// @param minLiquidity least harmonic mean of the liquidity in range, in the pool's own unit
    struct Source {
        IUniswapV3PoolState pool;
        bool inverted;
        int8 digits;
        uint32 window;
        uint128 minLiquidity;
    }

    uint256 public constant MIN_WINDOW = 10 minutes;
    uint256 public constant MAX_WINDOW = 1 days;
    /// @notice The largest tick of a pool, with either sign.
    int256 public constant MAX_TICK = 887_272;
    /// @notice What the pool may spend on its answer, gas: a search through the longest history, 65,535 observations,
    /// was measured at 104,000.
    uint256 public constant READ_GAS = 200_000;

    /// @dev ln(1.0001) and ln(10), times 1e36: with 18 digits the error would grow to 4e-13 at the largest tick.
    int256 private constant LN_TICK = 99_995_000_333_308_335_333_166_680_951_131;
    int256 private constant LN_TEN = 2_302_585_092_994_045_684_017_991_454_684_364_208;

    mapping(bytes32 => Source) public sources;

    event SourceSet(
        bytes32 indexed feedId, address pool, bool inverted, int8 digits, uint32 window, uint128 minLiquidity
    );

    error NotInPool(address base);
    error TooManyDecimals(uint8 decimals);
    error BadWindow(uint256 window);
    error ZeroLiquidity();
    error TickOutOfRange(int256 tick);
    error SourceFixed(bytes32 feedId);

    constructor(address admin) Ownable(admin) {}

    /// @notice Register a pool, or give a registered one other limits. Pool, direction and decimals are fixed by
    /// the first registration.
    /// @param base the token that is priced; the pool's other one is the quote
    /// @param minLiquidity in the pool's own unit, sqrt(amount0 x amount1) of a position over the full range
    function setSource(
        bytes32 feedId,
        IUniswapV3PoolState pool,
        address base,
        uint32 window,
        uint128 minLiquidity
    ) external onlyOwner {
        (address token0, address token1) = (pool.token0(), pool.token1());
        if (base != token0 && base != token1) revert NotInPool(base);
        if (window < MIN_WINDOW || window > MAX_WINDOW) revert BadWindow(window);
        if (minLiquidity == 0) revert ZeroLiquidity();
        bool inverted = base == token1;
        int8 digits = _decimals(base) - _decimals(inverted ? token0 : token1);
        Source memory old = sources[feedId];
        if (
            address(old.pool) != address(0)
                && (old.pool != pool || old.inverted != inverted || old.digits != digits)
        ) {
            revert SourceFixed(feedId);
        }
        sources[feedId] = Source(pool, inverted, digits, window, minLiquidity);
        emit SourceSet(feedId, address(pool), inverted, digits, window, minLiquidity);
    }

    /// @inheritdoc ISlowOracle
    /// @dev The mean ends now, so `updatedAt` is now. The mean tick rounds toward minus infinity, as Uniswap's own
    /// periphery has it: the price is up to 0.01% low, or as much high where the base is token1.
    function read(bytes32 feedId) external view returns (uint256 price, uint256 updatedAt, bool ok) {
        Source memory s = sources[feedId];
        uint32[] memory ages = new uint32[](2);
        ages[0] = s.window;
        bytes memory data = GuardedCall.ask(
            address(s.pool), abi.encodeCall(IUniswapV3PoolState.observe, (ages)), READ_GAS, 256
        );
        if (data.length == 0) return (0, 0, false);
        (int256 meanTick, uint256 meanLiquidity, bool sane) = _means(data, s.window);
        if (!sane) return (0, 0, false);
        price = priceAt(s.inverted ? -meanTick : meanTick, s.digits);
        if (price > type(uint128).max) return (0, block.timestamp, false);
        return (price, block.timestamp, price != 0 && meanLiquidity >= s.minLiquidity);
    }

    /// @notice 1.0001^tick x 10^digits, WAD.
    /// @dev The digits go into the exponent, so that a price such as 2e-9 of a dollar's and an ether's smallest units
    /// loses none. Measured against 90 digits at 6,202 pairs over the whole range: between 1.01e-18 of the value low
    /// and 0.02e-18 high, and less than 1 in the last place besides. The largest exponent, ln of 1.0001^887272 x
    /// 10^18, is 130.2: below the 135.3 at which expWad overflows.
    /// @param tick within +-MAX_TICK
    /// @param digits within +-18
    function priceAt(int256 tick, int256 digits) public pure returns (uint256) {
        if (tick > MAX_TICK || tick < -MAX_TICK) revert TickOutOfRange(tick);
        return uint256(FixedPointMathLib.expWad(_floorDiv(tick * LN_TICK + digits * LN_TEN, 1e18)));
    }

    /// @dev Mean tick, rounded toward minus infinity, and harmonic mean of the liquidity, rounded down; the pool
    /// itself rounds by up to a unit where the window begins between two observations. The answer is taken apart by
    /// hand, because one that does not decode would revert.
    function _means(bytes memory data, uint32 window)
        private
        pure
        returns (int256 tick, uint256 liquidity, bool sane)
    {
        uint256[8] memory w = abi.decode(data, (uint256[8]));
        // Two arrays of two: their places, then the length and the entries of each, oldest first.
        if (w[0] != 64 || w[1] != 160 || w[2] != 2 || w[5] != 2) return (0, 0, false);
        (int256 from, int256 to) = (int256(w[3]), int256(w[4]));
        if (from != int56(from) || to != int56(to)) return (0, 0, false);
        tick = _floorDiv(to - from, int256(uint256(window)));
        if (tick > MAX_TICK || tick < -MAX_TICK) return (0, 0, false);
        uint256 perLiquidity;
        unchecked {
            // The accumulator wraps by design.
            perLiquidity = uint160(w[7] - w[6]);
        }
        // No pool accumulates nothing over a second, however deep it is.
        if (perLiquidity == 0) return (0, 0, false);
        return (tick, (uint256(window) << 128) / perLiquidity, true);
    }

    function _decimals(address token) private view returns (int8) {
        uint8 decimals = IERC20Metadata(token).decimals();
        if (decimals > 18) revert TooManyDecimals(decimals);
        return int8(decimals);
    }

    function _floorDiv(int256 a, int256 b) private pure returns (int256 q) {
        q = a / b;
        if (a % b != 0 && (a < 0) != (b < 0)) --q;
    }
}
