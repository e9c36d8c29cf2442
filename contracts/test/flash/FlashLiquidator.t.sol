// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Test} from "forge-std/Test.sol";
import {TestToken} from "../../demo/TestToken.sol";
import {By, FlashLiquidator, Hop, Job, Kind, Lender, Plan} from "../../src/flash/FlashLiquidator.sol";
import {
    IAavePool,
    IMorpho,
    IUniswapV2Factory,
    IUniswapV3Factory,
    IUniswapV3Pool
} from "../../src/flash/Venues.sol";
import {IFactory, IPool, Trader} from "../UniV3Twap.t.sol";
import {Accomplice, RoguePerp, RogueToken, RogueVenue} from "./Rogues.sol";
import {
    FeeToken,
    SilentToken,
    StubAave,
    StubMorpho,
    StubPair,
    StubPairFactory,
    StubPerp,
    StubPreLiquidation,
    StubVenue,
    StubVToken
} from "./Stubs.sol";

/// @notice The contract among lenders and venues of our own and Uniswap's own pools, where a token of collateral
/// is sold for one of debt.
abstract contract FlashWorld is Test {
    string private constant ARTIFACTS = "lib/uniswap-v3-core/artifacts/contracts/";
    bytes32 internal constant ID = "market";
    address internal constant BASE = address(0xba5e);
    address internal constant OWNER = address(0x0e);
    address internal constant OPERATOR = address(0x09);
    address internal constant BORROWER = address(0xb0);
    uint24 internal constant FEE = 3000;
    uint256 internal constant LENT = 1000e18;
    uint128 internal constant LIQUIDITY = 1e24;
    /// @dev What sits in the contract from earlier runs, of every token.
    uint256 internal constant KEPT = 500e18;
    uint160 internal constant PAR = 2 ** 96;

    StubMorpho internal morpho = new StubMorpho();
    StubAave internal aave = new StubAave();
    StubPairFactory internal pairs = new StubPairFactory();
    IFactory internal factory = IFactory(create("UniswapV3Factory.sol/UniswapV3Factory.json"));
    Trader internal trader = new Trader();
    TestToken internal usd = new TestToken("Dollar", "USD", 18);
    TestToken internal weth = new TestToken("Ether", "WETH", 18);
    TestToken internal dai = new TestToken("Other dollar", "DAI", 18);
    StubPreLiquidation internal pre = new StubPreLiquidation(address(usd), address(weth));
    StubVToken internal vUsd = new StubVToken(address(usd));
    StubVToken internal vWeth = new StubVToken(address(weth));
    StubPerp internal perp = new StubPerp();
    FlashLiquidator internal flash;
    IPool internal pool;
    IPool internal bank;

    function setUp() public virtual {
        flash = deploy(OPERATOR);
        pool = open(address(usd), address(weth), FEE);
        bank = open(address(usd), address(dai), FEE);
        morpho.open(ID, address(usd), address(weth));
        address[8] memory rich = [
            address(morpho),
            address(aave),
            address(pre),
            address(vUsd),
            address(vWeth),
            address(perp.getVault()),
            address(trader),
            address(this)
        ];
        for (uint256 i; i < rich.length; ++i) {
            usd.mint(rich[i], 1e30);
            weth.mint(rich[i], 1e30);
        }
        vWeth.mint(address(vUsd), 1e30);
        fund(address(usd), address(weth));
        keep();
    }

    function deploy(address operator) internal returns (FlashLiquidator) {
        return new FlashLiquidator(
            OWNER,
            operator,
            IMorpho(address(morpho)),
            IAavePool(address(aave)),
            IUniswapV3Factory(address(factory)),
            IUniswapV2Factory(address(pairs))
        );
    }

    function create(string memory artifact) private returns (address made) {
        bytes memory code = vm.parseJsonBytes(vm.readFile(string.concat(ARTIFACTS, artifact)), ".bytecode");
        assembly {
            made := create(0, add(code, 32), mload(code))
        }
    }

    function open(address a, address b, uint24 fee) internal returns (IPool made) {
        made = IPool(factory.createPool(a, b, fee));
        made.initialize(PAR);
        trader.add(made, LIQUIDITY);
    }

    /// @dev A pair of Uniswap v2 with as much of one as of the other.
    function fund(address a, address b) internal returns (StubPair pair) {
        pair = pairs.createPair(a, b);
        TestToken(a).mint(address(pair), LIQUIDITY);
        TestToken(b).mint(address(pair), LIQUIDITY);
        pair.sync();
    }

    function keep() internal {
        usd.mint(address(flash), KEPT);
        weth.mint(address(flash), KEPT);
        dai.mint(address(flash), KEPT);
    }

    // --- plans ---

    function route(uint24 fee) internal view returns (Hop[] memory hops) {
        hops = new Hop[](1);
        hops[0] = Hop(address(usd), fee);
    }

    function job(Kind kind) internal view returns (Job memory made) {
        made = Job(kind, address(0), 0, address(weth), BORROWER, By.Repaid, LENT, route(FEE));
        if (kind == Kind.AaveV3) {
            made.venue = address(aave);
        } else if (kind == Kind.MorphoBlue) {
            (made.venue, made.market, made.by, made.asked) = (address(morpho), ID, By.Shares, 2 * LENT);
        } else if (kind == Kind.PreLiquidation) {
            (made.venue, made.by, made.asked) = (address(pre), By.Seized, LENT * 11 / 10);
        } else if (kind == Kind.CompoundV2) {
            made.venue = address(vUsd);
            made.market = bytes32(uint256(uint160(address(vWeth))));
        } else {
            (made.venue, made.market) = (address(perp), bytes32(uint256(uint160(BASE))));
            (made.collateral, made.route) = (address(usd), new Hop[](0));
        }
    }

    function plan(Job memory only) internal view returns (Plan memory made) {
        Job[] memory jobs = new Job[](1);
        jobs[0] = only;
        made = Plan(Lender.Morpho, address(0), address(usd), LENT, jobs, 1);
    }

    function run(Plan memory made) internal returns (uint256 profit) {
        vm.prank(OPERATOR);
        profit = flash.run(made);
        IERC20 token = IERC20(made.token);
        assertEq(token.allowance(address(flash), address(morpho)), 0);
        assertEq(token.allowance(address(flash), address(aave)), 0);
        assertEq(token.allowance(address(flash), address(perp.getVault())), 0);
        for (uint256 i; i < made.jobs.length; ++i) {
            assertEq(token.allowance(address(flash), made.jobs[i].venue), 0);
        }
    }

    function refuse(Plan memory made, bytes memory why) internal {
        vm.expectRevert(why);
        vm.prank(OPERATOR);
        flash.run(made);
    }

    /// @dev What a pool of v3 with so much in range, at par, gives for an amount: L x / (L + x), after the fee.
    function sold(uint256 amount) internal pure returns (uint256) {
        uint256 paid = amount * (1e6 - FEE) / 1e6;
        return LIQUIDITY * paid / (LIQUIDITY + paid);
    }

    function soldToPair(uint256 amount) internal pure returns (uint256) {
        uint256 paid = amount * 997;
        return paid * LIQUIDITY / (uint256(LIQUIDITY) * 1000 + paid);
    }

    function unprofitable(int256 got, uint256 wanted) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(FlashLiquidator.Unprofitable.selector, got, wanted);
    }

    function notExpected(address caller) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(FlashLiquidator.NotExpected.selector, caller);
    }
}

contract FlashLiquidatorTest is FlashWorld {
    // --- what it does ---

    function test_whoever_lends_and_by_whatever_rules_an_account_is_closed_with_profit() public {
        uint256 total;
        for (uint256 lender; lender < 3; ++lender) {
            for (uint256 kind; kind < 5; ++kind) {
                uint256 state = vm.snapshotState();
                total += checkOne(Lender(lender), Kind(kind));
                vm.revertToState(state);
            }
        }
        assertGt(total, 0);
    }

    function checkOne(Lender lender, Kind kind) private returns (uint256 profit) {
        Plan memory made = plan(job(kind));
        (made.lender, made.pool) = (lender, address(bank));
        uint256 fee = lender == Lender.Morpho ? 0 : lender == Lender.Aave ? LENT / 2000 : LENT * 3 / 1000;
        // A receipt is worth two.
        uint256 seized = LENT * 11 / 10 * (kind == Kind.CompoundV2 ? 2 : 1);
        uint256 brings = kind == Kind.PerpCurie ? seized : sold(seized);
        profit = run(made);
        assertApproxEqAbs(profit, brings - LENT - fee, 2);
        assertEq(usd.balanceOf(address(flash)), KEPT + profit);
        assertEq(weth.balanceOf(address(flash)), KEPT);
        assertEq(vWeth.balanceOf(address(flash)), 0);
        StubVenue venue = StubVenue(made.jobs[0].venue);
        assertEq(venue.borrower(), BORROWER);
        assertEq(venue.asked(), LENT);
    }

    function test_the_lending_pool_may_have_the_token_on_either_side() public {
        for (uint256 i; i < 4; ++i) {
            TestToken other = new TestToken("Any", "ANY", 18);
            Plan memory made = plan(job(Kind.AaveV3));
            (made.lender, made.pool) = (Lender.UniswapV3, address(open(address(usd), address(other), FEE)));
            assertGt(run(made), 0);
        }
    }

    function test_morpho_is_asked_by_shares_or_by_collateral() public {
        Plan memory made = plan(job(Kind.MorphoBlue));
        run(made);
        (made.jobs[0].by, made.jobs[0].asked) = (By.Seized, 550e18);
        run(made);
        assertEq(morpho.asked(), 500e18);
    }

    function test_a_route_may_lead_through_pairs_and_pools() public {
        open(address(dai), address(weth), 500);
        fund(address(dai), address(usd));
        Job memory only = job(Kind.AaveV3);
        only.route = route(0);
        assertEq(run(plan(only)), soldToPair(1100e18) - LENT);
        only.route = new Hop[](2);
        (only.route[0], only.route[1]) = (Hop(address(dai), 500), Hop(address(usd), 0));
        uint256 paid = 1100e18 * 9995 / 10_000;
        uint256 between = LIQUIDITY * paid / (LIQUIDITY + paid);
        assertApproxEqAbs(run(plan(only)), soldToPair(between) - LENT, 2);
        assertEq(dai.balanceOf(address(flash)), KEPT);
    }

    function test_collateral_that_is_the_debts_own_token_is_not_sold() public {
        Job memory only = job(Kind.AaveV3);
        (only.collateral, only.route) = (address(usd), new Hop[](0));
        assertEq(run(plan(only)), LENT / 10);
    }

    function test_a_long_and_a_short_are_taken_over_by_their_sign_with_the_loan_as_margin() public {
        int256[2] memory sizes = [int256(3e18), -3e18];
        for (uint256 i; i < 2; ++i) {
            Job memory only = job(Kind.PerpCurie);
            only.asked = uint256(sizes[i]);
            vm.expectCall(address(perp), abi.encodeCall(perp.liquidate, (BORROWER, BASE, sizes[i])), 1);
            vm.expectCall(address(perp.getVault()), abi.encodeCall(perp.getVault().deposit, (address(usd), LENT)));
            assertEq(run(plan(only)), LENT / 10);
        }
    }

    function test_a_position_that_the_pool_does_not_take_whole_is_not_taken_over() public {
        // However much the run would gain.
        perp.set(10e18);
        int256[2] memory sizes = [int256(1), -1];
        for (uint256 i; i < 2; ++i) {
            perp.leave(sizes[i]);
            refuse(
                plan(job(Kind.PerpCurie)),
                abi.encodeWithSelector(FlashLiquidator.StillOpen.selector, BASE, sizes[i])
            );
        }
    }

    function test_a_position_that_sells_for_less_than_its_reward_is_not_taken_over() public {
        perp.set(0.99e18);
        refuse(plan(job(Kind.PerpCurie)), unprofitable(-int256(LENT / 100), 1));
    }

    function test_several_accounts_are_closed_in_one_transaction() public {
        Plan memory made = plan(job(Kind.AaveV3));
        made.amount = 2 * LENT;
        made.jobs = new Job[](2);
        (made.jobs[0], made.jobs[1]) = (job(Kind.AaveV3), job(Kind.CompoundV2));
        uint256 profit = run(made);
        assertApproxEqAbs(profit, sold(1100e18) + sold(2200e18) - 2 * LENT, 1e19);
        assertEq(weth.balanceOf(address(flash)), KEPT);
    }

    function test_less_than_the_profit_wanted_reverts_to_the_unit() public {
        Plan memory made = plan(job(Kind.AaveV3));
        made.jobs[0].route = route(0);
        uint256 profit = soldToPair(1100e18) - LENT;
        made.minProfit = profit + 1;
        refuse(made, unprofitable(int256(profit), profit + 1));
        made.minProfit = profit;
        assertEq(run(made), profit);
    }

    function test_what_is_left_of_earlier_runs_repays_no_loan() public {
        aave.set(0.9e18);
        Plan memory made = plan(job(Kind.AaveV3));
        (made.jobs[0].route, made.minProfit) = (route(0), 0);
        refuse(made, unprofitable(int256(soldToPair(900e18)) - int256(LENT), 0));
    }

    function test_a_market_that_answers_with_a_code_is_believed() public {
        vUsd.fail(3, 0);
        refuse(
            plan(job(Kind.CompoundV2)), abi.encodeWithSelector(FlashLiquidator.Refused.selector, address(vUsd), 3)
        );
        vUsd.fail(0, 0);
        vWeth.fail(0, 9);
        refuse(
            plan(job(Kind.CompoundV2)), abi.encodeWithSelector(FlashLiquidator.Refused.selector, address(vWeth), 9)
        );
    }

    // --- tokens with ways of their own ---

    function test_a_token_that_returns_nothing_is_lent_approved_and_repaid() public {
        SilentToken usdt = new SilentToken();
        fund(address(usdt), address(weth));
        usdt.mint(address(morpho), 1e30);
        Plan memory made = plan(job(Kind.AaveV3));
        made.token = address(usdt);
        made.jobs[0].route[0] = Hop(address(usdt), 0);
        // The second time, and with a job that takes less than it might.
        made.jobs[0].asked = LENT / 2;
        assertGt(run(made), 0);
        assertGt(run(made), 0);
        vm.prank(OWNER);
        flash.sweep(IERC20(address(usdt)));
        assertGt(usdt.balanceOf(OWNER), 0);
    }

    function test_collateral_that_keeps_a_fee_is_sold_as_it_arrives() public {
        FeeToken fee = new FeeToken();
        fund(address(fee), address(usd));
        fee.mint(address(aave), 1e30);
        Job memory only = job(Kind.AaveV3);
        (only.collateral, only.route) = (address(fee), route(0));
        uint256 arrives = 1100e18 * 99 / 100 * 99 / 100;
        assertEq(run(plan(only)), soldToPair(arrives) - LENT);
        assertEq(fee.balanceOf(address(flash)), 0);
    }

    function test_a_debt_that_keeps_a_fee_is_not_paid_by_what_was_kept() public {
        FeeToken fee = new FeeToken();
        fee.mint(address(morpho), 1e30);
        fee.mint(address(aave), 1e30);
        fee.mint(address(flash), KEPT);
        Job memory only = job(Kind.AaveV3);
        (only.collateral, only.route, only.asked) = (address(fee), new Hop[](0), LENT / 2);
        aave.set(1e18);
        Plan memory made = plan(only);
        (made.token, made.minProfit) = (address(fee), 0);
        // A hundredth of the loan, and of what is seized.
        refuse(made, unprofitable(-int256(LENT / 100 + LENT / 200), 0));
    }

    // --- pools ---

    function test_a_pool_that_the_factory_does_not_know_does_not_lend() public {
        Plan memory made = plan(job(Kind.AaveV3));
        (made.lender, made.pool) = (Lender.UniswapV3, address(new FalsePool(usd, dai)));
        refuse(made, abi.encodeWithSelector(FlashLiquidator.NoPool.selector, usd, dai, FEE));
    }

    function test_a_pool_of_other_tokens_does_not_lend() public {
        Plan memory made = plan(job(Kind.AaveV3));
        (made.lender, made.pool) = (Lender.UniswapV3, address(open(address(weth), address(dai), FEE)));
        address first = address(weth) < address(dai) ? address(weth) : address(dai);
        // Of dollars and the pool's first token there is another one, or none.
        if (first == address(weth)) refuse(made, abi.encodeWithSelector(FlashLiquidator.NoPool.selector, usd, weth, FEE));
        else refuse(made, abi.encodeWithSelector(FlashLiquidator.NoPool.selector, usd, dai, FEE));
    }

    function test_the_pool_that_lends_sells_nothing() public {
        Plan memory made = plan(job(Kind.AaveV3));
        (made.lender, made.pool) = (Lender.UniswapV3, address(pool));
        refuse(made, abi.encodeWithSignature("Error(string)", "LOK"));
    }

    function test_a_hop_needs_a_pool_or_a_pair() public {
        Plan memory made = plan(job(Kind.AaveV3));
        made.jobs[0].route = route(500);
        refuse(made, abi.encodeWithSelector(FlashLiquidator.NoPool.selector, weth, usd, 500));
        made.jobs[0].route = new Hop[](2);
        (made.jobs[0].route[0], made.jobs[0].route[1]) = (Hop(address(usd), FEE), Hop(address(dai), 0));
        refuse(made, abi.encodeWithSelector(FlashLiquidator.NoPool.selector, usd, dai, 0));
    }

    // --- who may do what ---

    function test_only_the_operator_runs_a_plan() public {
        Plan memory made = plan(job(Kind.AaveV3));
        for (uint256 i; i < 3; ++i) {
            address stranger = [OWNER, BORROWER, address(morpho)][i];
            vm.expectRevert(abi.encodeWithSelector(FlashLiquidator.NotOperator.selector, stranger));
            vm.prank(stranger);
            flash.run(made);
        }
    }

    function test_only_the_owner_chooses_the_operator_and_sweeps() public {
        bytes memory why = abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, OPERATOR);
        vm.startPrank(OPERATOR);
        vm.expectRevert(why);
        flash.setOperator(OPERATOR);
        vm.expectRevert(why);
        flash.sweep(usd);
        vm.stopPrank();
        vm.startPrank(OWNER);
        flash.sweep(usd);
        assertEq(usd.balanceOf(OWNER), KEPT);
        flash.setOperator(BORROWER);
        vm.stopPrank();
        Plan memory made = plan(job(Kind.AaveV3));
        refuse(made, abi.encodeWithSelector(FlashLiquidator.NotOperator.selector, OPERATOR));
        vm.prank(BORROWER);
        assertGt(flash.run(made), 0);
    }

    function test_nobody_calls_back_outside_of_a_run() public {
        run(plan(job(Kind.AaveV3)));
        bytes memory data = abi.encode(plan(job(Kind.AaveV3)), 0);
        address[5] memory callers = [address(morpho), address(aave), address(pool), OPERATOR, OWNER];
        for (uint256 i; i < callers.length; ++i) {
            vm.startPrank(callers[i]);
            vm.expectRevert(notExpected(callers[i]));
            flash.onMorphoFlashLoan(LENT, data);
            vm.expectRevert(notExpected(callers[i]));
            flash.executeOperation(address(usd), LENT, 0, address(flash), data);
            vm.expectRevert(notExpected(callers[i]));
            flash.uniswapV3FlashCallback(0, 0, data);
            vm.expectRevert(notExpected(callers[i]));
            flash.uniswapV3SwapCallback(1, 1, abi.encode(usd));
            vm.stopPrank();
        }
    }

    function test_a_loan_that_somebody_else_took_in_its_name_is_refused() public {
        Plan memory made = plan(job(Kind.AaveV3));
        vm.expectRevert(notExpected(address(aave)));
        aave.flashLoanSimple(address(flash), address(usd), LENT, abi.encode(made, 0), 0);
        // Even while Aave is the one that is expected, for its token calls somebody on the way.
        RogueToken rogue = new RogueToken();
        rogue.mint(address(aave), 1e30);
        rogue.plot(
            address(aave),
            abi.encodeCall(aave.flashLoanSimple, (address(flash), address(usd), LENT, abi.encode(made, 0), 0))
        );
        rogue.arm();
        (made.lender, made.token, made.minProfit) = (Lender.Aave, address(rogue), 0);
        made.jobs = new Job[](0);
        refuse(made, unprofitable(-int256(LENT / 2000), 0));
    }

    // --- a stolen operator's key ---

    /// @dev All that somebody could call while a run is under way.
    function plotted(Accomplice rogue, Plan memory made) private {
        bytes memory data = abi.encode(made, 0);
        rogue.plot(address(flash), abi.encodeCall(flash.run, (made)));
        rogue.plot(address(flash), abi.encodeCall(flash.sweep, (usd)));
        rogue.plot(address(flash), abi.encodeCall(flash.setOperator, (address(rogue))));
        rogue.plot(address(flash), abi.encodeCall(flash.onMorphoFlashLoan, (LENT, data)));
        rogue.plot(address(flash), abi.encodeCall(flash.uniswapV3FlashCallback, (0, 0, data)));
        rogue.plot(address(flash), abi.encodeCall(flash.uniswapV3SwapCallback, (1e18, 0, abi.encode(weth))));
        rogue.plot(
            address(flash),
            abi.encodeCall(flash.executeOperation, (address(usd), LENT, 0, address(flash), data))
        );
        rogue.plot(
            address(aave),
            abi.encodeCall(aave.flashLoanSimple, (address(flash), address(usd), LENT, data, 0))
        );
        rogue.plot(address(weth), abi.encodeCall(weth.transferFrom, (address(flash), address(rogue), 1)));
    }

    function test_a_venue_that_takes_all_it_may_gets_nothing() public {
        RogueVenue rogue = new RoguePerp(address(usd));
        for (uint256 kind; kind < 5; ++kind) {
            Plan memory made = plan(job(Kind(kind)));
            (made.jobs[0].venue, made.minProfit) = (address(rogue), 0);
            made.jobs[0].market = bytes32(uint256(uint160(address(rogue))));
            refuse(made, unprofitable(-int256(LENT), 0));
        }
    }

    function test_nobody_on_the_way_finds_a_function_open() public {
        checkClosed(Kind.AaveV3, 1);
        // Paid in, taken over, closed and withdrawn.
        checkClosed(Kind.PerpCurie, 4);
    }

    function checkClosed(Kind kind, uint256 times) private {
        // It takes dai, of which nothing is allowed, and so the run goes through.
        RogueVenue rogue = new RoguePerp(address(dai));
        flash = deploy(address(rogue));
        keep();
        Plan memory made = plan(job(kind));
        (made.jobs[0].venue, made.minProfit) = (address(rogue), 0);
        plotted(rogue, made);
        vm.prank(address(rogue));
        assertEq(flash.run(made), 0);
        assertEq(rogue.tried(), 9 * times);
        assertEq(rogue.passed(), 0);
        checkKept();
    }

    function test_a_run_within_a_run_is_told_apart_from_a_stranger() public {
        RogueVenue rogue = new RogueVenue(address(dai));
        flash = deploy(address(rogue));
        Plan memory made = plan(job(Kind.AaveV3));
        vm.expectCall(address(morpho), abi.encodeWithSelector(StubMorpho.flashLoan.selector), 1);
        made.jobs[0].venue = address(rogue);
        rogue.plot(address(flash), abi.encodeCall(flash.run, (plan(job(Kind.AaveV3)))));
        made.minProfit = 0;
        vm.prank(address(rogue));
        flash.run(made);
        assertEq(rogue.passed(), 0);
    }

    function test_a_token_of_a_real_pool_finds_no_function_open() public {
        RogueToken rogue = new RogueToken();
        IPool trap = open(address(weth), address(rogue), FEE);
        open(address(rogue), address(usd), FEE);
        rogue.mint(address(aave), 1e30);
        Job memory only = job(Kind.AaveV3);
        only.route = new Hop[](2);
        (only.route[0], only.route[1]) = (Hop(address(rogue), FEE), Hop(address(usd), FEE));
        Plan memory made = plan(only);
        plotted(rogue, made);
        rogue.plot(
            address(trap), abi.encodeCall(trap.swap, (address(flash), true, 1e18, PAR / 2, abi.encode(weth)))
        );
        rogue.arm();
        made.minProfit = 0;
        run(made);
        assertEq(rogue.tried(), 2 * 10);
        assertEq(rogue.passed(), 0);
        checkKept();
    }

    function checkKept() private view {
        assertGe(usd.balanceOf(address(flash)), KEPT);
        assertGe(weth.balanceOf(address(flash)), KEPT);
        assertGe(dai.balanceOf(address(flash)), KEPT);
    }

    function test_a_token_that_lies_sells_none_of_the_others() public {
        LyingToken liar = new LyingToken();
        address trap = address(pairs.createPair(address(liar), address(weth)));
        weth.mint(trap, 1e24);
        StubPair(trap).sync();
        // It claims to have arrived, and the pair, which believes it, gives ether: that is the run's own gain.
        Job memory only = job(Kind.AaveV3);
        RogueVenue rogue = new RogueVenue(address(dai));
        (only.venue, only.collateral) = (address(rogue), address(liar));
        only.route = new Hop[](2);
        (only.route[0], only.route[1]) = (Hop(address(weth), 0), Hop(address(usd), FEE));
        assertGt(run(plan(only)), 0);
        checkKept();
    }

    // --- any amount, any price ---

    function testFuzz_the_profit_is_exact_or_it_does_not_happen(
        uint256 lent,
        uint256 rate,
        uint256 wanted,
        uint8 lender
    ) public {
        lent = bound(lent, 1, 1e24);
        rate = bound(rate, 0.5e18, 2e18);
        aave.set(rate);
        Plan memory made = plan(job(Kind.AaveV3));
        made.lender = Lender(lender % 2);
        (made.amount, made.jobs[0].asked, made.jobs[0].route) = (lent, lent, route(0));
        int256 gain = int256(soldToPair(lent * rate / 1e18)) - int256(lent);
        if (made.lender == Lender.Aave) gain -= int256(lent / 2000);
        made.minProfit = bound(wanted, 0, 1e24);
        if (lent * rate / 1e18 > 0 && soldToPair(lent * rate / 1e18) == 0) {
            // A pair does not give nothing for something.
            vm.expectRevert();
            vm.prank(OPERATOR);
            flash.run(made);
        } else if (gain < int256(made.minProfit)) {
            refuse(made, unprofitable(gain, made.minProfit));
        } else {
            assertEq(int256(run(made)), gain);
        }
        checkKept();
    }

    /// @dev Whatever a plan of these pieces does, nothing of what was there before is gone.
    function testFuzz_what_was_there_before_a_run_is_there_after_it(uint256 seed) public {
        address[3] memory tokens = [address(usd), address(weth), address(dai)];
        RogueVenue rogue = new RoguePerp(tokens[pick(seed, 0, 3)]);
        address[7] memory venues =
            [address(rogue), address(morpho), address(aave), address(pre), address(vUsd), address(perp), address(flash)];
        open(address(weth), address(dai), FEE);
        fund(address(dai), address(usd));
        dai.mint(address(aave), 1e30);
        dai.mint(address(morpho), 1e30);
        Plan memory made = plan(job(Kind(pick(seed, 1, 5))));
        (made.lender, made.pool) = (Lender(pick(seed, 2, 3)), address(bank));
        made.token = tokens[pick(seed, 3, 3)];
        (made.amount, made.minProfit) = (pick(seed, 4, 1e24), 0);
        made.jobs = new Job[](1 + pick(seed, 5, 2));
        for (uint256 i; i < made.jobs.length; ++i) {
            Job memory each = job(Kind(pick(seed, 6 + i, 5)));
            if (pick(seed, 8 + i, 2) == 0) each.venue = venues[pick(seed, 10 + i, 7)];
            (each.collateral, each.asked) = (tokens[pick(seed, 12 + i, 3)], pick(seed, 14 + i, 1e24));
            each.route = new Hop[](pick(seed, 16 + i, 3));
            for (uint256 j; j < each.route.length; ++j) {
                uint24 fee = pick(seed, 18 + 2 * i + j, 2) == 0 ? FEE : 0;
                each.route[j] = Hop(tokens[pick(seed, 22 + 2 * i + j, 3)], fee);
            }
            made.jobs[i] = each;
        }
        aave.set(pick(seed, 30, 3e18));
        vm.prank(OPERATOR);
        try flash.run(made) {} catch {}
        checkKept();
    }

    function pick(uint256 seed, uint256 salt, uint256 below) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, salt))) % below;
    }
}

/// @dev Calls itself a pool of two tokens, and would lend what it has not.
contract FalsePool {
    address public immutable token0;
    address public immutable token1;
    uint24 public constant fee = 3000;

    constructor(TestToken a, TestToken b) {
        (token0, token1) = (address(a), address(b));
    }
}

/// @dev Has more of itself with every question: the less gas is left, the more.
contract LyingToken {
    function balanceOf(address) external view returns (uint256) {
        return (2 ** 31 - gasleft()) * 1e15;
    }

    function transfer(address, uint256) external pure returns (bool) {
        return true;
    }
}
