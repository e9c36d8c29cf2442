// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Clearing} from "./Clearing.sol";
import {Liquidator} from "./Liquidator.sol";
import {Book, MAX_HOLDINGS, MAX_LEGS, State} from "./HybridTypes.sol";

/// @title Raw positions of many accounts in one call
/// @notice Health is the caller's work. A row is static, so that a page of rows is one block of 32-byte
/// words that an array library reads without looking at each account; unused slots are zero.
contract MarginReader {
    struct Row {
        bytes32 acct;
        State state;
        int256 cash;
        uint256 lastRiskAt;
        uint256 lastRiskBlock;
        uint256 debtSince;
        uint256 aid;
        bool reduced;
        Liquidator.Flag flag;
        uint256[MAX_LEGS] markets;
        int256[MAX_LEGS] sizes;
        int256[MAX_LEGS] quoteLegs;
        uint256[MAX_HOLDINGS] collaterals;
        uint256[MAX_HOLDINGS] amounts;
    }

    Clearing public immutable clearing;
    Liquidator public immutable liquidator;

    constructor(Clearing clearing_, Liquidator liquidator_) {
        (clearing, liquidator) = (clearing_, liquidator_);
    }

    /// @notice One row per account, in the order asked for; an account never used reads as zeros.
    function rows(bytes32[] calldata accts) external view returns (Row[] memory page) {
        page = new Row[](accts.length);
        for (uint256 i; i < accts.length; ++i) {
            _fill(page[i], accts[i]);
        }
    }

    function _fill(Row memory row, bytes32 acct) private view {
        row.acct = acct;
        (row.state, row.lastRiskAt, row.lastRiskBlock, row.debtSince, row.aid, row.reduced) = clearing.status(acct);
        row.flag = liquidator.flagOf(acct);
        Book memory b = clearing.book(acct);
        row.cash = b.cash;
        for (uint256 i; i < b.legs.length; ++i) {
            (row.markets[i], row.sizes[i], row.quoteLegs[i]) =
                (b.legs[i].market, b.legs[i].size, b.legs[i].quoteLeg);
        }
        for (uint256 j; j < b.holdings.length; ++j) {
            (row.collaterals[j], row.amounts[j]) = (b.holdings[j].collateral, b.holdings[j].amount);
        }
    }
}
