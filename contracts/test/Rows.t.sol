// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {MAX_HOLDINGS, MAX_LEGS, State} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {MarginReader} from "../src/MarginReader.sol";
import {Base} from "./Base.t.sol";

/// @notice Unpacks what the reader tells of one account.
abstract contract Rows is Base {
    uint256 internal constant HEAD_WORDS = 3;
    uint256 internal constant EPISODE_WORDS = 19;

    struct Row {
        bytes32 acct;
        State state;
        int256 cash;
        uint256 lastRiskAt;
        uint256 lastRiskBlock;
        uint256 debtSince;
        uint256 slopeChoice;
        bool episode;
        uint256[MAX_LEGS] markets;
        int256[] sizes;
        int256[] quoteLegs;
        uint256[MAX_HOLDINGS] collaterals;
        uint256[] amounts;
        Liquidator.Flag flag;
        uint256 aid;
        bool reduced;
    }

    MarginReader internal reader;

    function setUp() public virtual override {
        super.setUp();
        reader = new MarginReader(clearing, liquidator);
    }

    function rowOf(bytes32 acct) internal view returns (Row memory row) {
        bytes32[] memory accts = new bytes32[](1);
        accts[0] = acct;
        (uint256[] memory heads, uint256[] memory legs, uint256[] memory amounts, uint256[] memory episodes) =
            reader.rows(accts);
        assertEq(heads.length, HEAD_WORDS);
        fillHead(row, heads);
        fillEpisode(row, episodes);
        (row.sizes, row.quoteLegs) = (new int256[](legs.length), new int256[](legs.length));
        for (uint256 i; i < legs.length; ++i) {
            (row.sizes[i], row.quoteLegs[i]) = (int128(uint128(legs[i] >> 128)), int128(uint128(legs[i])));
        }
        row.amounts = amounts;
    }

    function fillHead(Row memory row, uint256[] memory heads) private pure {
        row.acct = bytes32(heads[0]);
        row.cash = int128(uint128(heads[1] >> 128));
        for (uint256 i; i < MAX_LEGS; ++i) {
            row.markets[i] = uint16(heads[1] >> (16 * (MAX_LEGS - 1 - i)));
        }
        row.lastRiskAt = uint64(heads[2] >> 192);
        row.lastRiskBlock = uint64(heads[2] >> 128);
        row.debtSince = uint64(heads[2] >> 64);
        row.slopeChoice = uint16(heads[2] >> 48);
        row.state = State(uint8(heads[2] >> 40));
        row.episode = uint8(heads[2] >> 32) != 0;
        for (uint256 j; j < MAX_HOLDINGS; ++j) {
            row.collaterals[j] = uint8(heads[2] >> (8 * (MAX_HOLDINGS - 1 - j)));
        }
    }

    function fillEpisode(Row memory row, uint256[] memory words) private pure {
        assertEq(words.length, row.episode ? EPISODE_WORDS : 0);
        if (!row.episode) return;
        row.flag = abi.decode(abi.encodePacked(words), (Liquidator.Flag));
        (row.aid, row.reduced) = (words[17], words[18] == 1);
    }
}
