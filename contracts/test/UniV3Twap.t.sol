// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Test} from "forge-std/Test.sol";
import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {TestToken} from "../demo/TestToken.sol";
import {IUniswapV3PoolState} from "../src/interfaces/IUniswapV3PoolState.sol";
import {GuardedCall} from "../src/slow/GuardedCall.sol";
import {UniV3TwapAdapter} from "../src/slow/UniV3TwapAdapter.sol";
import {AnySource} from "./AnySource.sol";

interface IFactory {
    function createPool(address a, address b, uint24 fee) external returns (address);
}

/// @dev What the tests do with a pool besides reading it.
interface IPool is IUniswapV3PoolState {
    function initialize(uint160 sqrtPriceX96) external;
    function increaseObservationCardinalityNext(uint16 next) external;
    function slot0() external view returns (uint160, int24, uint16, uint16, uint16, uint8, bool);
    function burn(int24 lower, int24 upper, uint128 liquidity) external returns (uint256, uint256);
    function mint(address to, int24 lower, int24 upper, uint128 liquidity, bytes calldata data)
        external
        returns (uint256, uint256);
    function swap(address to, bool zeroForOne, int256 amount, uint160 limitX96, bytes calldata data)
        external
        returns (int256, int256);
}

/// @dev Gives a pool its liquidity and moves its price; pays with tokens that anyone may mint.
contract Trader {
    /// @dev The widest range of a pool with a spacing of 60.
    int24 private constant WIDEST = 887_220;

    function add(IPool pool, uint128 liquidity) external {
        pool.mint(address(this), -WIDEST, WIDEST, liquidity, "");
    }

    function remove(IPool pool, uint128 liquidity) external {
        pool.burn(-WIDEST, WIDEST, liquidity);
    }

    /// @dev Trades until the price is there, whatever it costs.
    function moveTo(IPool pool, uint160 sqrtPriceX96) external {
        (uint160 from,,,,,,) = pool.slot0();
        pool.swap(address(this), sqrtPriceX96 < from, type(int128).max, sqrtPriceX96, "");
    }

    function uniswapV3MintCallback(uint256 owed0, uint256 owed1, bytes calldata) external {
        pay(owed0, owed1);
    }

    function uniswapV3SwapCallback(int256 owed0, int256 owed1, bytes calldata) external {
        pay(owed0 > 0 ? uint256(owed0) : 0, owed1 > 0 ? uint256(owed1) : 0);
    }

    function pay(uint256 owed0, uint256 owed1) private {
        TestToken(IPool(msg.sender).token0()).mint(msg.sender, owed0);
        TestToken(IPool(msg.sender).token1()).mint(msg.sender, owed1);
    }
}

/// @notice The pool's own contracts, as their authors compiled them, with a token of 18 decimals and one of 6.
abstract contract RealPool is Test {
    string private constant ARTIFACTS = "lib/uniswap-v3-core/artifacts/contracts/";
    bytes32 internal constant FEED = "WETH";
    uint256 internal constant START = 1_700_000_000;
    uint128 internal constant LIQUIDITY = 1e15;
    uint32 internal constant WINDOW = 600;
    /// @dev sqrt(1.0001^tick) x 2^96, rounded up: 2,000.04 dollars at 200,311 with the sign that the
    /// order of the tokens gives it, 3,077.89 dollars at -196,000.
    int24 internal constant TICK = 200_311;
    uint160 internal constant AT_MINUS_200311 = 3_543_226_830_587_239_509_588_885;
    uint160 internal constant AT_PLUS_200311 = 1_771_577_727_172_025_373_304_338_615_273_325;
    uint160 internal constant AT_MINUS_196000 = 4_395_481_446_301_095_637_367_349;

    UniV3TwapAdapter internal adapter = new UniV3TwapAdapter(address(this));
    Trader internal trader = new Trader();
    TestToken internal weth = new TestToken("Ether", "WETH", 18);
    /// @dev One dollar sorts behind the ether and one before it.
    TestToken internal usdAfter = dollar(true);
    TestToken internal usdBefore = dollar(false);
    IPool internal pool;
    IPool internal inverse;

    function setUp() public virtual {
        vm.warp(START);
        address factory = create("UniswapV3Factory.sol/UniswapV3Factory.json");
        pool = IPool(IFactory(factory).createPool(address(weth), address(usdAfter), 3000));
        inverse = IPool(IFactory(factory).createPool(address(weth), address(usdBefore), 3000));
    }

    function create(string memory artifact) private returns (address made) {
        bytes memory code = vm.parseJsonBytes(vm.readFile(string.concat(ARTIFACTS, artifact)), ".bytecode");
        assembly {
            made := create(0, add(code, 32), mload(code))
        }
        assertTrue(made != address(0));
    }

    function dollar(bool behind) private returns (TestToken usd) {
        do {
            usd = new TestToken("Dollar", "USD", 6);
        } while ((address(usd) > address(weth)) != behind);
    }

    function nowS() internal view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    function pass(uint256 age) internal {
        vm.warp(nowS() + age);
    }

    function begin(IPool p, uint160 sqrtPriceX96) internal {
        p.initialize(sqrtPriceX96);
        p.increaseObservationCardinalityNext(50);
        trader.add(p, LIQUIDITY);
    }

    function tickOf(IPool p) internal view returns (int24 tick) {
        (, tick,,,,,) = p.slot0();
    }

    function check(uint256 wanted, bool wantedOk) internal view {
        (uint256 price, uint256 at, bool ok) = adapter.read(FEED);
        assertEq(price, wanted);
        assertEq(ok, wantedOk);
        if (ok) assertEq(at, nowS());
    }
}

contract UniV3TwapTest is RealPool {
    /// @dev 1.0001^-200311 x 10^12, WAD.
    uint256 internal constant ETHER = 2_000_040_289_648_088_261_463;

    function setUp() public override {
        super.setUp();
        begin(pool, AT_MINUS_200311);
        // One less: where the window begins between two observations, the pool interpolates and rounds down.
        adapter.setSource(FEED, pool, address(weth), WINDOW, LIQUIDITY - 1);
    }

    function checkMean(int256 tick) private view {
        check(adapter.priceAt(tick, 12), true);
    }

    function test_a_pool_at_rest_has_the_price_of_its_tick() public {
        pass(WINDOW);
        assertEq(tickOf(pool), -TICK);
        checkMean(-TICK);
        (uint256 price,,) = adapter.read(FEED);
        assertApproxEqAbs(price, ETHER, 2000);
    }

    function test_the_other_order_of_the_tokens_gives_the_same_price() public {
        begin(inverse, AT_PLUS_200311);
        bytes32 other = "other way round";
        adapter.setSource(other, inverse, address(weth), WINDOW, LIQUIDITY);
        pass(WINDOW);
        assertEq(tickOf(inverse), TICK);
        (uint256 price,, bool ok) = adapter.read(other);
        assertTrue(ok);
        assertApproxEqAbs(price, ETHER, 2000);
    }

    function test_the_dollar_can_be_the_base() public {
        bytes32 other = "dollar";
        adapter.setSource(other, pool, address(usdAfter), WINDOW, LIQUIDITY);
        pass(WINDOW);
        (uint256 price,, bool ok) = adapter.read(other);
        assertTrue(ok);
        assertApproxEqAbs(price, 499_989_927_790_880, 1);
    }

    function test_a_history_shorter_than_the_window_is_not_ok() public {
        pass(WINDOW - 1);
        check(0, false);
        pass(1);
        checkMean(-TICK);
    }

    function test_a_pool_that_remembers_one_observation_has_no_history_after_each_trade() public {
        inverse.initialize(AT_PLUS_200311);
        trader.add(inverse, LIQUIDITY);
        adapter.setSource("forgetful", inverse, address(weth), WINDOW, LIQUIDITY);
        pass(WINDOW);
        (,, bool ok) = adapter.read("forgetful");
        assertTrue(ok);
        trader.moveTo(inverse, AT_PLUS_200311 - 1e26);
        pass(12);
        (uint256 price,, bool stillOk) = adapter.read("forgetful");
        assertFalse(stillOk);
        assertEq(price, 0);
    }

    function test_a_pool_that_was_never_initialised_is_not_ok() public {
        adapter.setSource("empty", inverse, address(weth), WINDOW, LIQUIDITY);
        pass(WINDOW);
        (uint256 price,, bool ok) = adapter.read("empty");
        assertEq(price, 0);
        assertFalse(ok);
    }

    function test_the_mean_is_weighted_by_time_and_rounds_toward_minus_infinity() public {
        pass(WINDOW);
        trader.moveTo(pool, AT_MINUS_196000);
        int256 after_ = tickOf(pool);
        assertEq(after_, -196_000);
        for (uint256 i; i < 6; ++i) {
            pass(101);
            int256 there = int256((i + 1) * 101);
            if (there > 600) there = 600;
            int256 sum = there * after_ - (600 - there) * int256(TICK);
            int256 mean = sum / 600;
            if (sum % 600 != 0) --mean;
            checkMean(mean);
        }
        checkMean(-196_000);
    }

    function test_a_trade_does_not_move_the_mean_of_its_own_block() public {
        pass(WINDOW);
        (uint256 price,,) = adapter.read(FEED);
        trader.moveTo(pool, AT_MINUS_200311 * 100);
        assertGt(tickOf(pool), -110_000);
        check(price, true);
        trader.moveTo(pool, AT_MINUS_200311);
        pass(12);
        check(price, true);
    }

    function test_a_price_ten_thousand_times_too_high_for_one_block_moves_the_mean_by_a_fiftieth_of_its_ticks()
        public
    {
        pass(WINDOW);
        trader.moveTo(pool, AT_MINUS_200311 * 100);
        int256 high = tickOf(pool);
        pass(12);
        trader.moveTo(pool, AT_MINUS_200311);
        int256 mean = (588 * -int256(TICK) + 12 * high) / 600 - 1;
        checkMean(mean);
        (uint256 price,,) = adapter.read(FEED);
        // 10,000^(1/50) = 1.2023
        assertApproxEqRel(price, 2000.04e18 * 1.2023e18 / 1e18, 0.0002e18);
        pass(WINDOW);
        checkMean(-TICK);
    }

    function test_the_liquidity_floor_is_met_to_the_unit() public {
        pass(WINDOW);
        adapter.setSource(FEED, pool, address(weth), WINDOW, LIQUIDITY + 1);
        (uint256 price,, bool ok) = adapter.read(FEED);
        assertFalse(ok);
        assertApproxEqAbs(price, ETHER, 2000);
        adapter.setSource(FEED, pool, address(weth), WINDOW, LIQUIDITY);
        checkMean(-TICK);
    }

    function test_one_deep_moment_does_not_lift_the_mean_liquidity() public {
        pass(WINDOW - 60);
        trader.add(pool, 1_000_000 * LIQUIDITY);
        pass(60);
        // A tenth of the window hardly counted: 1 / (0.9 + 1e-7) of the liquidity before.
        adapter.setSource(FEED, pool, address(weth), WINDOW, LIQUIDITY * 112 / 100);
        (,, bool ok) = adapter.read(FEED);
        assertFalse(ok);
        adapter.setSource(FEED, pool, address(weth), WINDOW, LIQUIDITY * 111 / 100);
        (,, ok) = adapter.read(FEED);
        assertTrue(ok);
    }

    function test_a_thin_moment_pulls_the_mean_liquidity_down() public {
        pass(WINDOW - 12);
        trader.remove(pool, LIQUIDITY - LIQUIDITY / 1000);
        pass(12);
        // 600 / (588 + 12 x 1000) of the liquidity before.
        adapter.setSource(FEED, pool, address(weth), WINDOW, LIQUIDITY * 477 / 10_000);
        (,, bool ok) = adapter.read(FEED);
        assertFalse(ok);
        adapter.setSource(FEED, pool, address(weth), WINDOW, LIQUIDITY * 476 / 10_000);
        (,, ok) = adapter.read(FEED);
        assertTrue(ok);
    }

    function test_a_pool_without_liquidity_is_not_ok() public {
        trader.remove(pool, LIQUIDITY);
        adapter.setSource(FEED, pool, address(weth), WINDOW, 2);
        pass(WINDOW);
        (,, bool ok) = adapter.read(FEED);
        assertFalse(ok);
    }

    // --- registration ---

    function test_a_source_is_set_inside_hard_bounds() public {
        vm.expectRevert(abi.encodeWithSelector(UniV3TwapAdapter.NotInPool.selector, address(usdBefore)));
        adapter.setSource("new", pool, address(usdBefore), WINDOW, 1);
        vm.expectRevert(abi.encodeWithSelector(UniV3TwapAdapter.BadWindow.selector, 599));
        adapter.setSource("new", pool, address(weth), 599, 1);
        vm.expectRevert(abi.encodeWithSelector(UniV3TwapAdapter.BadWindow.selector, 1 days + 1));
        adapter.setSource("new", pool, address(weth), 1 days + 1, 1);
        vm.expectRevert(UniV3TwapAdapter.ZeroLiquidity.selector);
        adapter.setSource("new", pool, address(weth), WINDOW, 0);
        vm.mockCall(address(usdAfter), abi.encodeCall(TestToken.decimals, ()), abi.encode(uint8(19)));
        vm.expectRevert(abi.encodeWithSelector(UniV3TwapAdapter.TooManyDecimals.selector, 19));
        adapter.setSource("new", pool, address(weth), WINDOW, 1);
    }

    function test_limits_may_change_and_pool_direction_and_decimals_may_not() public {
        adapter.setSource(FEED, pool, address(weth), 1200, 1);
        bytes memory fixed_ = abi.encodeWithSelector(UniV3TwapAdapter.SourceFixed.selector, FEED);
        vm.expectRevert(fixed_);
        adapter.setSource(FEED, inverse, address(weth), WINDOW, 1);
        vm.expectRevert(fixed_);
        adapter.setSource(FEED, pool, address(usdAfter), WINDOW, 1);
        vm.mockCall(address(usdAfter), abi.encodeCall(TestToken.decimals, ()), abi.encode(uint8(8)));
        vm.expectRevert(fixed_);
        adapter.setSource(FEED, pool, address(weth), WINDOW, 1);
        pass(WINDOW * 2);
        checkMean(-TICK);
    }

    function test_only_the_admin_registers_a_source() public {
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(1)));
        vm.prank(address(1));
        adapter.setSource(FEED, pool, address(weth), WINDOW, 1);
    }

    function test_an_unknown_feed_is_not_ok() public view {
        (uint256 price,, bool ok) = adapter.read("nothing");
        assertEq(price, 0);
        assertFalse(ok);
    }
}

/// @notice The longest history that a pool can have: 65,535 observations, one a second.
contract LongHistoryTest is RealPool {
    uint256 private constant OBSERVATIONS = 65_535;
    /// @dev Storage slots of the pool: slot0, and the first observation.
    uint256 private constant SLOT0 = 0;
    uint256 private constant FIRST = 8;

    function setUp() public override {
        super.setUp();
        begin(pool, AT_MINUS_200311);
        // Index, length and next length follow the price and the tick in slot0; the newest observation is the last.
        uint256 kept = uint256(vm.load(address(pool), bytes32(SLOT0))) & ~(uint256(type(uint48).max) << 184);
        uint256 lengths = (OBSERVATIONS - 1) | OBSERVATIONS << 16 | OBSERVATIONS << 32;
        vm.store(address(pool), bytes32(SLOT0), bytes32(kept | lengths << 184));
        uint256 perSecond = (1 << 128) / uint256(LIQUIDITY);
        for (uint256 i; i < OBSERVATIONS; ++i) {
            uint256 tickSum = uint56(-int56(TICK) * int56(uint56(i)));
            vm.store(
                address(pool),
                bytes32(FIRST + i),
                bytes32((START + i) | tickSum << 32 | (perSecond * i) << 88 | 1 << 248)
            );
        }
        vm.warp(START + OBSERVATIONS - 1);
    }

    function test_a_search_through_the_longest_history_fits_into_the_stipend(uint32 window) public {
        window = uint32(bound(window, 600, 65_000));
        adapter.setSource(FEED, pool, address(weth), window, LIQUIDITY);
        uint256 before = gasleft();
        (uint256 price,, bool ok) = adapter.read(FEED);
        uint256 spent = before - gasleft();
        assertEq(price, adapter.priceAt(-TICK, 12));
        assertTrue(ok);
        assertLt(spent, adapter.READ_GAS() * 3 / 5);
    }
}

/// @notice Answers that no real pool gives, and how exact the price of a tick is.
contract TickPriceTest is RealPool {
    AnySource internal odd = new AnySource();

    function setUp() public override {
        super.setUp();
        vm.mockCall(address(odd), abi.encodeCall(IUniswapV3PoolState.token0, ()), abi.encode(weth));
        vm.mockCall(address(odd), abi.encodeCall(IUniswapV3PoolState.token1, ()), abi.encode(usdAfter));
        adapter.setSource(FEED, IPool(address(odd)), address(weth), WINDOW, 1000);
    }

    /// @dev As a pool with a liquidity of 1,000 answers, which is the floor.
    function observed(int56 from, int56 to) private pure returns (bytes memory) {
        return observed(from, to, 5, 5 + uint160((uint256(WINDOW) << 128) / 1000));
    }

    function observed(int56 from, int56 to, uint160 thin, uint160 thinTo) private pure returns (bytes memory) {
        (int56[] memory ticks, uint160[] memory seconds_) = (new int56[](2), new uint160[](2));
        (ticks[0], ticks[1]) = (from, to);
        (seconds_[0], seconds_[1]) = (thin, thinTo);
        return abi.encode(ticks, seconds_);
    }

    function checkTicks(int56 from, int56 to, int256 mean) private {
        odd.setRaw(observed(from, to));
        check(adapter.priceAt(mean, 12), true);
    }

    function test_the_mean_tick_rounds_toward_minus_infinity() public {
        checkTicks(0, 599, 0);
        checkTicks(0, 600, 1);
        checkTicks(0, -1, -1);
        checkTicks(0, -600, -1);
        checkTicks(0, -601, -2);
        checkTicks(-300, 299, 0);
        checkTicks(type(int56).min, type(int56).min + 1200, 2);
        checkTicks(type(int56).max, type(int56).max - 1199, -2);
    }

    function test_a_tick_beyond_the_largest_is_not_ok() public {
        int56 top = 887_272 * 600;
        odd.setRaw(observed(0, -top));
        check(0, false);
        odd.setRaw(observed(0, top));
        check(0, false);
        odd.setRaw(observed(0, top + 600));
        check(0, false);
        odd.setRaw(observed(0, -top - 1));
        check(0, false);
        odd.setRaw(observed(type(int56).min, type(int56).max));
        check(0, false);
    }

    function test_the_accumulator_of_liquidity_may_wrap() public {
        uint160 step = uint160((uint256(WINDOW) << 128) / 1000);
        unchecked {
            odd.setRaw(observed(0, 0, type(uint160).max - 7, type(uint160).max - 7 + step));
        }
        check(adapter.priceAt(0, 12), true);
        odd.setRaw(observed(0, 0, 0, step + 1));
        check(adapter.priceAt(0, 12), false);
        odd.setRaw(observed(0, 0, 9, 9));
        check(0, false);
    }

    function test_an_answer_that_does_not_decode_is_not_ok() public {
        odd.setRaw(observed(0, 0));
        check(adapter.priceAt(0, 12), true);
        // Every word but the two sums of liquidity, which may be anything.
        for (uint256 at; at < 6; ++at) {
            bytes memory bad = observed(0, 0);
            assembly {
                mstore(add(add(bad, 32), mul(at, 32)), sub(0, 1000000000))
            }
            odd.setRaw(bad);
            check(0, false);
        }
        odd.setRaw(abi.encode(uint256(64), uint256(160), uint256(2), int256(0), int256(0), uint256(2), uint256(0)));
        check(0, false);
        odd.setRaw("");
        check(0, false);
        odd.setFails(true);
        check(0, false);
        vm.etch(address(odd), "");
        check(0, false);
    }

    function test_a_tick_sum_that_is_no_int56_is_not_ok() public {
        int256 big = int256(type(int56).max) + 1;
        odd.setRaw(abi.encode(64, 160, 2, big, big, 2, 0, uint256(1) << 128));
        check(0, false);
        odd.setRaw(abi.encode(64, 160, 2, int256(0), type(int256).min, 2, 0, uint256(1) << 128));
        check(0, false);
    }

    function test_a_pool_that_burns_its_gas_costs_its_stipend() public {
        odd.setBurns(type(uint256).max);
        uint256 before = gasleft();
        check(0, false);
        assertLt(before - gasleft(), adapter.READ_GAS() + 30_000);
    }

    function test_starving_the_pool_of_gas_reverts_rather_than_looking_like_a_failure() public {
        odd.setRaw(observed(0, 0));
        odd.setBurns(150_000);
        uint256 failures;
        uint256 wanted = adapter.priceAt(0, 12);
        for (uint256 gas_ = 20_000; gas_ < 500_000; gas_ += 4_000) {
            try adapter.read{gas: gas_}(FEED) returns (uint256 price, uint256, bool ok) {
                assertTrue(ok);
                assertEq(price, wanted);
            } catch {
                ++failures;
            }
        }
        assertGt(failures, 30);
        vm.expectRevert(GuardedCall.GasTooLow.selector);
        adapter.read{gas: 120_000}(FEED);
    }

    // --- precision ---

    /// @dev Within 2e-18 of the value, or 1 in the last place where it has few digits.
    function checkPrice(int256 tick, int256 digits, uint256 exact) private view {
        uint256 price = adapter.priceAt(tick, digits);
        assertApproxEqAbs(price, exact, 2 * (exact / 1e18) + 1);
    }

    /// @dev floor(1.0001^tick x 10^(18 + digits)), computed with 90 digits.
    function test_the_price_of_a_tick_against_ninety_digits() public view {
        checkPrice(0, 0, 1e18);
        checkPrice(1, 0, 1_000_100_000_000_000_000);
        checkPrice(-1, 0, 999_900_009_999_000_099);
        checkPrice(6931, 0, 1_999_836_340_196_927_629);
        checkPrice(-6932, 0, 499_990_919_207_187_760);
        checkPrice(46_054, 0, 99_999_955_936_218_778_826);
        checkPrice(-46_055, 0, 9_999_004_505_929_470);
        checkPrice(276_324, -12, 999_997_356_176_039_153);
        checkPrice(-276_325, 12, 999_902_653_565_594_111);
        checkPrice(-200_311, 12, 2_000_040_289_648_088_261_463);
        checkPrice(200_311, -12, 499_989_927_790_880);
        checkPrice(-63_973, 10, 16_665_825_002_809_527_502_168_124);
        checkPrice(230_270, -8, 99_999_779_681_288_055_729);
        checkPrice(414_486, -18, 999_996_034_266_679_907);
        checkPrice(-414_487, 18, 999_903_975_351_512_044);
        checkPrice(443_636, 0, 18_446_050_711_097_703_529_776_342_895_396_472_065);
        checkPrice(-443_637, 18, 54_206_725_637_885_725);
    }

    function test_the_price_of_the_largest_ticks() public {
        uint256 whole = 340_256_786_836_388_094_050_805_785_052_946_541_066_751_507_546_701_582_068;
        checkPrice(887_272, 0, whole);
        checkPrice(887_272, -18, 340_256_786_836_388_094_050_805_785_052_946_541_066);
        checkPrice(887_272, 18, whole * 1e18 + 884_050_462_948_821_114);
        checkPrice(-887_272, 0, 0);
        checkPrice(-887_272, 18, 0);
        vm.expectRevert(abi.encodeWithSelector(UniV3TwapAdapter.TickOutOfRange.selector, int256(887_273)));
        adapter.priceAt(887_273, 0);
        vm.expectRevert(abi.encodeWithSelector(UniV3TwapAdapter.TickOutOfRange.selector, int256(-887_273)));
        adapter.priceAt(-887_273, 0);
    }

    /// @dev The pool knows its tick from its price by its own arithmetic; ours must bracket the same price.
    function test_the_pool_puts_its_own_price_between_its_tick_and_the_next(uint256 seed) public {
        uint160 sqrtPriceX96 = uint160(bound(seed, 1 << 64, type(uint128).max));
        pool.initialize(sqrtPriceX96);
        int256 tick = tickOf(pool);
        uint256 price = FixedPointMathLib.fullMulDiv(uint256(sqrtPriceX96) * sqrtPriceX96, 1e36, 1 << 192);
        assertLe(adapter.priceAt(tick, 18), price + price / 1e9);
        assertGe(adapter.priceAt(tick + 1, 18), price - price / 1e9);
    }

    function test_the_price_rises_with_the_tick(int256 tick) public view {
        tick = bound(tick, -600_000, 887_271);
        assertLt(adapter.priceAt(tick, 18), adapter.priceAt(tick + 1, 18));
    }
}
