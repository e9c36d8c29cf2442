// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {TestToken} from "../demo/TestToken.sol";
import {Backstop} from "../src/Backstop.sol";
import {Balance, Kind, Market, Position} from "../src/HybridTypes.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {Vault} from "../src/Vault.sol";
import {IAccounts, IInstruments} from "../src/interfaces/IModules.sol";
import {StubRouter} from "./StubRouter.sol";

/// @notice Keeps open interest and loss indices as the Clearing does, and what the Backstop takes from whom.
contract StubClearing is IAccounts {
    address public liquidator;
    mapping(uint16 => uint256) public openInterest;
    mapping(uint16 => uint256) public lossIndex;
    uint256 public charged;

    function setLiquidator(address liquidator_) external {
        liquidator = liquidator_;
    }

    function setOpenInterest(uint16 market, uint256 units) external {
        openInterest[market] = units;
    }

    function account(bytes32) external pure returns (int256, Position[] memory, Balance[] memory) {
        return (0, new Position[](0), new Balance[](0));
    }

    function chargeOpenInterest(uint16 market, uint256 amount) external {
        uint256 units = openInterest[market];
        uint256 rise = (amount * 1e18 + units - 1) / units;
        lossIndex[market] += rise;
        charged += rise * units / 1e18;
    }
}

contract StubInstruments {
    /// @dev Market 1 is ETH, market 2 BTC.
    function market(uint16 id) external pure returns (Market memory) {
        return Market(id == 1 ? bytes32("ETH") : bytes32("BTC"), Kind.Perp, 0, 0);
    }
}

abstract contract BackstopBase is Test {
    bytes32 internal constant ETH = "ETH";
    bytes32 internal constant BTC = "BTC";
    /// @dev Noon of a day of UTC.
    uint256 internal constant START = 19_676 days + 12 hours;
    bytes32 internal constant ALICE = "alice";
    bytes32 internal constant BOB = "bob";

    StubRouter internal router;
    StubClearing internal clearing;
    Vault internal vault;
    TestToken internal usd;
    Backstop internal backstop;
    address internal admin = makeAddr("admin");
    address internal donor = makeAddr("donor");
    address internal liquidator = makeAddr("liquidator");

    function setUp() public virtual {
        vm.warp(START);
        router = new StubRouter();
        router.set(ETH, 200e18, 200e18);
        router.set(BTC, 1000e18, 1000e18);
        clearing = new StubClearing();
        clearing.setLiquidator(liquidator);
        // 100,000 of notional each.
        clearing.setOpenInterest(1, 500e18);
        clearing.setOpenInterest(2, 100e18);
        vault = new Vault(admin);
        usd = new TestToken("Dollar", "USD", 6);
        backstop = new Backstop(
            vault,
            IAccounts(address(clearing)),
            OracleRouter(address(router)),
            IInstruments(address(new StubInstruments())),
            address(usd),
            admin
        );
        vm.startPrank(admin);
        vault.acceptToken(address(usd));
        vault.addModule(address(backstop));
        vm.stopPrank();
        usd.mint(donor, 1e15);
        vm.startPrank(donor);
        usd.approve(address(vault), type(uint256).max);
        vault.deposit(address(usd), 1e15, donor);
        vm.stopPrank();
    }

    function nowS() internal view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    function pass(uint256 age) internal {
        vm.warp(nowS() + age);
    }

    function fund(uint256 amount) internal {
        vm.prank(donor);
        backstop.fund(amount);
    }

    function receiveFee(uint256 amount) internal {
        vm.prank(address(clearing));
        backstop.receive_(amount);
    }

    function draw(bytes32 acct, uint256 amount) internal returns (uint256) {
        vm.prank(liquidator);
        return backstop.draw(acct, amount);
    }

    /// @dev A debt of an account whose legs were worth these notionals in markets 1 and 2.
    function absorb(bytes32 acct, uint256 debt, uint256 eth, uint256 btc) internal {
        (uint16[] memory markets, uint256[] memory notionals) = (new uint16[](2), new uint256[](2));
        (markets[0], markets[1]) = (1, 2);
        (notionals[0], notionals[1]) = (eth, btc);
        vm.prank(liquidator);
        backstop.absorb(acct, debt, markets, notionals);
    }

    function absorbWithoutLegs(bytes32 acct, uint256 debt) internal {
        vm.prank(liquidator);
        backstop.absorb(acct, debt, new uint16[](0), new uint256[](0));
    }
}

contract BackstopTest is BackstopBase {
    event InsuranceFunded(address indexed from, uint256 amount);
    event BackstopPaid(bytes32 indexed acct, uint256 amount);
    event LossSocialised(uint16 indexed market, uint256 amount, uint256 index);
    event DebtAbsorbed(bytes32 indexed acct, uint256 debt, uint256 left);
    event DebtCovered(uint256 amount);
    event DebtUnassigned(uint16 indexed market, uint256 amount);
    event DeficitSet(bool inDeficit);

    // --- money in ---

    function test_funding_moves_credit_to_the_clearing_and_raises_the_insurance() public {
        uint256 before = vault.credit(address(usd), donor);
        vm.expectEmit(address(backstop));
        emit InsuranceFunded(donor, 5e18);
        fund(5e18);
        assertEq(backstop.insurance(), 5e18);
        assertEq(vault.credit(address(usd), donor), before - 5e18);
        assertEq(vault.credit(address(usd), address(clearing)), 5e18);
        assertEq(vault.credit(address(usd), address(backstop)), 0);
    }

    function test_nobody_funds_more_than_his_credit() public {
        vm.expectPartialRevert(Vault.CreditTooLow.selector);
        backstop.fund(1);
    }

    function test_the_modules_add_what_they_moved() public {
        receiveFee(3e18);
        vm.prank(liquidator);
        backstop.receive_(4e18);
        assertEq(backstop.insurance(), 7e18);
    }

    function test_only_the_modules_receive_draw_and_absorb() public {
        bytes memory failure = abi.encodeWithSelector(Backstop.NotModule.selector, admin);
        vm.startPrank(admin);
        vm.expectRevert(failure);
        backstop.receive_(1);
        vm.expectRevert(failure);
        backstop.draw(ALICE, 1);
        vm.expectRevert(failure);
        backstop.absorb(ALICE, 1, new uint16[](0), new uint256[](0));
        vm.stopPrank();
    }

    // --- the caps ---

    function test_an_account_draws_a_quarter_of_the_epochs_base_and_all_together_half() public {
        fund(1000e18);
        vm.expectEmit(address(backstop));
        emit BackstopPaid(ALICE, 200e18);
        assertEq(draw(ALICE, 200e18), 200e18);
        assertEq(backstop.drawableBy(ALICE), 50e18);
        assertEq(draw(ALICE, 200e18), 50e18);
        assertEq(draw(ALICE, 1), 0);
        assertEq(backstop.drawable(), 250e18);
        assertEq(draw(BOB, 1000e18), 250e18);
        assertEq(backstop.drawable(), 0);
        assertEq(draw("carol", 1), 0);
        assertEq(backstop.insurance(), 500e18);
    }

    function test_the_caps_begin_afresh_with_the_day_on_what_is_left() public {
        fund(1000e18);
        draw(ALICE, 1000e18);
        draw(BOB, 1000e18);
        assertEq(backstop.epochEndsAt(), START + 12 hours);
        pass(12 hours - 1);
        assertEq(draw(ALICE, 1), 0);
        pass(1);
        assertEq(backstop.epochEndsAt(), START + 36 hours);
        assertEq(backstop.drawable(), 250e18);
        assertEq(backstop.drawableBy(ALICE), 125e18);
        assertEq(draw(ALICE, 1000e18), 125e18);
        assertEq(draw(BOB, 1000e18), 125e18);
        assertEq(draw("carol", 1), 0);
        assertEq(backstop.insurance(), 250e18);
    }

    function test_fresh_funding_counts_at_once_and_fees_from_the_next_day() public {
        fund(1000e18);
        draw(ALICE, 1000e18);
        draw(BOB, 1000e18);
        receiveFee(1000e18);
        assertEq(backstop.drawable(), 0);
        fund(100e18);
        assertEq(backstop.drawable(), 50e18);
        assertEq(backstop.drawableBy(ALICE), 25e18);
        pass(12 hours);
        assertEq(backstop.drawable(), 800e18);
    }

    function test_no_more_is_drawn_than_there_is() public {
        vm.prank(admin);
        backstop.setShares(1e18, 1e18);
        fund(10e18);
        assertEq(draw(ALICE, 11e18), 10e18);
        assertEq(backstop.insurance(), 0);
        assertEq(draw(ALICE, 1), 0);
    }

    function test_smaller_shares_hold_at_once_and_take_nothing_back() public {
        fund(1000e18);
        draw(ALICE, 250e18);
        vm.prank(admin);
        backstop.setShares(0.1e18, 0.05e18);
        assertEq(backstop.drawable(), 0);
        assertEq(backstop.drawableBy(BOB), 0);
        assertEq(draw(BOB, 1), 0);
        pass(1 days);
        assertEq(backstop.drawable(), 75e18);
        assertEq(backstop.drawableBy(BOB), 37.5e18);
    }

    function test_shares_are_set_inside_their_bounds_by_the_admin() public {
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(this)));
        backstop.setShares(0.5e18, 0.25e18);
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(Backstop.BadShare.selector, "share"));
        backstop.setShares(0.1e18 - 1, 0.25e18);
        vm.expectRevert(abi.encodeWithSelector(Backstop.BadShare.selector, "share"));
        backstop.setShares(1e18 + 1, 0.25e18);
        vm.expectRevert(abi.encodeWithSelector(Backstop.BadShare.selector, "accountShare"));
        backstop.setShares(0.5e18, 0.05e18 - 1);
        vm.expectRevert(abi.encodeWithSelector(Backstop.BadShare.selector, "accountShare"));
        backstop.setShares(0.5e18, 1e18 + 1);
        backstop.setShares(0.1e18, 0.05e18);
        backstop.setShares(1e18, 1e18);
        assertEq(backstop.share(), 1e18);
        assertEq(backstop.accountShare(), 1e18);
        vm.stopPrank();
    }

    // --- debts ---

    function test_the_insurance_pays_a_debt_that_its_caps_allow() public {
        fund(1000e18);
        vm.expectEmit(address(backstop));
        emit DebtAbsorbed(ALICE, 250e18, 0);
        absorb(ALICE, 250e18, 1, 1);
        assertEq(backstop.insurance(), 750e18);
        assertEq(backstop.badDebt(), 0);
        assertEq(clearing.charged(), 0);
    }

    function test_the_rest_is_owed_by_the_markets_by_their_notionals_and_charged_at_once() public {
        // Half the caps' 250 is gone already.
        fund(1000e18);
        draw(ALICE, 125e18);
        absorb(ALICE, 4125e18, 3e18, 1e18);
        assertEq(backstop.insurance(), 750e18);
        // Of 4,000: ETH 3,000 and BTC 1,000; a step is 1% of 100,000.
        assertEq(backstop.owed(1), 2000e18);
        assertEq(backstop.owed(2), 0);
        assertEq(backstop.badDebt(), 2000e18);
        assertEq(clearing.lossIndex(1), 2e18);
        assertEq(clearing.lossIndex(2), 10e18);
        assertEq(clearing.charged(), 2000e18);
    }

    function test_a_step_is_a_hundredth_of_the_open_interest_and_an_hour_after_the_last() public {
        absorb(ALICE, 2500e18, 1, 0);
        assertEq(backstop.owed(1), 1500e18);
        pass(1 hours - 1);
        vm.expectRevert(abi.encodeWithSelector(Backstop.NothingToSocialise.selector, uint16(1)));
        backstop.socialise(1);
        pass(1);
        router.set(ETH, 100e18, 220e18);
        vm.expectEmit(address(backstop));
        emit LossSocialised(1, 1100e18, 4.2e18);
        backstop.socialise(1);
        assertEq(backstop.owed(1), 400e18);
        pass(1 hours);
        backstop.socialise(1);
        assertEq(backstop.owed(1), 0);
        assertEq(backstop.badDebt(), 0);
        assertEq(clearing.charged(), 2500e18);
        pass(1 hours);
        vm.expectRevert(abi.encodeWithSelector(Backstop.NothingToSocialise.selector, uint16(1)));
        backstop.socialise(1);
    }

    function test_a_second_debt_within_the_hour_waits_for_the_next_step() public {
        absorb(ALICE, 500e18, 1, 0);
        assertEq(backstop.badDebt(), 0);
        absorb(BOB, 500e18, 1, 0);
        assertEq(backstop.owed(1), 500e18);
        pass(1 hours);
        backstop.socialise(1);
        assertEq(backstop.badDebt(), 0);
    }

    function test_without_a_fresh_slow_price_nothing_is_charged_and_it_stays_owed() public {
        router.setFresh(ETH, true, false);
        absorb(ALICE, 500e18, 1, 0);
        assertEq(backstop.owed(1), 500e18);
        assertEq(clearing.charged(), 0);
        vm.expectRevert(abi.encodeWithSelector(Backstop.NothingToSocialise.selector, uint16(1)));
        backstop.socialise(1);
        router.setFresh(ETH, false, true);
        backstop.socialise(1);
        assertEq(backstop.owed(1), 0);
        assertEq(clearing.charged(), 500e18);
    }

    function test_a_debt_without_legs_is_unassigned() public {
        absorbWithoutLegs(ALICE, 300e18);
        assertEq(backstop.unassigned(), 300e18);
        assertEq(backstop.badDebt(), 300e18);
        absorb(BOB, 200e18, 0, 0);
        assertEq(backstop.unassigned(), 500e18);
    }

    function test_what_a_market_could_not_bear_in_any_time_is_unassigned() public {
        absorb(ALICE, 150_000e18, 1, 0);
        assertEq(backstop.unassigned(), 50_000e18);
        assertEq(backstop.owed(1), 99_000e18);
        assertEq(backstop.badDebt(), 149_000e18);
        // Everybody leaves the market; nobody who comes later inherits it.
        clearing.setOpenInterest(1, 0);
        router.setFresh(ETH, false, false);
        pass(1 hours);
        vm.expectEmit(address(backstop));
        emit DebtUnassigned(1, 99_000e18);
        backstop.socialise(1);
        assertEq(backstop.unassigned(), 149_000e18);
        assertEq(backstop.owed(1), 0);
        assertEq(backstop.badDebt(), 149_000e18);
    }

    function test_markets_and_notionals_come_in_pairs() public {
        vm.expectRevert(abi.encodeWithSelector(Backstop.LengthsDiffer.selector, 1, 0));
        vm.prank(liquidator);
        backstop.absorb(ALICE, 1, new uint16[](1), new uint256[](0));
    }

    function test_the_parts_of_a_debt_add_up_to_it(uint256 debt, uint256[5] memory weights) public {
        debt = bound(debt, 1, 1e30);
        router.setFresh(ETH, true, false);
        router.setFresh(BTC, true, false);
        (uint16[] memory markets, uint256[] memory notionals) = (new uint16[](5), new uint256[](5));
        uint256 total;
        for (uint256 i; i < 5; ++i) {
            (markets[i], notionals[i]) = (uint16(i + 1), weights[i] % 4 == 0 ? 0 : weights[i] % 1e28);
            clearing.setOpenInterest(markets[i], 1e18);
            total += notionals[i];
        }
        vm.prank(liquidator);
        backstop.absorb(ALICE, debt, markets, notionals);
        uint256 sum = backstop.unassigned();
        for (uint256 i; i < 5; ++i) {
            sum += backstop.owed(markets[i]);
            if (total > 0) assertApproxEqAbs(backstop.owed(markets[i]), mulDiv(debt, notionals[i], total), 1);
            if (notionals[i] == 0) assertEq(backstop.owed(markets[i]), 0);
        }
        assertEq(sum, debt);
        assertEq(backstop.badDebt(), debt);
    }

    function mulDiv(uint256 x, uint256 y, uint256 z) private pure returns (uint256) {
        return x * y / z;
    }

    // --- cover ---

    function test_later_insurance_covers_what_is_unassigned_within_the_epochs_cap() public {
        absorbWithoutLegs(ALICE, 700e18);
        vm.expectRevert(abi.encodeWithSelector(Backstop.NothingToCover.selector, 700e18, 0));
        backstop.cover();
        fund(1000e18);
        vm.expectEmit(address(backstop));
        emit DebtCovered(500e18);
        backstop.cover();
        assertEq(backstop.insurance(), 500e18);
        assertEq(backstop.unassigned(), 200e18);
        assertEq(backstop.badDebt(), 200e18);
        assertEq(draw(BOB, 1), 0);
        pass(12 hours);
        backstop.cover();
        assertEq(backstop.insurance(), 300e18);
        assertEq(backstop.badDebt(), 0);
        vm.expectRevert(abi.encodeWithSelector(Backstop.NothingToCover.selector, 0, 50e18));
        backstop.cover();
    }

    // --- the gate ---

    function test_withdrawals_stand_for_a_day_while_the_debt_exceeds_the_insurance() public {
        assertFalse(backstop.gated());
        vm.expectEmit(address(backstop));
        emit DeficitSet(true);
        absorbWithoutLegs(ALICE, 1100e18);
        assertTrue(backstop.gated());
        assertEq(backstop.deficitSince(), START);
        pass(24 hours - 1);
        assertTrue(backstop.gated());
        pass(1);
        assertFalse(backstop.gated());
        // More of the same deficit does not close the gate again.
        absorbWithoutLegs(BOB, 100e18);
        assertFalse(backstop.gated());
        assertEq(backstop.deficitSince(), START);
    }

    function test_the_gate_opens_when_the_insurance_nears_the_debt_and_closes_with_a_new_deficit() public {
        absorbWithoutLegs(ALICE, 1100e18);
        fund(100e18 - 1);
        assertTrue(backstop.gated());
        vm.expectEmit(address(backstop));
        emit DeficitSet(false);
        receiveFee(1);
        assertFalse(backstop.gated());
        assertEq(backstop.deficitSince(), 0);
        pass(3 hours);
        draw(BOB, 1);
        assertTrue(backstop.gated());
        assertEq(backstop.deficitSince(), START + 3 hours);
        // It is the gate of this morning still.
        pass(21 hours - 1);
        assertTrue(backstop.gated());
        pass(1);
        assertFalse(backstop.gated());
    }

    function test_dust_of_debt_gates_nothing_while_the_insurance_is_empty() public {
        absorbWithoutLegs(ALICE, 1);
        assertFalse(backstop.gated());
        absorbWithoutLegs(ALICE, 1000e18 - 1);
        assertFalse(backstop.gated());
        assertEq(backstop.deficitSince(), 0);
        absorbWithoutLegs(ALICE, 1);
        assertTrue(backstop.gated());
    }

    /// @dev Whoever lets a deficit end and begin at will gates one day in seven.
    function test_a_gate_is_not_renewed_within_seven_days_of_its_beginning() public {
        absorbWithoutLegs(ALICE, 1001e18);
        for (uint256 day = 1; day < 7; ++day) {
            pass(1 days);
            fund(1e18);
            assertEq(backstop.deficitSince(), 0);
            absorbWithoutLegs(ALICE, 1e18);
            assertEq(backstop.deficitSince(), nowS());
            assertFalse(backstop.gated());
        }
        // Nor by a deficit that has lasted since.
        pass(1 days);
        assertFalse(backstop.gated());
        fund(1e18);
        absorbWithoutLegs(ALICE, 1e18);
        assertTrue(backstop.gated());
        assertEq(backstop.gateSince(), START + 7 days);
    }

    /// @dev Else a small debt that nobody pays would disarm the gate for as long as it stands.
    function test_more_debt_after_seven_days_begins_a_gate_within_the_same_deficit() public {
        absorbWithoutLegs(ALICE, 1001e18);
        pass(7 days - 1);
        absorbWithoutLegs(ALICE, 1e18);
        assertFalse(backstop.gated());
        pass(1);
        assertFalse(backstop.gated());
        absorbWithoutLegs(ALICE, 1e18);
        assertTrue(backstop.gated());
    }

    function test_a_loss_that_is_charged_at_once_closes_no_gate() public {
        absorb(ALICE, 1000e18, 1, 0);
        assertEq(backstop.badDebt(), 0);
        assertFalse(backstop.gated());
        absorb(ALICE, 1000e18, 0, 1);
        assertFalse(backstop.gated());
    }

    function test_a_step_that_pays_the_debt_down_opens_the_gate() public {
        absorb(ALICE, 2500e18, 1, 0);
        assertTrue(backstop.gated());
        pass(1 hours);
        backstop.socialise(1);
        assertFalse(backstop.gated());
    }

    function test_covering_opens_no_gate_by_itself() public {
        absorbWithoutLegs(ALICE, 2000e18);
        fund(600e18);
        backstop.cover();
        assertEq(backstop.insurance(), 300e18);
        assertEq(backstop.badDebt(), 1700e18);
        assertTrue(backstop.gated());
    }
}

/// @notice Random acts over days, against a ledger of the test's own.
contract BackstopStoryTest is BackstopBase {
    uint256 internal day;
    uint256 internal base;
    uint256 internal paidOut;
    uint256 internal funded;
    uint256 internal received;
    uint256 internal paidEver;
    uint256 internal absorbed;
    mapping(bytes32 => uint256) internal paidTo;

    function setUp() public override {
        super.setUp();
        (funded, day, base) = (10_000e18, START / 1 days, 10_000e18);
        fund(10_000e18);
    }

    function newDay() private {
        if (nowS() / 1 days == day) return;
        (day, base, paidOut) = (nowS() / 1 days, backstop.insurance(), 0);
    }

    function acctOf(uint256 seed) private view returns (bytes32) {
        return keccak256(abi.encode(seed % 3, day));
    }

    /// @dev What the insurance paid, read from its fall.
    function note(bytes32 acct, uint256 before) private {
        uint256 out = before - backstop.insurance();
        paidOut += out;
        paidEver += out;
        if (acct != 0) paidTo[acct] += out;
    }

    function act(uint256 which, uint256 seed) private {
        uint256 amount = seed % 4000e18;
        bytes32 acct = acctOf(seed >> 128);
        uint256 before = backstop.insurance();
        if (which == 0) {
            fund(amount);
            (funded, base) = (funded + amount, base + amount);
        } else if (which == 1) {
            receiveFee(amount / 10);
            received += amount / 10;
        } else if (which < 4) {
            uint256 paid = draw(acct, amount);
            assertEq(paid, before - backstop.insurance());
            note(acct, before);
        } else if (which < 6) {
            if (seed % 5 == 0) absorbWithoutLegs(acct, amount);
            else absorb(acct, amount, (seed >> 64) % 1e20, (seed >> 96) % 1e20);
            absorbed += amount;
            note(acct, before);
        } else if (which == 6) {
            try backstop.socialise(uint16(1 + seed % 2)) {} catch {}
        } else if (which == 7) {
            try backstop.cover() {} catch {}
            note(0, before);
        } else {
            uint256 price = 100e18 + seed % 200e18;
            router.set(ETH, price, price);
            router.setFresh(ETH, true, seed % 3 > 0);
            clearing.setOpenInterest(1, seed % 7 == 0 ? 0 : (seed >> 128) % 1000e18);
        }
    }

    function check(bytes32 acct) private view {
        assertLe(paidOut, base / 2);
        assertLe(paidTo[acct], base / 4);
        assertEq(backstop.insurance(), funded + received - paidEver);
        assertEq(backstop.badDebt(), backstop.owed(1) + backstop.owed(2) + backstop.unassigned());
        assertEq(vault.credit(address(usd), address(clearing)), funded);
        assertEq(backstop.deficitSince() != 0, backstop.badDebt() > backstop.insurance() + 1000e18);
    }

    function test_outflow_stays_within_the_caps_and_every_debt_is_paid_once(uint256 seed) public {
        uint256 drawnForTakers;
        for (uint256 i; i < 24; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            pass(seed % 5 == 0 ? (seed >> 8) % 30 hours : (seed >> 8) % 2 hours);
            newDay();
            uint256 which = (seed >> 32) % 9;
            uint256 before = paidEver;
            act(which, seed >> 40);
            if (which == 2 || which == 3) drawnForTakers += paidEver - before;
            check(acctOf(seed >> 168));
        }
        // Each debt is still owed, or the insurance paid it, or the index brought it in, up to its own rounding.
        uint256 settled = paidEver - drawnForTakers + clearing.charged() + backstop.badDebt();
        assertGe(settled, absorbed);
        assertLe(settled, absorbed + 24 * 2000);
    }
}
