// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Backstop} from "../src/Backstop.sol";
import {Clearing} from "../src/Clearing.sol";
import {Book, State, WAD} from "../src/HybridTypes.sol";
import {MarginMath} from "../src/MarginMath.sol";
import {Base} from "./Base.t.sol";

/// @notice How a debt that nobody can pay reaches those who hold positions, and nobody else.
contract LossIndexTest is Base {
    bytes32[4] private accts;
    uint16[2] private markets = [ETH_PERP, SOL_PERP];
    uint256[2] private prices = [uint256(200e18), 10e18];

    /// @dev By account: what cash and quote legs were without any loss, and the losses that it should bear,
    /// rounded down. Each touch may round up by a wei.
    mapping(bytes32 => int256) private ledger;
    mapping(bytes32 => uint256) private losses;
    uint256 private touches;

    function setUp() public override {
        super.setUp();
        accts = [alice, bob, taker, taker2];
    }

    function fundAll(uint256 amount) private {
        for (uint256 i; i < 4; ++i) {
            deposit(accts[i], address(usd), amount);
            ledger[accts[i]] = int256(amount);
        }
    }

    function charge(uint16 market, uint256 amount) private {
        vm.prank(address(backstop));
        clearing.chargeOpenInterest(market, amount);
    }

    /// @dev Cash and quote legs of an account.
    function balance(bytes32 acct) private view returns (int256 total) {
        Book memory b = book(acct);
        total = b.cash;
        for (uint256 i; i < b.legs.length; ++i) {
            total += b.legs[i].quoteLeg;
        }
    }

    function sizeOf(bytes32 acct, uint16 market) private view returns (int256 size) {
        (size,) = leg(acct, market);
    }

    /// @dev What the Clearing's credit must cover.
    function claims() private view returns (int256 total) {
        for (uint256 i; i < 4; ++i) {
            total += balance(accts[i]);
        }
        total += int256(backstop.insurance()) - int256(backstop.badDebt());
    }

    // --- the index ---

    function test_every_holder_is_charged_once_and_in_proportion() public {
        fundAll(100_000e18);
        trade(alice, bob, ETH_PERP, 30e18, 200e18);
        trade(taker, bob, ETH_PERP, 10e18, 200e18);
        assertEq(clearing.openInterest(ETH_PERP), 80e18);
        charge(ETH_PERP, 800e18);
        assertEq(clearing.lossIndex(ETH_PERP), 10e18);
        for (uint256 i; i < 2; ++i) {
            assertEq(balance(alice), 94_000e18 - 300e18);
            assertEq(balance(taker), 98_000e18 - 100e18);
            assertEq(balance(bob), 108_000e18 - 400e18);
            assertEq(balance(taker2), 100_000e18);
            // Looking, or time, charges nobody again.
            tick(1 hours);
        }
        assertEq(cashOf(alice), 100_000e18);
    }

    function test_a_part_of_a_wei_is_borne_by_the_holder() public {
        fundAll(100_000e18);
        trade(alice, bob, ETH_PERP, 1.5e18, 200e18);
        charge(ETH_PERP, 1);
        assertEq(clearing.lossIndex(ETH_PERP), 1);
        assertEq(balance(alice), 99_700e18 - 2);
        assertEq(balance(bob), 100_300e18 - 2);
    }

    function test_who_comes_later_does_not_bear_an_earlier_loss() public {
        fundAll(100_000e18);
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        charge(ETH_PERP, 20e18);
        trade(taker, taker2, ETH_PERP, 10e18, 200e18);
        assertEq(balance(taker), 98_000e18);
        assertEq(balance(taker2), 102_000e18);
        charge(ETH_PERP, 40e18);
        assertEq(balance(taker), 98_000e18 - 10e18);
        assertEq(balance(alice), 98_000e18 - 20e18);
    }

    function test_a_loss_in_one_market_leaves_the_others_alone() public {
        fundAll(100_000e18);
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        trade(taker, taker2, SOL_PERP, 10e18, 10e18);
        charge(ETH_PERP, 20e18);
        assertEq(balance(taker), 99_900e18);
    }

    function test_a_market_without_positions_is_charged_nothing() public {
        uint16[] memory one = new uint16[](1);
        uint256[] memory notionals = new uint256[](1);
        (one[0], notionals[0]) = (ETH_PERP, 1);
        vm.prank(address(liquidator));
        backstop.absorb(alice, 20_000e18, one, notionals);
        assertEq(clearing.lossIndex(ETH_PERP), 0);
        assertEq(backstop.unassigned(), 20_000e18 - 2500e18);
        fundAll(100_000e18);
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        assertEq(balance(alice), 98_000e18);
    }

    function test_a_loss_lowers_what_may_be_withdrawn_and_closing_realises_it() public {
        fundAll(100_000e18);
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        charge(ETH_PERP, 1000e18);
        vm.expectPartialRevert(Clearing.BelowInitialMargin.selector);
        vm.prank(ownerOf_(alice));
        clearing.withdraw(alice, address(usd), 99_400e18);
        trade(bob, alice, ETH_PERP, 10e18, 200e18);
        assertEq(cashOf(alice), 99_500e18);
        assertEq(cashOf(bob), 99_500e18);
        assertEq(clearing.openInterest(ETH_PERP), 0);
    }

    function test_a_settlement_pays_net_of_the_losses() public {
        fundAll(100_000e18);
        postArrays();
        trade(alice, bob, ETH_CALL, 10e18, 4e18);
        charge(ETH_CALL, 20e18);
        expireAt(210e18);
        clearing.settle(alice, ETH_CALL);
        clearing.settle(bob, ETH_CALL);
        assertEq(cashOf(alice), 100_050e18);
        assertEq(cashOf(bob), 99_930e18);
    }

    /// @dev Trades that open, add, reduce, close and flip, slices and losses in any order: each account bears
    /// the losses of the sizes that it had when they fell, and a wei of rounding for each touch at most.
    function test_losses_survive_trades_flips_and_slices(uint256 seed) public {
        fundAll(10_000_000e18);
        for (uint256 i; i < 24; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            act(seed);
        }
        for (uint256 i; i < 4; ++i) {
            int256 borne = ledger[accts[i]] - balance(accts[i]);
            assertGe(borne + 4, int256(losses[accts[i]]));
            assertLe(borne, int256(losses[accts[i]] + touches));
        }
        for (uint256 m; m < 2; ++m) {
            checkInterest(markets[m]);
        }
    }

    function act(uint256 seed) private {
        uint256 m = (seed >> 8) % 2;
        uint256 first = (seed >> 16) % 4;
        uint256 second = (first + 1 + (seed >> 24) % 3) % 4;
        uint256 what = seed % 8;
        if (what < 5) swap(m, accts[first], accts[second], 1 + (seed >> 32) % 50e18);
        else if (what < 7) lose(m, 1 + (seed >> 32) % 100e18);
        else slice(accts[first], accts[second], (seed >> 32) % (WAD + 1));
    }

    function swap(uint256 m, bytes32 long, bytes32 short, uint256 size) private {
        trade(long, short, markets[m], size, prices[m]);
        moved(m, long, short, int256(size));
    }

    function moved(uint256 m, bytes32 long, bytes32 short, int256 size) private {
        int256 value = size * int256(prices[m]) / int256(WAD);
        ledger[long] -= value;
        ledger[short] += value;
        touches += 1;
    }

    function lose(uint256 m, uint256 amount) private {
        uint256 before = clearing.lossIndex(markets[m]);
        uint256 open = clearing.openInterest(markets[m]);
        // The Backstop charges a market without positions nothing.
        if (open > 0) charge(markets[m], amount);
        uint256 step = clearing.lossIndex(markets[m]) - before;
        if (open > 0) assertGe(step * open / WAD, amount);
        touches += 1;
        for (uint256 i; i < 4; ++i) {
            losses[accts[i]] += MarginMath.abs(sizeOf(accts[i], markets[m])) * step / WAD;
        }
    }

    function slice(bytes32 acct, bytes32 by, uint256 f) private {
        Book memory b = book(acct);
        uint256[] memory at = new uint256[](b.legs.length);
        for (uint256 i; i < at.length; ++i) {
            uint256 m = b.legs[i].market == ETH_PERP ? 0 : 1;
            at[i] = prices[m];
            moved(m, by, acct, b.legs[i].size * int256(f) / int256(WAD));
        }
        vm.prank(address(liquidator));
        clearing.takeSlice(acct, by, f, at, at);
    }

    function checkInterest(uint16 market) private view {
        int256 sum;
        uint256 open;
        for (uint256 i; i < 4; ++i) {
            int256 size = sizeOf(accts[i], market);
            sum += size;
            open += MarginMath.abs(size);
        }
        assertEq(sum, 0);
        assertEq(clearing.openInterest(market), open);
    }

    // --- debts ---

    /// @dev Alice: 1,000 ETH long at 200 on 21,000, sliced whole at 120: a debt of some 59,000, far beyond the
    /// insurance. Taker2 has cash and WETH and no position.
    function ruin() private {
        deposit(alice, address(usd), 21_000e18);
        deposit(bob, address(usd), 100_000e18);
        deposit(taker, address(usd), 100_000e18);
        deposit(taker2, address(usd), 5000e18);
        deposit(taker2, address(weth), 5e18);
        trade(alice, bob, ETH_PERP, 1000e18, 200e18);
        tick(12);
        setPrice(ETH, 120e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        liquidate(alice, taker);
        assertEq(uint256(stateOf(alice)), uint256(State.Closed));
    }

    function conserved() private view {
        int256 rounded = int256(quoteCredit(address(clearing))) - claims();
        assertGe(rounded, 0);
        assertLe(rounded, 60);
    }

    function test_a_debt_beyond_the_insurance_falls_to_the_positions_of_its_market_step_by_step() public {
        ruin();
        conserved();
        // A quarter of the insurance in a day for one account; of the rest 1% of 2,000 x 120 at once.
        assertEq(backstop.insurance(), 7500e18);
        assertEq(clearing.lossIndex(ETH_PERP), 1.2e18);
        assertGt(backstop.badDebt(), 50_000e18);
        assertEq(backstop.owed(ETH_PERP), backstop.badDebt());
        vm.expectPartialRevert(Backstop.NothingToSocialise.selector);
        backstop.socialise(ETH_PERP);
        while (backstop.badDebt() > 0) {
            tick(1 hours);
            backstop.socialise(ETH_PERP);
        }
        conserved();
        // Each of bob and taker holds half of the open interest.
        assertGt(clearing.lossIndex(ETH_PERP), 25e18);
    }

    function test_withdrawals_of_quote_wait_while_the_debt_exceeds_the_insurance_for_a_day() public {
        ruin();
        assertTrue(backstop.gated());
        bytes memory why = abi.encodeWithSelector(Clearing.WithdrawalsGated.selector);
        vm.expectRevert(why);
        vm.prank(ownerOf_(taker2));
        clearing.withdraw(taker2, address(usd), 1);
        vm.expectRevert(why);
        vm.prank(ownerOf_(bob));
        clearing.withdraw(bob, address(usd), 1);
        // Collateral and credits go out, and deposits and trades go on.
        withdraw(taker2, address(weth), 5e18);
        vm.prank(flagger);
        vault.withdraw(address(usd), 1000e18, flagger);
        deposit(bob, address(usd), 1e18);
        trade(bob, taker, ETH_PERP, 10e18, 120e18);
        tick(24 hours - 1 minutes);
        vm.expectRevert(why);
        vm.prank(ownerOf_(taker2));
        clearing.withdraw(taker2, address(usd), 1);
        tick(1 minutes);
        assertFalse(backstop.gated());
        withdraw(taker2, address(usd), 5000e18);
    }

    function test_the_gate_opens_as_soon_as_the_insurance_exceeds_the_debt() public {
        ruin();
        fundCredit(admin, address(usd), 100_000e18);
        vm.prank(admin);
        backstop.fund(100_000e18);
        assertFalse(backstop.gated());
        withdraw(taker2, address(usd), 5000e18);
    }

    function test_who_has_no_position_never_pays() public {
        uint256 credit = quoteCredit(flagger);
        ruin();
        // The flagger's bond came back and his reward is what the account still could pay: nothing.
        assertEq(quoteCredit(flagger), credit);
        for (uint256 i; i < 30; ++i) {
            tick(1 hours);
            if (backstop.badDebt() > 0) backstop.socialise(ETH_PERP);
            assertEq(cashOf(taker2), 5000e18);
        }
        withdraw(taker2, address(usd), 5000e18);
        withdraw(taker2, address(weth), 5e18);
        assertEq(quoteCredit(ownerOf_(taker2)), 5000e18);
    }

    function test_a_last_slice_tells_which_markets_a_debt_will_fall_to() public {
        deposit(alice, address(weth), 3e18);
        openAndConfirm(100e18);
        uint16[] memory one = new uint16[](1);
        uint256[] memory notionals = new uint256[](1);
        (one[0], notionals[0]) = (ETH_PERP, 10_000e18);
        vm.expectEmit(address(clearing));
        emit Clearing.LastSliced(alice, one, notionals);
        liquidate(alice, taker);
    }

    function test_a_debt_that_collateral_only_partly_paid_still_falls_to_the_last_slices_market() public {
        deposit(alice, address(weth), 3e18);
        openAndConfirm(100e18);
        liquidate(alice, taker);
        assertEq(uint256(stateOf(alice)), uint256(State.Confirmed));
        tick(5);
        vm.prank(flagger);
        liquidator.buyCollateral(alice, WETH, type(uint128).max, 0);
        assertEq(uint256(stateOf(alice)), uint256(State.Closed));
        assertGt(backstop.owed(ETH_PERP), 0);
        assertEq(backstop.unassigned(), 0);
    }

    function test_a_debt_whose_last_position_the_owner_closed_is_no_markets() public {
        openAlice();
        tick(12);
        setPrice(ETH, 100e18);
        trade(bob, alice, ETH_PERP, 100e18, 100e18);
        liquidator.writeOff(alice);
        assertEq(backstop.unassigned(), 7900e18 - 2500e18);
        assertEq(backstop.owed(ETH_PERP), 0);
        assertEq(clearing.lossIndex(ETH_PERP), 0);
    }

    function test_a_new_position_forgets_the_markets_of_an_old_slice() public {
        deposit(alice, address(weth), 3e18);
        openAndConfirm(173e18);
        liquidate(alice, taker);
        deposit(alice, address(usd), 3000e18);
        liquidator.cure(alice, none());
        withdraw(alice, address(weth), 3e18);
        vm.prank(admin);
        backstop.setShares(0.1e18, 0.05e18);
        trade(alice, bob, SOL_PERP, 500e18, 10e18);
        setPrice(SOL, 1e18);
        trade(bob, alice, SOL_PERP, 500e18, 1e18);
        liquidator.writeOff(alice);
        assertGt(backstop.unassigned(), 1000e18);
        assertEq(backstop.owed(ETH_PERP), 0);
    }
}
