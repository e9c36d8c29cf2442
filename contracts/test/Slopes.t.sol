// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Clearing} from "../src/Clearing.sol";
import {Margin, State, WAD} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Slope, SlopeParams} from "../src/Slope.sol";
import {Slopes} from "../src/Slopes.sol";
import {Base} from "./Base.t.sol";

/// @notice Versions of the slope: who adds and chooses them, and which one an episode follows.
contract SlopesTest is Base {
    Slopes private registry;

    function setUp() public override {
        super.setUp();
        registry = liquidator.registry();
    }

    /// @dev Flagged below H = 1.3, for a lower fee; ends at 1.6. lambda = ln(1.6) / 1200.
    function early() private view returns (SlopeParams memory p) {
        p = slopeParams();
        (p.beta, p.betaCure, p.betaFlag) = (0.6e18, 0.45e18, 0.3e18);
        (p.lambda, p.qMin) = (391_669_691_038_113, 0.625e18);
        (p.k0, p.k1) = (0.002e18, 0.01e18);
    }

    /// @dev As the default, but half as fast and twice as dear.
    function slower() private view returns (SlopeParams memory p) {
        p = slopeParams();
        (p.lambda, p.tSlope) = (p.lambda / 2, 2400);
        (p.k0, p.k1) = (0.01e18, 0.05e18);
    }

    function add(SlopeParams memory p) private returns (uint16) {
        vm.prank(admin);
        return registry.addSlope(p);
    }

    function offer(SlopeParams memory p) private returns (uint16 id) {
        id = add(p);
        vm.prank(admin);
        registry.offerSlope(id, true);
    }

    function choose(bytes32 acct, uint16 id) private {
        vm.prank(ownerOf_(acct));
        registry.chooseSlope(acct, id);
    }

    function chooseExpecting(bytes4 why, bytes32 acct, uint16 id) private {
        vm.expectPartialRevert(why);
        choose(acct, id);
    }

    function assertState(bytes32 acct, State wanted) private view {
        assertEq(uint256(stateOf(acct)), uint256(wanted));
    }

    // --- the registry ---

    function test_the_first_slope_is_the_default() public view {
        assertEq(registry.slopeCount(), 1);
        assertEq(registry.defaultSlope(), 0);
        assertEq(keccak256(abi.encode(registry.slopes(0))), keccak256(abi.encode(slopeParams())));
        assertEq(liquidator.slopeOf(alice), 0);
        assertEq(liquidator.betaOf(alice), 0.15e18);
    }

    function test_only_the_admin_adds_offers_and_sets_slopes() public {
        SlopeParams memory p = early();
        vm.expectPartialRevert(Ownable.OwnableUnauthorizedAccount.selector);
        registry.addSlope(p);
        vm.expectPartialRevert(Ownable.OwnableUnauthorizedAccount.selector);
        registry.offerSlope(0, true);
        vm.expectPartialRevert(Ownable.OwnableUnauthorizedAccount.selector);
        registry.setDefaultSlope(0);
    }

    function test_an_added_slope_keeps_the_hard_bounds() public {
        SlopeParams memory p = early();
        p.betaFlag = p.betaCure;
        vm.expectPartialRevert(Slope.BadSlope.selector);
        add(p);
    }

    function test_a_slope_that_does_not_exist_is_nobodys() public {
        vm.startPrank(admin);
        vm.expectPartialRevert(Slopes.UnknownSlope.selector);
        registry.setDefaultSlope(1);
        vm.expectPartialRevert(Slopes.UnknownSlope.selector);
        registry.offerSlope(1, true);
        vm.expectPartialRevert(Slopes.UnknownSlope.selector);
        registry.slopes(1);
        vm.expectPartialRevert(Slopes.UnknownSlope.selector);
        registry.betaOf(1);
    }

    function test_nobody_is_reduced_above_maintenance_but_by_his_own_choice() public {
        uint16 id = add(early());
        vm.expectPartialRevert(Slope.BadSlope.selector);
        vm.prank(admin);
        registry.setDefaultSlope(id);
        vm.expectPartialRevert(Slope.BadSlope.selector);
        new Liquidator(clearing, engine, instruments, backstop, breaker, early(), admin);
    }

    function test_every_change_of_the_slopes_raises_the_version() public {
        uint256 version = registry.version();
        uint16 id = add(slower());
        assertEq(registry.version(), version + 1);
        vm.startPrank(admin);
        registry.offerSlope(id, true);
        assertEq(registry.version(), version + 2);
        registry.setDefaultSlope(id);
        assertEq(registry.version(), version + 3);
    }

    // --- the choice ---

    function test_an_owner_chooses_an_offered_slope_and_returns_to_the_default() public {
        uint16 id = offer(early());
        vm.expectEmit(address(registry));
        emit Slopes.SlopeChosen(alice, id);
        choose(alice, id);
        assertEq(liquidator.slopeOf(alice), id);
        assertEq(liquidator.betaOf(alice), 0.6e18);
        assertEq(liquidator.slopeOf(bob), 0);
        choose(alice, 0);
        assertEq(liquidator.slopeOf(alice), 0);
    }

    function test_only_an_offered_slope_is_chosen_and_only_by_the_owner() public {
        uint16 id = add(early());
        chooseExpecting(Slopes.NotOffered.selector, alice, id);
        chooseExpecting(Slopes.NotOffered.selector, alice, id + 1);
        vm.prank(admin);
        registry.offerSlope(id, true);
        vm.expectPartialRevert(Slopes.NotOwner.selector);
        vm.prank(ownerOf_(bob));
        registry.chooseSlope(alice, id);
        choose(alice, id);
    }

    function test_a_slope_that_is_offered_no_longer_stays_with_who_chose_it() public {
        uint16 id = offer(early());
        choose(alice, id);
        vm.prank(admin);
        registry.offerSlope(id, false);
        assertEq(liquidator.slopeOf(alice), id);
        chooseExpecting(Slopes.NotOffered.selector, bob, id);
    }

    function test_a_new_default_is_for_those_who_chose_nothing() public {
        uint16 chosen = offer(early());
        choose(alice, chosen);
        uint16 id = add(slower());
        vm.prank(admin);
        registry.setDefaultSlope(id);
        assertEq(liquidator.slopeOf(alice), chosen);
        assertEq(liquidator.slopeOf(bob), id);
    }

    function test_the_choice_is_refused_in_an_episode() public {
        uint16 id = offer(early());
        openAndFlag(188e18);
        chooseExpecting(Slopes.NotHealthy.selector, alice, id);
        tick(13);
        liquidator.confirm(alice, none());
        chooseExpecting(Slopes.NotHealthy.selector, alice, id);
    }

    /// @dev Ends at H = 2.5: initial margin is 12.5% at least. lambda = ln(2.5) / 1200.
    function deep() private view returns (SlopeParams memory p) {
        p = slopeParams();
        (p.beta, p.lambda, p.qMin) = (1.5e18, 763_575_609_895_129, 0.4e18);
    }

    function test_open_positions_meet_the_initial_margin_that_the_chosen_slope_asks_for() public {
        uint16 id = offer(deep());
        openAlice();
        // 2,100 is 10.5% of 20,000.
        vm.expectRevert(
            abi.encodeWithSelector(Slopes.BelowInitialMargin.selector, alice, int256(2100e18), 2500e18)
        );
        choose(alice, id);
        assertEq(liquidator.slopeOf(alice), 0);
        deposit(alice, address(usd), 400e18);
        choose(alice, id);
    }

    function test_a_chosen_slope_raises_the_initial_margin_of_new_positions() public {
        uint16 id = offer(deep());
        choose(alice, id);
        deposit(alice, address(usd), 2100e18);
        deposit(bob, address(usd), 100_000e18);
        tradeExpecting(
            abi.encodePacked(Clearing.BelowInitialMargin.selector), alice, bob, ETH_PERP, 100e18, 200e18
        );
        trade(alice, bob, ETH_PERP, 84e18, 200e18);
    }

    // --- the early slope ---

    /// @dev H = 1.25 at 190.4: 2,100 - 960 against 952, less a little.
    uint256 private constant BETWEEN = 190.5e18;

    function openEarly() private {
        uint16 id = offer(early());
        choose(alice, id);
        openAlice();
        tick(12);
        setPrice(ETH, BETWEEN);
    }

    function test_an_account_above_maintenance_is_flagged_and_confirmed_where_its_owner_chose_so() public {
        openEarly();
        (Margin memory f,,) = margins(alice);
        assertGt(f.equity, int256(f.requirement));
        assertLt(f.equity * 1e18, 1.3e18 * int256(f.requirement));
        vm.expectPartialRevert(Liquidator.NotBreached.selector);
        flag(bob);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        assertState(alice, State.Confirmed);
        assertEq(liquidator.flagOf(alice).slope, 1);
    }

    function test_early_slices_begin_between_initial_and_maintenance_margin_and_cost_less() public {
        openEarly();
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        // H is 1.2: nothing goes until the slope has come down to it.
        liquidateExpecting(Liquidator.NotBreached.selector, alice, taker);
        uint256 waited;
        while (true) {
            tick(30);
            ++waited;
            liquidator.poke(alice);
            (,, Margin memory m) = margins(alice);
            uint256 q = Slope.decay(early(), liquidator.flagOf(alice).tau);
            if (Slope.scaled(m.equity, q) < int256(m.requirement)) break;
        }
        assertGt(waited, 5);
        (,, Margin memory before) = margins(alice);
        assertGt(before.equity, int256(before.requirement));
        int256 cash = cashOf(taker);
        liquidate(alice, taker);
        (int256 size,) = leg(taker, ETH_PERP);
        assertGt(size, 0);
        uint256 since = liquidator.flagOf(alice).tau - liquidator.flagOf(alice).tauAtConfirm;
        uint256 fee = Slope.fee(early(), since, WAD) * (uint256(size) * BETWEEN / WAD) / WAD;
        assertEq(cashOf(taker) - cash, int256(fee * 0.8e18 / WAD));
        assertLt(Slope.fee(early(), since, WAD), Slope.fee(slopeParams(), since, WAD));
    }

    function test_the_early_slope_ends_at_one_and_its_beta() public {
        openEarly();
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        grind(80, early());
        assertState(alice, State.Healthy);
        (Margin memory f,,) = margins(alice);
        assertGe(f.equity * 1e18, 1.45e18 * int256(f.requirement));
        assertLe(f.equity * 1e18, 1.6e18 * int256(f.requirement) + 1e36);
    }

    /// @dev Half a minute at a time, each time a slice if the slope asks for one.
    function grind(uint256 steps, SlopeParams memory p) private {
        for (uint256 i; i < steps && stateOf(alice) == State.Confirmed; ++i) {
            tick(30);
            liquidator.poke(alice);
            (,, Margin memory m) = margins(alice);
            uint256 q = Slope.decay(p, liquidator.flagOf(alice).tau);
            if (Slope.scaled(m.equity, q) < int256(m.requirement)) liquidate(alice, taker);
        }
    }

    function test_an_alarm_is_cured_by_its_own_slope_when_the_default_changes() public {
        openAndFlag(188e18);
        SlopeParams memory longer = early();
        longer.betaFlag = 0;
        uint16 id = add(longer);
        vm.prank(admin);
        registry.setDefaultSlope(id);
        tick(13);
        // H = 1.17: enough by the slope of the alarm, which asks for 1.1, and not by the new default's 1.45.
        deposit(alice, address(usd), 200e18);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
    }

    function test_an_early_account_is_cured_at_its_own_level() public {
        openEarly();
        flag(alice);
        // H = 1.45 needs 1,381.125.
        deposit(alice, address(usd), 231e18);
        vm.expectPartialRevert(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
        deposit(alice, address(usd), 1e18);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
    }

    // --- running episodes ---

    function test_a_running_episode_keeps_its_slope_when_the_default_changes() public {
        openAndConfirm(188e18);
        uint16 id = add(slower());
        vm.prank(admin);
        registry.setDefaultSlope(id);
        assertEq(liquidator.slopeOf(alice), 0);
        assertEq(liquidator.slopeOf(bob), id);
        int256 cash = cashOf(taker);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
        // 0.5% of 940, of which the taker has 80%.
        assertEq(cashOf(taker) - cash, 3.76e18);
        grind(60, slopeParams());
        assertState(alice, State.Healthy);
        // The next one follows the new default.
        assertEq(liquidator.slopeOf(alice), id);
    }

    function test_the_next_episode_follows_the_new_default() public {
        openAndFlag(188e18);
        uint16 id = add(slower());
        vm.prank(admin);
        registry.setDefaultSlope(id);
        deposit(alice, address(usd), 500e18);
        liquidator.cure(alice, none());
        setPrice(ETH, 182e18);
        flag(alice);
        assertEq(liquidator.flagOf(alice).slope, id);
        tick(13);
        liquidator.confirm(alice, none());
        int256 cash = cashOf(taker);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
        assertEq(cashOf(taker) - cash, 0.05e18 * 18_200 * 0.01e18 / 1e18 * 8 / 10);
    }

    function test_a_carried_clock_is_cut_to_the_new_slope() public {
        SlopeParams memory p = slopeParams();
        (p.lambda, p.tSlope) = (p.lambda * 4, 300);
        uint16 id = add(p);
        openAndFlag(188e18);
        for (uint256 i; i < 20; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        deposit(alice, address(usd), 500e18);
        liquidator.cure(alice, none());
        vm.prank(admin);
        registry.setDefaultSlope(id);
        setPrice(ETH, 182e18);
        flag(alice);
        assertApproxEqAbs(liquidator.flagOf(alice).tau, 300, 1);
    }

    // --- what a reducing trade may cost ---

    function test_the_terms_of_a_reduction_are_the_slopes_of_the_account() public {
        uint16 id = offer(early());
        openAlice();
        (uint256 fee, uint256 band) = liquidator.reduceTerms(alice);
        assertEq(fee, 0.005e18);
        assertEq(band, 0.01e18);
        choose(alice, id);
        (fee, band) = liquidator.reduceTerms(alice);
        assertEq(fee, 0.002e18);
    }

    function test_the_terms_of_a_reduction_widen_after_the_confirmation() public {
        openAndConfirm(188e18);
        for (uint256 i; i < 10; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        uint256 t = liquidator.flagOf(alice).tau - liquidator.flagOf(alice).tauAtConfirm;
        (uint256 fee, uint256 band) = liquidator.reduceTerms(alice);
        assertEq(band, 0.01e18 + 0.01e18 * t / 60);
        assertEq(fee, Slope.fee(slopeParams(), t, liquidator.flagOf(alice).feeCap));
    }
}
