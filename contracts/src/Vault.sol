// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title Custody of every token, and internal credits
/// @notice Tokens move only in `deposit` and `withdraw`; all else is credit changing hands, so that no
/// recipient's token can stop a liquidation. Credits are WAD, whatever the token's decimals.
contract Vault is Ownable2Step, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @notice 10^(18 - decimals) of an accepted token; 0 for any other.
    mapping(address token => uint256) public scaleOf;
    mapping(address token => mapping(address holder => uint256)) public credit;
    /// @notice Sum of a token's credits, WAD; never more than the tokens held, unless the token itself takes some away.
    mapping(address token => uint256) public totalCredit;
    mapping(address => bool) public isModule;

    event TokenAccepted(address indexed token, uint8 decimals);
    event ModuleSet(address indexed module);
    event CreditDeposited(address indexed token, address indexed payer, address indexed holder, uint256 amount);
    event CreditWithdrawn(address indexed token, address indexed holder, address indexed to, uint256 amount);
    event CreditMoved(address indexed token, address indexed from, address indexed to, uint256 amount);

    error UnknownToken(address token);
    error AlreadyAccepted(address token);
    error TooManyDecimals(address token, uint8 decimals);
    error TransferFee(uint256 asked, uint256 received);
    error Shortfall(address token, uint256 held, uint256 owed);
    error NotModule(address caller);
    error CreditTooLow(address token, address holder, uint256 credit, uint256 needed);
    error BelowOneUnit(uint256 amount);

    constructor(address admin) Ownable(admin) {}

    /// @notice Accept a token, once: a later change of its decimals must not rescale credits. No fee on transfer,
    /// no rebasing, no hooks: the admin's duty to know. A fee is seen at the first deposit; a balance that shrinks
    /// later shows in `solvent`, and from then on nobody new is taken in to pay those who leave.
    function acceptToken(address token) external onlyOwner {
        if (scaleOf[token] != 0) revert AlreadyAccepted(token);
        uint8 decimals = IERC20Metadata(token).decimals();
        if (decimals > 18) revert TooManyDecimals(token, decimals);
        scaleOf[token] = 10 ** (18 - decimals);
        emit TokenAccepted(token, decimals);
    }

    /// @notice Let a contract of the protocol move credits. There is no way back.
    function addModule(address module) external onlyOwner {
        isModule[module] = true;
        emit ModuleSet(module);
    }

    /// @notice Pay tokens in for `holder`. Not while the token held is less than its credits: it would pay others'.
    /// @param units amount in the token's own units
    function deposit(address token, uint256 units, address holder) external nonReentrant {
        uint256 scale = _scale(token);
        uint256 before = IERC20(token).balanceOf(address(this));
        if (before * scale < totalCredit[token]) revert Shortfall(token, before * scale, totalCredit[token]);
        IERC20(token).safeTransferFrom(msg.sender, address(this), units);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != units) revert TransferFee(units, received);
        credit[token][holder] += units * scale;
        totalCredit[token] += units * scale;
        emit CreditDeposited(token, msg.sender, holder, units * scale);
    }

    /// @notice Pull one's own credit out.
    /// @param amount WAD; what is less than one unit of the token stays as credit
    function withdraw(address token, uint256 amount, address to) external nonReentrant {
        uint256 scale = _scale(token);
        uint256 units = amount / scale;
        if (units == 0) revert BelowOneUnit(amount);
        _debit(token, msg.sender, units * scale);
        totalCredit[token] -= units * scale;
        emit CreditWithdrawn(token, msg.sender, to, units * scale);
        IERC20(token).safeTransfer(to, units);
    }

    /// @notice Move credit between holders, on behalf of the protocol.
    /// @param amount WAD
    function move(address token, address from, address to, uint256 amount) external {
        if (!isModule[msg.sender]) revert NotModule(msg.sender);
        _debit(token, from, amount);
        credit[token][to] += amount;
        emit CreditMoved(token, from, to, amount);
    }

    /// @notice Whether the token held covers all its credits.
    function solvent(address token) external view returns (bool) {
        return IERC20(token).balanceOf(address(this)) * _scale(token) >= totalCredit[token];
    }

    function _debit(address token, address holder, uint256 amount) private {
        uint256 has = credit[token][holder];
        if (has < amount) revert CreditTooLow(token, holder, has, amount);
        credit[token][holder] = has - amount;
    }

    function _scale(address token) private view returns (uint256 scale) {
        scale = scaleOf[token];
        if (scale == 0) revert UnknownToken(token);
    }
}
