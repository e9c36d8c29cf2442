// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IPerpHouse, MarketParams} from "../../src/flash/Venues.sol";

/// @dev Carries out calls that it was told beforehand, and notes how each ended.
contract Accomplice {
    address[] private _targets;
    bytes[] private _calls;
    uint256 public tried;
    /// @notice The calls that went through.
    uint256 public passed;

    function plot(address target, bytes calldata call) external {
        _targets.push(target);
        _calls.push(call);
    }

    function strike() public {
        for (uint256 i; i < _calls.length; ++i) {
            (bool ok,) = _targets[i].call(_calls[i]);
            ++tried;
            if (ok) ++passed;
        }
    }
}

/// @dev Answers as any venue, takes all that it is allowed to, gives nothing, and does what it was told.
contract RogueVenue is Accomplice {
    address public immutable loot;

    constructor(address loot_) {
        loot = loot_;
    }

    function rob() internal {
        IERC20 token = IERC20(loot);
        uint256 allowed = token.allowance(msg.sender, address(this));
        if (allowed > 0) token.transferFrom(msg.sender, address(this), allowed);
        strike();
    }

    function idToMarketParams(bytes32) external view returns (MarketParams memory) {
        return MarketParams(loot, loot, address(0), address(0), 0);
    }

    function liquidationCall(address, address, address, uint256, bool) external {
        rob();
    }

    function liquidate(MarketParams memory, address, uint256, uint256, bytes memory)
        external
        returns (uint256, uint256)
    {
        rob();
        return (0, 0);
    }

    function preLiquidate(address, uint256, uint256, bytes memory) external returns (uint256, uint256) {
        rob();
        return (0, 0);
    }

    function liquidateBorrow(address, uint256, address) external returns (uint256) {
        rob();
        return 0;
    }

    function balanceOf(address) external pure returns (uint256) {
        return 0;
    }

    function redeem(uint256) external returns (uint256) {
        rob();
        return 0;
    }
}

/// @dev The same as clearing house, vault and account balance of Perpetual.
contract RoguePerp is RogueVenue {
    constructor(address loot_) RogueVenue(loot_) {}

    function getVault() external view returns (address) {
        return address(this);
    }

    function getAccountBalance() external view returns (address) {
        return address(this);
    }

    function getTotalPositionSize(address, address) external pure returns (int256) {
        return 0;
    }

    function deposit(address, uint256) external {
        rob();
    }

    function liquidate(address, address, int256) external {
        rob();
    }

    function closePosition(IPerpHouse.ClosePositionParams calldata) external returns (uint256, uint256) {
        rob();
        return (0, 0);
    }

    function withdrawAll(address) external returns (uint256) {
        rob();
        return 0;
    }
}

/// @dev Strikes whenever it is moved.
contract RogueToken is ERC20("Rogue", "ROG"), Accomplice {
    bool public isArmed;

    function mint(address to, uint256 units) external {
        _mint(to, units);
    }

    function arm() external {
        isArmed = true;
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (isArmed) {
            isArmed = false;
            strike();
            isArmed = true;
        }
    }
}
