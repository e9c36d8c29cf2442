// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {
    IAavePool,
    IMorpho,
    IPerpAccounts,
    IPerpHouse,
    IPerpVault,
    IPreLiquidation,
    IUniswapV2Factory,
    IUniswapV2Pair,
    IUniswapV3Factory,
    IUniswapV3Pool,
    IVToken
} from "./Venues.sol";

/// @notice Who lends for the length of a transaction.
enum Lender {
    Morpho,
    Aave,
    UniswapV3
}

/// @notice By whose rules an account is closed.
enum Kind {
    AaveV3,
    MorphoBlue,
    PreLiquidation,
    CompoundV2,
    PerpCurie
}

/// @notice What an order counts in. Aave and Compound know units of the debt, Morpho the other two; on Perpetual
/// it is always the size of a position.
enum By {
    Repaid,
    Shares,
    Seized
}

/// @notice One sale: all that came in so far, for another token.
/// @param fee of the pool of Uniswap v3, in millionths; 0 for a pair of Uniswap v2
struct Hop {
    address buys;
    uint24 fee;
}

/// @notice One account to be closed.
/// @param venue who is called: Aave's pool, Morpho, a pre-liquidation contract, the vToken of the debt, Perpetual's
/// ClearingHouse
/// @param market the id of Morpho's market, or the vToken that is seized, or the base token of the position, as a
/// number; else nothing
/// @param collateral what is seized, or what the seized vToken is redeemed for; on Perpetual the token that was lent
/// @param asked in units of the debt, shares of it, or units of the collateral, as `by` says; on Perpetual the size
/// that is taken over, in two's complement with the sign of the position
/// @param route from the collateral to the token that was lent; empty where they are the same
struct Job {
    Kind kind;
    address venue;
    bytes32 market;
    address collateral;
    address borrower;
    By by;
    uint256 asked;
    Hop[] route;
}

/// @notice All that is done in one transaction.
/// @param pool the pool that lends where `lender` is Uniswap v3; it is locked until it is repaid, and so in no route
/// @param token what is lent, and what every account owes, or what Perpetual settles in
/// @param amount what is lent, in its units
/// @param jobs all of them are done, or none
/// @param minProfit in its units; with less it reverts. There is no deadline beside it: late, or at another
/// price, it either pays as much or does not happen
struct Plan {
    Lender lender;
    address pool;
    address token;
    uint256 amount;
    Job[] jobs;
    uint256 minProfit;
}

/// @title Closing accounts with what is lent for the length of a transaction
/// @notice Lends, closes accounts, sells what was seized, repays, and keeps the profit until the owner fetches it.
/// The operator is a key on a machine that is online all day. Whoever steals it can let profits go to others by
/// trading badly, and nothing else: what the contract held before a run it holds after it. For
/// - calls are typed. A run calls what the plan names by the functions of Venues.sol alone, and none of these
///   moves a token of the caller that it did not approve;
/// - only the token that was lent is ever approved, to one venue (or the vault that it names) at a time and no more
///   than was lent, and the run reverts unless the contract has as much of it in the end as before, and the profit
///   wanted besides;
/// - of any other token a run sells, or redeems, only what it received itself, by the difference of two balances;
/// - a position that it takes over does not outlast the run: where the pool does not take all of it, it reverts;
/// - it sells in pools alone that the factories know. Their code is known: it asks for the token that is sold and
///   no more of it than was said, whoever made the pool and whatever the other token does;
/// - the lenders and the pools call back once, when they are expected to, and nobody else ever;
/// - whoever is called on the way finds no function open: a run within a run is refused as well.
/// A token that lies about its balances can spoil only what is reckoned in that token.
contract FlashLiquidator is Ownable2Step, ReentrancyGuardTransient {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    /// @dev What a pair of Uniswap v2 keeps of what is sold, in thousandths.
    uint256 private constant PAIR_FEE = 3;
    /// @dev The ends of the prices of Uniswap v3, exclusive: a sale takes any price, and the profit is the limit.
    uint160 private constant LOWEST = 4_295_128_740;
    uint160 private constant HIGHEST = 1_461_446_703_485_210_103_287_273_052_203_988_822_378_723_970_341;

    IMorpho public immutable morpho;
    IAavePool public immutable aave;
    IUniswapV3Factory public immutable v3Factory;
    IUniswapV2Factory public immutable v2Factory;

    address public operator;
    /// @dev The one contract that may call back now, once.
    address private transient _expected;

    event OperatorSet(address indexed operator);
    event Ran(address indexed token, uint256 profit);
    event Swept(address indexed token, uint256 amount);

    /// @param got what the contract would have gained, in units of the token that was lent; negative for a loss
    error Unprofitable(int256 got, uint256 wanted);
    error NotOperator(address caller);
    error NotExpected(address caller);
    /// @param fee 0 for a pair of Uniswap v2
    error NoPool(address sells, address buys, uint24 fee);
    /// @param code what a market of Compound v2 returned in place of reverting
    error Refused(address venue, uint256 code);
    /// @param size what is left of a position after it was closed as far as the pool takes it in one block
    error StillOpen(address baseToken, int256 size);

    /// @notice A lender or factory that the chain does not have is the zero address: a plan that wants it reverts.
    constructor(
        address owner_,
        address operator_,
        IMorpho morpho_,
        IAavePool aave_,
        IUniswapV3Factory v3Factory_,
        IUniswapV2Factory v2Factory_
    ) Ownable(owner_) {
        morpho = morpho_;
        aave = aave_;
        v3Factory = v3Factory_;
        v2Factory = v2Factory_;
        operator = operator_;
        emit OperatorSet(operator_);
    }

    // --- the owner ---

    /// @notice Let another key run plans; the zero address lets nobody.
    function setOperator(address operator_) external onlyOwner {
        operator = operator_;
        emit OperatorSet(operator_);
    }

    /// @notice Fetch all that there is of a token.
    function sweep(IERC20 token) external onlyOwner {
        uint256 amount = token.balanceOf(address(this));
        emit Swept(address(token), amount);
        token.safeTransfer(owner(), amount);
    }

    // --- the operator ---

    /// @notice Carry out a plan.
    /// @return profit what the contract gained, in units of the token that was lent
    function run(Plan calldata plan) external nonReentrant returns (uint256 profit) {
        if (msg.sender != operator) revert NotOperator(msg.sender);
        uint256 before = _balance(plan.token);
        bytes memory data = abi.encode(plan, before);
        if (plan.lender == Lender.Morpho) {
            _expected = address(morpho);
            morpho.flashLoan(plan.token, plan.amount, data);
        } else if (plan.lender == Lender.Aave) {
            _expected = address(aave);
            aave.flashLoanSimple(address(this), plan.token, plan.amount, data, 0);
        } else {
            _borrowFromPool(plan, data);
        }
        profit = _gained(plan.token, before, plan.minProfit);
        emit Ran(plan.token, profit);
    }

    function _borrowFromPool(Plan calldata plan, bytes memory data) private {
        IUniswapV3Pool pool = IUniswapV3Pool(plan.pool);
        address token0 = pool.token0();
        bool isFirst = token0 == plan.token;
        address other = isFirst ? pool.token1() : token0;
        uint24 fee = pool.fee();
        if (_pool(plan.token, other, fee) != plan.pool) revert NoPool(plan.token, other, fee);
        _expected = plan.pool;
        pool.flash(address(this), isFirst ? plan.amount : 0, isFirst ? 0 : plan.amount, data);
    }

    // --- the lenders call back ---

    function onMorphoFlashLoan(uint256, bytes calldata data) external {
        _expect();
        (IERC20 token, uint256 owed) = _work(data, 0);
        token.forceApprove(msg.sender, owed);
    }

    /// @dev Aave lends to whomever anybody names; only a loan of our own is ours.
    function executeOperation(address, uint256, uint256 premium, address initiator, bytes calldata data)
        external
        returns (bool)
    {
        _expect();
        if (initiator != address(this)) revert NotExpected(initiator);
        (IERC20 token, uint256 owed) = _work(data, premium);
        token.forceApprove(msg.sender, owed);
        return true;
    }

    function uniswapV3FlashCallback(uint256 fee0, uint256 fee1, bytes calldata data) external {
        _expect();
        // Of the token that was not lent, nothing is owed.
        (IERC20 token, uint256 owed) = _work(data, fee0 + fee1);
        token.safeTransfer(msg.sender, owed);
    }

    /// @dev Do what was lent for, and see that there is enough to repay it: later, the token's own error would say
    /// how much is missing in words of its own, or in none.
    function _work(bytes calldata data, uint256 fee) private returns (IERC20 token, uint256 owed) {
        (Plan memory plan, uint256 before) = abi.decode(data, (Plan, uint256));
        token = IERC20(plan.token);
        owed = plan.amount + fee;
        for (uint256 i; i < plan.jobs.length; ++i) {
            Job memory job = plan.jobs[i];
            uint256 held = _balance(job.collateral);
            address spender = job.kind == Kind.PerpCurie ? IPerpHouse(job.venue).getVault() : job.venue;
            token.forceApprove(spender, plan.amount);
            if (job.kind == Kind.PerpCurie) _takeOver(job, IPerpVault(spender), plan.token, plan.amount);
            else _close(job, plan.token);
            token.forceApprove(spender, 0);
            if (job.route.length > 0) _sell(job.collateral, _balance(job.collateral) - held, job.route);
        }
        _gained(plan.token, before + owed, plan.minProfit);
    }

    // --- closing ---

    function _close(Job memory job, address debt) private {
        uint256 seized = job.by == By.Seized ? job.asked : 0;
        uint256 shares = job.by == By.Shares ? job.asked : 0;
        if (job.kind == Kind.AaveV3) {
            IAavePool(job.venue).liquidationCall(job.collateral, debt, job.borrower, job.asked, false);
        } else if (job.kind == Kind.MorphoBlue) {
            IMorpho market = IMorpho(job.venue);
            market.liquidate(market.idToMarketParams(job.market), job.borrower, seized, shares, "");
        } else if (job.kind == Kind.PreLiquidation) {
            IPreLiquidation(job.venue).preLiquidate(job.borrower, seized, shares, "");
        } else {
            _closeAndRedeem(job);
        }
    }

    function _closeAndRedeem(Job memory job) private {
        IVToken receipt = IVToken(address(uint160(uint256(job.market))));
        uint256 held = receipt.balanceOf(address(this));
        uint256 code = IVToken(job.venue).liquidateBorrow(job.borrower, job.asked, address(receipt));
        if (code != 0) revert Refused(job.venue, code);
        code = receipt.redeem(receipt.balanceOf(address(this)) - held);
        if (code != 0) revert Refused(address(receipt), code);
    }

    /// @dev What was lent is the margin, for as long as the position is open.
    function _takeOver(Job memory job, IPerpVault vault, address token, uint256 margin) private {
        IPerpHouse house = IPerpHouse(job.venue);
        address base = address(uint160(uint256(job.market)));
        vault.deposit(token, margin);
        house.liquidate(job.borrower, base, int256(job.asked));
        house.closePosition(IPerpHouse.ClosePositionParams(base, 0, 0, type(uint256).max, 0));
        int256 size = IPerpAccounts(house.getAccountBalance()).getTotalPositionSize(address(this), base);
        if (size != 0) revert StillOpen(base, size);
        vault.withdrawAll(token);
    }

    // --- selling ---

    /// @dev What a hop gives is what arrives: a token may keep a fee of its own.
    function _sell(address token, uint256 amount, Hop[] memory route) private {
        for (uint256 i; i < route.length && amount > 0; ++i) {
            Hop memory hop = route[i];
            uint256 held = _balance(hop.buys);
            if (hop.fee == 0) _sellToPair(token, amount, hop.buys);
            else _sellToPool(token, amount, hop);
            amount = _balance(hop.buys) - held;
            token = hop.buys;
        }
    }

    function _sellToPool(address token, uint256 amount, Hop memory hop) private {
        address pool = _pool(token, hop.buys, hop.fee);
        bool isFirst = token < hop.buys;
        _expected = pool;
        IUniswapV3Pool(pool).swap(
            address(this), isFirst, amount.toInt256(), isFirst ? LOWEST : HIGHEST, abi.encode(token)
        );
    }

    /// @dev The pool's code asks for no more than is sold to it.
    function uniswapV3SwapCallback(int256 delta0, int256 delta1, bytes calldata data) external {
        _expect();
        uint256 owed = uint256(delta0 > 0 ? delta0 : delta1);
        abi.decode(data, (IERC20)).safeTransfer(msg.sender, owed);
    }

    /// @dev A pair pays for what arrived, which may be less than was sent.
    function _sellToPair(address token, uint256 amount, address buys) private {
        address pair = v2Factory.getPair(token, buys);
        if (pair == address(0)) revert NoPool(token, buys, 0);
        bool isFirst = token < buys;
        (uint256 reserve0, uint256 reserve1,) = IUniswapV2Pair(pair).getReserves();
        (uint256 has, uint256 gives) = isFirst ? (reserve0, reserve1) : (reserve1, reserve0);
        IERC20(token).safeTransfer(pair, amount);
        uint256 paid = (IERC20(token).balanceOf(pair) - has) * (1000 - PAIR_FEE);
        uint256 bought = paid * gives / (has * 1000 + paid);
        IUniswapV2Pair(pair).swap(isFirst ? 0 : bought, isFirst ? bought : 0, address(this), "");
    }

    function _pool(address a, address b, uint24 fee) private view returns (address pool) {
        pool = v3Factory.getPool(a, b, fee);
        if (pool == address(0)) revert NoPool(a, b, fee);
    }

    // --- what both need ---

    /// @dev Let the contract in that is expected, once.
    function _expect() private {
        if (msg.sender != _expected) revert NotExpected(msg.sender);
        _expected = address(0);
    }

    function _gained(address token, uint256 since, uint256 wanted) private view returns (uint256) {
        uint256 has = _balance(token);
        if (has < since + wanted) revert Unprofitable(has.toInt256() - since.toInt256(), wanted);
        return has - since;
    }

    function _balance(address token) private view returns (uint256) {
        return IERC20(token).balanceOf(address(this));
    }
}
