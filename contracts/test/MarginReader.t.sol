// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {State} from "../src/HybridTypes.sol";
import {MarginReader} from "../src/MarginReader.sol";
import {Base} from "./Base.t.sol";

contract MarginReaderTest is Base {
    function test_a_row_holds_all_that_margin_depends_on_and_zeros_elsewhere() public {
        MarginReader reader = new MarginReader(clearing, liquidator);
        openAlice();
        deposit(alice, address(wbtc), 2e18);
        trade(bob, alice, BTC_PERP, 1e18, 1000e18);
        tick(12);
        setPrice(ETH, 150e18);
        flag(alice);
        deposit(alice, address(usd), 5e18);

        bytes32[] memory accts = new bytes32[](2);
        (accts[0], accts[1]) = (alice, bytes32(uint256(1)));
        MarginReader.Row[] memory rows = reader.rows(accts);
        MarginReader.Row memory row = rows[0];
        assertEq(row.acct, alice);
        assertEq(uint256(row.state), uint256(State.Flagged));
        assertEq(row.cash, 2105e18);
        assertEq(row.aid, 5e18);
        assertFalse(row.reduced);
        assertEq(row.debtSince, 0);
        assertEq(row.flag.flagger, flagger);
        assertEq(row.flag.bond, 50e18);
        assertEq(row.markets[0], ETH_PERP);
        assertEq(row.sizes[0], 100e18);
        assertEq(row.quoteLegs[0], -20_000e18);
        assertEq(row.markets[1], BTC_PERP);
        assertEq(row.sizes[1], -1e18);
        assertEq(row.quoteLegs[1], 1000e18);
        assertEq(row.markets[2], 0);
        assertEq(row.collaterals[0], WBTC);
        assertEq(row.amounts[0], 2e18);
        assertEq(row.collaterals[1], 0);

        row = rows[1];
        assertEq(uint256(row.state), uint256(State.Healthy));
        assertEq(row.cash, 0);
        assertEq(row.markets[0], 0);
    }
}
