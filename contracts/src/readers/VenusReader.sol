// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Trying} from "./Trying.sol";

interface IComptroller {
    function actionPaused(address vToken, uint8 action) external view returns (bool);
    function closeFactorMantissa() external view returns (uint256);
    function getAllMarkets() external view returns (address[] memory);
    function getAssetsIn(address account) external view returns (address[] memory);
    function isForcedLiquidationEnabled(address vToken) external view returns (bool);
    function liquidationIncentiveMantissa() external view returns (uint256);
    function markets(address vToken) external view returns (bool listed, uint256 factor, uint256 threshold);
    function minLiquidatableCollateral() external view returns (uint256);
    function oracle() external view returns (address);
}

interface IVToken {
    function accrualBlockNumber() external view returns (uint256);
    function badDebt() external view returns (uint256);
    function balanceOf(address account) external view returns (uint256);
    function borrowBalanceStored(address account) external view returns (uint256);
    function borrowIndex() external view returns (uint256);
    function borrowRatePerBlock() external view returns (uint256);
    function exchangeRateStored() external view returns (uint256);
    function getCash() external view returns (uint256);
    function protocolSeizeShareMantissa() external view returns (uint256);
    function reserveFactorMantissa() external view returns (uint256);
    function totalBorrows() external view returns (uint256);
    function totalReserves() external view returns (uint256);
    function totalSupply() external view returns (uint256);
}

interface IOracle {
    function getUnderlyingPrice(address vToken) external view returns (uint256);
}

interface IBeacon {
    function implementation() external view returns (address);
}

/// @title A vToken that also tells how it stores a debt
/// @notice Lent in the place of a vToken's own code, which is a proxy, for the length of a call: whatever else it
/// is asked it hands on to the vToken's implementation. No view of a vToken tells principal and index, and what its
/// views tell instead is a unit too small after the next interest.
contract VTokenTeller {
    /// @dev EIP-1967
    bytes32 private constant IMPLEMENTATION = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;
    bytes32 private constant BEACON = 0xa3f0ad74e5423aebfd80d3ef4346578335a9a72aeaee59ff6cb3582b35133d50;

    /// @param slot of the debts by account
    function storedDebt(address account, uint256 slot) external view returns (uint256 principal, uint256 index) {
        bytes32 place = keccak256(abi.encode(account, slot));
        assembly ("memory-safe") {
            principal := sload(place)
            index := sload(add(place, 1))
        }
    }

    fallback() external {
        address to = _implementation();
        assembly {
            calldatacopy(0, 0, calldatasize())
            let ok := delegatecall(gas(), to, 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if ok { return(0, returndatasize()) }
            revert(0, returndatasize())
        }
    }

    function _implementation() private view returns (address to) {
        address beacon;
        assembly ("memory-safe") {
            to := sload(IMPLEMENTATION)
            beacon := sload(BEACON)
        }
        if (to == address(0)) to = IBeacon(beacon).implementation();
    }
}

/// @title Accounts of a Venus pool, and the markets and prices that they are valued in, in one call each
/// @notice Never deployed: its code comes with the calls. The words are for an array library; `NONE` stands for
/// what reverted.
contract VenusReader is Trying {
    uint256 private constant ENTRY_WORDS = 3;
    uint256 private constant MARKET_WORDS = 15;
    /// @dev actions; the one between them is to seize
    uint8 private constant REPAY = 3;
    uint8 private constant LIQUIDATE = 5;

    /// @dev The storage of this vToken is laid out in another way.
    error Misplaced(address vToken, address account);

    /// @notice Accounts in the order asked for.
    /// @param vTokens all of the pool, each with the code of `VTokenTeller`
    /// @param slot of a vToken's debts by account
    /// @return heads a word an account: its owner in 160 bits, and how many markets it has entered in 96
    /// @return entries three words a market entered, in the pool's order: the number of the market, or `NONE` where
    /// that is not among `vTokens`; vTokens held and the debt's principal in 128 bits each; the debt's index
    function rows(IComptroller comptroller, address[] calldata vTokens, bytes32[] calldata accounts, uint256 slot)
        external
        view
        returns (uint256[] memory heads, uint256[] memory entries)
    {
        heads = new uint256[](accounts.length);
        address[][] memory entered = new address[][](accounts.length);
        uint256 count;
        for (uint256 i; i < accounts.length; ++i) {
            entered[i] = comptroller.getAssetsIn(address(bytes20(accounts[i])));
            heads[i] = uint256(bytes32(bytes20(accounts[i]))) | entered[i].length;
            count += entered[i].length;
        }
        entries = new uint256[](count * ENTRY_WORDS);
        uint256 at;
        for (uint256 i; i < accounts.length; ++i) {
            for (uint256 j; j < entered[i].length; ++j) {
                _putEntry(entries, at, vTokens, entered[i][j], address(bytes20(accounts[i])), slot);
                at += ENTRY_WORDS;
            }
        }
    }

    /// @notice The block's number and time, close factor, incentive, least collateral, and what names the listing.
    /// Then fifteen words a market: price and liquidation threshold; cash, borrows, bad debt, reserves and supply;
    /// exchange rate, borrow index, the time of its last interest, borrow rate; reserve factor and seize share; bits
    /// of the actions that are paused, and 1 where liquidation is forced. Then answer and time of every feed.
    function world(IComptroller comptroller, address[] calldata vTokens, address[] calldata feeds)
        external
        view
        returns (uint256[] memory words)
    {
        words = new uint256[](6 + MARKET_WORDS * vTokens.length + 2 * feeds.length);
        address oracle = comptroller.oracle();
        (words[0], words[1], words[2]) = (block.number, block.timestamp, comptroller.closeFactorMantissa());
        (words[3], words[4]) = (comptroller.liquidationIncentiveMantissa(), comptroller.minLiquidatableCollateral());
        words[5] = listing(comptroller);
        uint256 at = 6;
        for (uint256 i; i < vTokens.length; ++i) {
            _putMarket(words, at, comptroller, oracle, vTokens[i]);
            at += MARKET_WORDS;
        }
        for (uint256 i; i < feeds.length; ++i) {
            (words[at], words[at + 1]) = _tryFeed(feeds[i]);
            at += 2;
        }
    }

    /// @notice Another number for another set of markets, or another oracle.
    function listing(IComptroller comptroller) public view returns (uint256) {
        return uint64(uint256(keccak256(abi.encode(comptroller.getAllMarkets(), comptroller.oracle()))));
    }

    function _putEntry(
        uint256[] memory entries,
        uint256 at,
        address[] calldata vTokens,
        address vToken,
        address owner,
        uint256 slot
    ) private view {
        uint256 number;
        while (number < vTokens.length && vTokens[number] != vToken) ++number;
        if (number == vTokens.length) {
            entries[at] = NONE;
            return;
        }
        (uint256 principal, uint256 index) = VTokenTeller(vToken).storedDebt(owner, slot);
        uint256 told = IVToken(vToken).borrowBalanceStored(owner);
        uint256 found = principal == 0 || index == 0 ? 0 : principal * IVToken(vToken).borrowIndex() / index;
        if (found != told) revert Misplaced(vToken, owner);
        entries[at] = number;
        entries[at + 1] = IVToken(vToken).balanceOf(owner) << 128 | principal;
        entries[at + 2] = index;
    }

    function _putMarket(uint256[] memory words, uint256 at, IComptroller comptroller, address oracle, address vToken)
        private
        view
    {
        IVToken v = IVToken(vToken);
        words[at] = _tryWord(oracle, abi.encodeCall(IOracle.getUnderlyingPrice, (vToken)));
        (,, words[at + 1]) = comptroller.markets(vToken);
        (words[at + 2], words[at + 3], words[at + 4]) = (v.getCash(), v.totalBorrows(), v.badDebt());
        (words[at + 5], words[at + 6], words[at + 7]) = (v.totalReserves(), v.totalSupply(), v.exchangeRateStored());
        (words[at + 8], words[at + 9], words[at + 10]) =
            (v.borrowIndex(), v.accrualBlockNumber(), v.borrowRatePerBlock());
        (words[at + 11], words[at + 12]) = (v.reserveFactorMantissa(), v.protocolSeizeShareMantissa());
        for (uint8 action = REPAY; action <= LIQUIDATE; ++action) {
            if (comptroller.actionPaused(vToken, action)) words[at + 13] |= 1 << action;
        }
        // Older Comptrollers know of no forced liquidation.
        bytes memory forced = abi.encodeCall(IComptroller.isForcedLiquidationEnabled, (vToken));
        if (_tryWord(address(comptroller), forced) == 1) words[at + 14] = 1;
    }
}
