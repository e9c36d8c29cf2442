// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {FlashLiquidator} from "../../src/flash/FlashLiquidator.sol";
import {IPerpHouse, MarketParams} from "../../src/flash/Venues.sol";

/// @dev Takes a debt and pays for it in collateral at a rate that the test sets; remembers what it was asked.
abstract contract StubVenue {
    using SafeERC20 for IERC20;

    /// @notice Collateral for one of debt, WAD.
    uint256 public rate = 1.1e18;
    address public borrower;
    uint256 public asked;

    function set(uint256 rate_) external {
        rate = rate_;
    }

    function exchange(address debt, address collateral, address who, uint256 repaid) internal {
        (borrower, asked) = (who, repaid);
        IERC20(debt).safeTransferFrom(msg.sender, address(this), repaid);
        IERC20(collateral).safeTransfer(msg.sender, repaid * rate / 1e18);
    }
}

contract StubMorpho is StubVenue {
    using SafeERC20 for IERC20;

    mapping(bytes32 => MarketParams) private _params;

    function open(bytes32 id, address loan, address collateral) external {
        _params[id] = MarketParams(loan, collateral, address(0), address(0), 0);
    }

    function idToMarketParams(bytes32 id) external view returns (MarketParams memory) {
        return _params[id];
    }

    function flashLoan(address token, uint256 assets, bytes calldata data) external {
        IERC20(token).safeTransfer(msg.sender, assets);
        FlashLiquidator(msg.sender).onMorphoFlashLoan(assets, data);
        IERC20(token).safeTransferFrom(msg.sender, address(this), assets);
    }

    /// @dev A share is half a unit of the debt.
    function liquidate(MarketParams memory params, address who, uint256 seized, uint256 shares, bytes memory data)
        external
        returns (uint256, uint256)
    {
        require((seized == 0) != (shares == 0) && data.length == 0, "inconsistent input");
        exchange(params.loanToken, params.collateralToken, who, shares == 0 ? seized * 1e18 / rate : shares / 2);
        return (0, 0);
    }
}

contract StubAave is StubVenue {
    using SafeERC20 for IERC20;

    uint256 public constant PREMIUM_BPS = 5;

    function premium(uint256 amount) public pure returns (uint256) {
        return amount * PREMIUM_BPS / 10_000;
    }

    function flashLoanSimple(address receiver, address asset, uint256 amount, bytes calldata data, uint16) external {
        IERC20(asset).safeTransfer(receiver, amount);
        uint256 fee = premium(amount);
        require(FlashLiquidator(receiver).executeOperation(asset, amount, fee, msg.sender, data));
        IERC20(asset).safeTransferFrom(receiver, address(this), amount + fee);
    }

    function liquidationCall(address collateral, address debt, address user, uint256 amount, bool wantsReceipt)
        external
    {
        require(!wantsReceipt);
        exchange(debt, collateral, user, amount);
    }
}

contract StubPreLiquidation is StubVenue {
    address public immutable debt;
    address public immutable collateral;

    constructor(address debt_, address collateral_) {
        (debt, collateral) = (debt_, collateral_);
    }

    function preLiquidate(address who, uint256 seized, uint256 shares, bytes memory data)
        external
        returns (uint256, uint256)
    {
        require((seized == 0) != (shares == 0) && data.length == 0);
        exchange(debt, collateral, who, shares == 0 ? seized * 1e18 / rate : shares / 2);
        return (0, 0);
    }
}

/// @dev Market and receipt in one; a receipt is worth two of the underlying.
contract StubVToken is ERC20("Receipt", "vTKN"), StubVenue {
    using SafeERC20 for IERC20;

    address public immutable underlying;
    uint256 public code;
    uint256 public redeemCode;

    constructor(address underlying_) {
        underlying = underlying_;
    }

    function fail(uint256 code_, uint256 redeemCode_) external {
        (code, redeemCode) = (code_, redeemCode_);
    }

    function mint(address to, uint256 units) external {
        _mint(to, units);
    }

    function liquidateBorrow(address who, uint256 amount, address receipt) external returns (uint256) {
        if (code == 0) exchange(underlying, receipt, who, amount);
        return code;
    }

    function redeem(uint256 receipts) external returns (uint256) {
        if (redeemCode == 0) {
            _burn(msg.sender, receipts);
            IERC20(underlying).safeTransfer(msg.sender, receipts * 2);
        }
        return redeemCode;
    }
}

/// @dev Clearing house and account balance of Perpetual in one; the vault pays what is in it at the rate.
contract StubPerp is StubVenue {
    StubPerpVault public immutable getVault = new StubPerpVault();
    address private _base;
    int256 private _size;
    int256 private _left;

    /// @notice Let so much of a position stay open.
    function leave(int256 size) external {
        _left = size;
    }

    function getAccountBalance() external view returns (address) {
        return address(this);
    }

    function liquidate(address who, address base, int256 size) external {
        require(getVault.held(msg.sender) > 0, "no margin");
        (borrower, asked, _base, _size) = (who, uint256(size), base, size);
    }

    function closePosition(IPerpHouse.ClosePositionParams calldata params) external returns (uint256, uint256) {
        require(params.baseToken == _base && params.deadline >= block.timestamp);
        require(params.sqrtPriceLimitX96 == 0 && params.oppositeAmountBound == 0);
        _size = _left;
        return (0, 0);
    }

    function getTotalPositionSize(address, address base) external view returns (int256) {
        return base == _base ? _size : int256(0);
    }
}

contract StubPerpVault {
    using SafeERC20 for IERC20;

    StubPerp private immutable _house = StubPerp(msg.sender);
    mapping(address => uint256) public held;

    function deposit(address token, uint256 amount) external {
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        held[msg.sender] += amount;
    }

    function withdrawAll(address token) external returns (uint256 amount) {
        amount = held[msg.sender] * _house.rate() / 1e18;
        held[msg.sender] = 0;
        IERC20(token).safeTransfer(msg.sender, amount);
    }
}

/// @dev A pair of Uniswap v2: it holds on to the product of its reserves, less a fee of 0.3%.
contract StubPair {
    using SafeERC20 for IERC20;

    IERC20 public immutable token0;
    IERC20 public immutable token1;
    uint112 private _reserve0;
    uint112 private _reserve1;

    constructor(address a, address b) {
        (token0, token1) = a < b ? (IERC20(a), IERC20(b)) : (IERC20(b), IERC20(a));
    }

    function sync() public {
        (_reserve0, _reserve1) =
            (uint112(token0.balanceOf(address(this))), uint112(token1.balanceOf(address(this))));
    }

    function getReserves() external view returns (uint112, uint112, uint32) {
        return (_reserve0, _reserve1, 0);
    }

    function swap(uint256 out0, uint256 out1, address to, bytes calldata data) external {
        require(out0 + out1 > 0 && data.length == 0);
        if (out0 > 0) token0.safeTransfer(to, out0);
        if (out1 > 0) token1.safeTransfer(to, out1);
        (uint256 has0, uint256 has1) = (token0.balanceOf(address(this)), token1.balanceOf(address(this)));
        uint256 in0 = has0 + out0 - _reserve0;
        uint256 in1 = has1 + out1 - _reserve1;
        uint256 product = (has0 * 1000 - in0 * 3) * (has1 * 1000 - in1 * 3);
        require(product >= uint256(_reserve0) * _reserve1 * 1_000_000, "K");
        sync();
    }
}

contract StubPairFactory {
    mapping(address => mapping(address => address)) public getPair;

    function createPair(address a, address b) external returns (StubPair pair) {
        pair = new StubPair(a, b);
        getPair[a][b] = getPair[b][a] = address(pair);
    }
}

/// @dev As Tether's: nothing is returned, and one allowance must be gone before there is another.
contract SilentToken {
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;

    function mint(address to, uint256 units) external {
        balanceOf[to] += units;
    }

    function approve(address spender, uint256 units) external {
        require(units == 0 || allowance[msg.sender][spender] == 0, "not from one to another");
        allowance[msg.sender][spender] = units;
    }

    function transfer(address to, uint256 units) external {
        move(msg.sender, to, units);
    }

    function transferFrom(address from, address to, uint256 units) external {
        allowance[from][msg.sender] -= units;
        move(from, to, units);
    }

    function move(address from, address to, uint256 units) private {
        balanceOf[from] -= units;
        balanceOf[to] += units;
    }
}

/// @dev Keeps a hundredth of every transfer.
contract FeeToken is ERC20("Fee", "FEE") {
    function mint(address to, uint256 units) external {
        _mint(to, units);
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (from != address(0) && to != address(0)) super._update(to, address(0), units / 100);
    }
}
