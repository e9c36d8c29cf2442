// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {Clearing} from "../../src/Clearing.sol";
import {Book, Kind, Leg, Margin, Market, State, WAD} from "../../src/HybridTypes.sol";
import {Liquidator} from "../../src/Liquidator.sol";
import {MarginMath} from "../../src/MarginMath.sol";
import {Portfolio} from "../../src/Portfolio.sol";
import {Slope, SlopeParams} from "../../src/Slope.sol";
import {Slopes} from "../../src/Slopes.sol";
import {Base} from "../Base.t.sol";

/// @notice Owners, takers, flaggers, oracles and time, each act taking one random word; and the rules that must
/// hold after any of them. What a rule needs to see around an act is looked at in the act and kept in `broken`.
contract Handler is Base {
    uint256 internal constant OWNERS = 4;
    uint256 internal constant SLACK = 1e6;
    /// @dev Days until the options in trade expire.
    uint256 internal constant TERM = 3 days;

    /// @dev The accounts now in use, and every account ever used.
    bytes32[] internal live;
    bytes32[] public all;
    bytes32 internal maker;
    bytes32 internal idle;
    /// @dev Time is kept here: a run may forget a warp between two acts.
    uint256 internal clock;
    uint256 internal height;

    Slopes internal registry;
    uint16 internal earlySlope;
    /// @dev The call and the put in trade, both of one expiry.
    uint16[] internal options;
    uint40 internal expiry;

    mapping(string act => uint256) public count;
    string public broken;
    /// @dev Wei that roundings may have left with the Clearing, and the loss indices up to which they are counted.
    uint256 internal rounding;
    mapping(uint256 market => uint256) internal indexSeen;

    struct Seen {
        uint256 flaggedAt;
        uint256 tau;
    }

    mapping(bytes32 acct => Seen) internal seen;
    mapping(bytes32 feedId => uint256) internal observedAt;

    modifier act() {
        vm.warp(clock);
        vm.roll(height);
        _;
        (clock, height) = (nowS(), vm.getBlockNumber());
        watch();
    }

    function setUp() public override {
        super.setUp();
        (maker, idle) = (newAccount("maker"), newAccount("idle"));
        for (uint256 i; i < OWNERS; ++i) {
            live.push(newAccount(string.concat("owner", vm.toString(i))));
            all.push(live[i]);
            deposit(live[i], address(usd), 2000e18);
            deposit(live[i], address(weth), 5e18);
        }
        deposit(maker, address(usd), 1e25);
        deposit(taker, address(usd), 1e24);
        deposit(taker2, address(usd), 50_000e18);
        deposit(taker2, address(weth), 500e18);
        deposit(idle, address(usd), 777e18);
        deposit(idle, address(weth), 7e18);
        fundCredit(flagger, address(usd), 1e25);
        all.push(maker);
        all.push(taker);
        all.push(taker2);
        all.push(idle);
        registry = liquidator.registry();
        vm.startPrank(admin);
        earlySlope = registry.addSlope(early());
        registry.offerSlope(earlySlope, true);
        instruments.setBucketCap(ETH, 40_000e18);
        vm.stopPrank();
        drainInsurance();
        listOptions();
        (clock, height) = (nowS(), vm.getBlockNumber());
    }

    /// @dev Flagged below H = 1.3; ends at 1.6. The band is the default's.
    function early() private view returns (SlopeParams memory p) {
        p = slopeParams();
        (p.beta, p.betaCure, p.betaFlag) = (0.6e18, 0.45e18, 0.3e18);
        (p.lambda, p.qMin) = (391_669_691_038_113, 0.625e18);
        (p.k0, p.k1) = (0.002e18, 0.01e18);
    }

    /// @dev Little is left, and little of it may be drawn, so that markets must bear losses.
    function drainInsurance() private {
        vm.prank(admin);
        backstop.setShares(1e18, 1e18);
        vm.prank(address(liquidator));
        clearing.payFromInsurance(maker, maker, 9_500e18);
        vm.prank(admin);
        backstop.setShares(0.1e18, 0.05e18);
    }

    function slopeOf(bytes32 acct) private view returns (SlopeParams memory) {
        return registry.slopes(liquidator.slopeOf(acct));
    }

    /// @dev A call and a put near the money.
    function listOptions() private {
        expiry = uint40(nowS() + TERM);
        uint128 strike = uint128(fastPrice[ETH] / 1e18 * 1e18);
        delete options;
        options.push(listOption(ETH, strike, expiry, true));
        options.push(listOption(ETH, strike, expiry, false));
        postArrays(options);
    }

    function expired() private view returns (bool) {
        return nowS() >= expiry;
    }

    /// @dev Mostly an actor brings fresh prices, and new risk arrays.
    function freshen(uint256 seed) private {
        if (seed % 4 == 0) return;
        tick(1 + seed % 13);
        freshenOptions();
    }

    function freshenOptions() private {
        if (!expired()) postArrays(options);
        else if (riskArrays.settlement(ETH, expiry) == 0) try riskArrays.settle(ETH, expiry) {} catch {}
    }

    /// @dev The slow oracle comes to within a per cent of the fast one.
    function align(uint256 apart) private {
        slowPrice[ETH] = fastPrice[ETH] * (1000 - apart) / 1000;
        slowPrice[BTC] = fastPrice[BTC] * (1000 + apart) / 1000;
        slowPrice[SOL] = fastPrice[SOL];
        tick(12);
        freshenOptions();
    }

    // --- oracles and time ---

    /// @dev A joint walk: every feed by the same factor and a little of its own; sometimes a crash, sometimes the
    /// slow oracle lags.
    function move(uint256 seed) public act {
        pass(1 + seed % 14);
        bool crash = (seed >> 16) % 6 == 0;
        int256 common = int256((seed >> 24) % 401) - 200;
        if (crash) common = (seed >> 40) % 3 == 0 ? int256(700) : -int256(500 + (seed >> 48) % 900);
        // Now and then so deep that nothing is left of an account.
        if ((seed >> 176) % 40 == 0 && fastPrice[ETH] > 120e18) common = -3500;
        step(ETH, 200e18, common + int256((seed >> 64) % 101) - 50, (seed >> 80) % 4 != 0);
        step(BTC, 1000e18, common + int256((seed >> 96) % 101) - 50, (seed >> 112) % 4 != 0);
        step(SOL, 10e18, common + int256((seed >> 128) % 101) - 50, (seed >> 144) % 4 != 0);
        count["move"]++;
    }

    function step(bytes32 feedId, uint256 start, int256 bps, bool slowToo) private {
        uint256 price = fastPrice[feedId] * uint256(10_000 + bps) / 10_000;
        // The walk turns back at a quarter and at four times where it began.
        if (price < start / 4) price = price * 115 / 100;
        if (price > start * 4) price = price * 85 / 100;
        setFast(feedId, price);
        setSlow(feedId, slowToo ? price : slowPrice[feedId]);
    }

    function rest(uint256 seed) public act {
        tick(1 + seed % 40);
        count["rest"]++;
    }

    /// @dev No oracle says a word.
    function stall(uint256 seed) public act {
        pass(1 + seed % 60);
        count["stall"]++;
    }

    function outage(uint256 seed) public act {
        if (seed % 12 == 0) pass(6 hours);
        count["outage"]++;
    }

    /// @dev The fast oracle falls silent, so that the slow one acts alone; somebody slices by it.
    function hush(uint256 seed) public act {
        bytes32 acct = find(State.Confirmed, seed >> 8);
        if (acct == 0 && seed % 4 != 0) return;
        // Long enough for silent prices, too short for silent arrays.
        freshenOptions();
        pass(600);
        uint256 thousandths = (seed >> 16) % 2 == 0 ? 900 : 1050;
        setSlow(ETH, slowPrice[ETH] * thousandths / 1000);
        setSlow(BTC, slowPrice[BTC] * thousandths / 1000);
        setSlow(SOL, slowPrice[SOL] * thousandths / 1000);
        count["hush"]++;
        if (acct == 0) return;
        uint256 tau = liquidator.flagOf(acct).tau;
        if (cut(acct, terms(acct, taker))) count["sliceInSilence"]++;
        if (liquidator.flagOf(acct).tau != tau) broken = "the clock ran in silence";
    }

    // --- owners ---

    function pick(uint256 seed) private returns (bytes32 acct) {
        uint256 i = seed % OWNERS;
        if (stateOf(live[i]) == State.Closed) {
            // A closed account stays closed: its owner begins another.
            live[i] = bytes32(uint256(live[i]) + 1);
            all.push(live[i]);
            deposit(live[i], address(usd), 1000e18 + seed % 1000e18);
            deposit(live[i], address(weth), 1e18 + seed % 9e18);
        }
        return live[i];
    }

    function open(uint256 seed) public act {
        bytes32 acct = 0;
        for (uint256 i; i < OWNERS; ++i) {
            acct = pick(seed % OWNERS + i);
            if (stateOf(acct) == State.Healthy && book(acct).legs.length < 2) break;
        }
        if (stateOf(acct) != State.Healthy) return;
        align(1);
        int256 cash = book(acct).cash;
        if (cash < 1000e18) deposit(acct, address(usd), uint256(1500e18 - (cash < 0 ? cash : int256(0))));
        // Near full leverage, so that something happens.
        uint256 notional = uint256(book(acct).cash) * (3 + (seed >> 32) % 7);
        tradeWithMaker(acct, uint16(1 + (seed >> 8) % 3), notional, (seed >> 16) % 3 != 0, "open");
    }

    /// @dev Options alone, or beside what the account has: bought and sold, calls and puts.
    function openOption(uint256 seed) public act {
        bytes32 acct = pick(seed);
        if (stateOf(acct) != State.Healthy || expired()) return;
        align(1);
        if (book(acct).cash < 1000e18) deposit(acct, address(usd), 1500e18);
        uint256 notional = uint256(book(acct).cash < 0 ? int256(0) : book(acct).cash) * (1 + (seed >> 32) % 8);
        tradeWithMaker(acct, options[(seed >> 8) % 2], notional, (seed >> 16) % 2 == 0, "openOption");
    }

    function choose(uint256 seed) public act {
        bytes32 acct = pick(seed);
        freshen(seed >> 40);
        vm.prank(ownerOf_(acct));
        try registry.chooseSlope(acct, (seed >> 8) % 3 == 0 ? 0 : earlySlope) {
            count["choose"]++;
        } catch {}
    }

    function reduce(uint256 seed) public act {
        bytes32 acct = pick(seed);
        Book memory b = book(acct);
        if (b.legs.length == 0) return;
        uint256 i = (seed >> 8) % b.legs.length;
        uint256 price = fastPrice[b.legs[i].feedId];
        uint256 size = uint256(b.legs[i].size > 0 ? b.legs[i].size : -b.legs[i].size);
        uint256 part = (seed >> 16) % 4 == 0 ? size : size * ((seed >> 32) % 1000) / 1000;
        tradeWithMaker(acct, b.legs[i].market, part * price / WAD, b.legs[i].size < 0, "reduce");
    }

    function tradeWithMaker(bytes32 acct, uint16 market, uint256 notional, bool buys, string memory what) private {
        (uint256 price,, uint256 underlying,,,,) = engine.fair(market);
        int256 size = int256(notional * WAD / underlying);
        if (!buys) size = -size;
        rounding += 2;
        Clearing.Order memory a = order(acct, market, size, price);
        Clearing.Order memory b = order(maker, market, -size, price);
        (bytes memory signedA, bytes memory signedB) = (signed(a), signed(b));
        try clearing.trade(a, signedA, b, signedB, uint128(price), none()) {
            count[what]++;
        } catch {}
    }

    function putIn(uint256 seed) public act {
        bytes32 acct = pick(seed);
        uint256 kind = (seed >> 8) % 6;
        uint256 amount = (seed >> 16) % 4 == 0 ? 1 : (seed >> 32) % 400e18 + 1;
        if (kind == 0 && takes(acct, WBTC)) deposit(acct, address(wbtc), amount / 1000 + 1);
        else if (kind == 1 && takes(acct, WETH)) deposit(acct, address(weth), amount / 200 + 1);
        else deposit(acct, address(usd), amount);
        count["putIn"]++;
    }

    /// @dev In an episode an account takes only the collateral that it holds.
    function takes(bytes32 acct, uint8 id) private view returns (bool) {
        if (stateOf(acct) == State.Healthy || stateOf(acct) == State.Closed) return true;
        Book memory b = book(acct);
        for (uint256 j; j < b.holdings.length; ++j) {
            if (b.holdings[j].collateral == id) return true;
        }
        return false;
    }

    function takeOut(uint256 seed) public act {
        bytes32 acct = pick(seed);
        Book memory b = book(acct);
        vm.startPrank(ownerOf_(acct));
        if (seed % 2 == 0 && b.holdings.length > 0) {
            (address token,,,) = instruments.collateral(b.holdings[0].collateral);
            uint256 amount = (seed >> 8) % 3 == 0 ? b.holdings[0].amount : b.holdings[0].amount / 3;
            try clearing.withdraw(acct, token, amount) {
                count["takeOut"]++;
            } catch {}
        } else if (b.cash > 0) {
            try clearing.withdraw(acct, address(usd), uint256(b.cash) / (1 + (seed >> 8) % 5)) {
                count["takeOut"]++;
            } catch {}
        }
        vm.stopPrank();
    }

    // --- the life of a breach ---

    function find(State state, uint256 seed) private view returns (bytes32 acct) {
        for (uint256 i; i < OWNERS + 1; ++i) {
            uint256 at = (seed % (OWNERS + 1) + i) % (OWNERS + 1);
            acct = at == OWNERS ? taker2 : live[at];
            if (stateOf(acct) == state) {
                if (state != State.Healthy) return acct;
                (Margin memory m,,) = margins(acct);
                if (MarginMath.below(m, WAD + slopeOf(acct).betaFlag)) return acct;
            }
        }
        return 0;
    }

    function below(Margin memory m) private pure returns (bool) {
        return m.equity < int256(m.requirement);
    }

    function raise(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = find(State.Healthy, seed);
        if (acct == 0) return;
        vm.prank(flagger);
        try liquidator.flag(acct, none()) {
            count["flag"]++;
        } catch {}
    }

    /// @dev A wick on the fast price alone, somebody flags in it, and it is over.
    function wick(uint256 seed) public act {
        tick(12);
        uint256 price = fastPrice[ETH];
        bool down = seed % 2 == 0;
        setFast(ETH, down ? price * 85 / 100 : price * 115 / 100);
        bytes32 acct = find(State.Healthy, seed >> 8);
        if (acct != 0) {
            vm.prank(flagger);
            try liquidator.flag(acct, none()) {
                count["flag"]++;
            } catch {}
        }
        setFast(ETH, price);
        tick(2);
    }

    function clear(uint256 seed) public act {
        bytes32 acct = find(State.Flagged, seed);
        if (acct == 0) return;
        try liquidator.clear(acct, none()) {
            count["clear"]++;
        } catch {}
    }

    function expire(uint256 seed) public act {
        bytes32 acct = find(State.Flagged, seed);
        if (acct == 0) return;
        if ((seed >> 40) % 2 == 0) pass(6 hours);
        try liquidator.expire(acct) {
            count["expire"]++;
        } catch {}
    }

    function poke(uint256 seed) public act {
        bytes32 acct = find(seed % 2 == 0 ? State.Flagged : State.Confirmed, seed >> 8);
        if (acct == 0) return;
        liquidator.poke(acct);
        count["poke"]++;
    }

    function confirm(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = find(State.Flagged, seed);
        if (acct == 0) return;
        try liquidator.confirm(acct, none()) {
            count["confirm"]++;
        } catch {}
    }

    function cure(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = find(seed % 3 == 0 ? State.Flagged : State.Confirmed, seed >> 8);
        if (acct == 0) return;
        (Margin memory f, Margin memory s,) = margins(acct);
        uint256 level = WAD + slopeOf(acct).betaCure;
        bool safe = !MarginMath.below(f, level) && !MarginMath.below(s, level) && book(acct).legs.length > 0;
        bool fresh = router.price(ETH).fastFresh && router.price(BTC).fastFresh && router.price(SOL).fastFresh
            && router.price(ETH).slowFresh && router.price(BTC).slowFresh && router.price(SOL).slowFresh;
        try liquidator.cure(acct, none()) {
            count["cure"]++;
        } catch {
            if (safe && fresh) broken = "an account that is safe at both oracles could not be cured";
        }
    }

    /// @dev Somebody sends a wei first, as a front-runner would.
    function slice(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = find(State.Confirmed, seed);
        if (acct == 0) return;
        bytes32 by = (seed >> 8) % 3 == 0 && acct != taker2 ? taker2 : taker;
        Liquidator.SliceTerms memory t = terms(acct, by);
        if ((seed >> 16) % 4 == 0) t.fMax = uint64((seed >> 32) % WAD);
        if ((seed >> 24) % 4 == 0) deposit(acct, address(usd), 1);
        cut(acct, t);
    }

    function cut(bytes32 acct, Liquidator.SliceTerms memory t) private returns (bool) {
        liquidator.poke(acct);
        SlopeParams memory p = slopeOf(acct);
        bool breached = breachedAt(acct, Slope.decay(p, liquidator.flagOf(acct).tau));
        (,, Margin memory before) = margins(acct);
        rounding += 2 * book(acct).legs.length;
        vm.prank(ownerOf_(t.taker));
        try liquidator.liquidate(acct, t, none()) {}
        catch {
            return false;
        }
        count["slice"]++;
        if (!breached) broken = "a slice without a breach at all three prices";
        State state = stateOf(acct);
        if (state == State.Closed) count["insolvent"]++;
        if (state == State.Healthy) count["selfCure"]++;
        compare(acct, before, p.beta);
        return true;
    }

    function breachedAt(bytes32 acct, uint256 q) private view returns (bool) {
        (Margin memory f, Margin memory s, Margin memory l) = margins(acct);
        return Slope.scaled(f.equity, q) < int256(f.requirement)
            && Slope.scaled(s.equity, q) < int256(s.requirement)
            && Slope.scaled(l.equity, q) < int256(l.requirement);
    }

    function compare(bytes32 acct, Margin memory before, uint256 beta) private {
        (,, Margin memory later) = margins(acct);
        if (before.equity > 0 && (later.equity + int256(SLACK)) * int256(before.requirement)
                < before.equity * (int256(later.requirement) - int256(SLACK))) {
            broken = "a slice lowered health";
        }
        // What is left requires of M what it is of N: every leg lost the same share.
        uint256 left = later.requirement * before.notional;
        if (FixedPointMathLib.dist(left, before.requirement * later.notional) > SLACK * before.notional) {
            broken = "a slice changed the shape of a book";
        }
        // A slice raised to the smallest one, or a book closed as dust, may end above.
        bool small = later.notional == 0 || before.notional - later.notional <= 101e18;
        if (before.equity > 0 && !small
                && later.equity * 1e18 > (int256(later.requirement) + int256(SLACK)) * int256(WAD + beta + 1e8)) {
            broken = "a slice overshot the target of the slope";
        }
    }

    /// @dev An account below its requirement at all three prices, whose feeds stay fresh for T_min, is always
    /// confirmed, and then sliced by a taker with funds.
    function rescue(uint256 seed) public act {
        align(5);
        bytes32 acct = find(State.Healthy, seed);
        if (acct == 0 || !breachedAtAll(acct)) return;
        flag(acct);
        for (uint256 i; i < 5; ++i) {
            tick(12);
        }
        freshenOptions();
        confirmAndSlice(acct);
    }

    function breachedAtAll(bytes32 acct) private view returns (bool) {
        (Margin memory f, Margin memory s, Margin memory l) = margins(acct);
        return below(f) && below(s) && below(l);
    }

    function confirmAndSlice(bytes32 acct) private {
        try liquidator.confirm(acct, none()) {
            count["confirm"]++;
        } catch {
            broken = "a breached account could not be confirmed";
            return;
        }
        deposit(taker, address(usd), 1e24);
        count["rescue"]++;
        if (!cut(acct, terms(acct, taker))) broken = "a confirmed account could not be sliced by a taker with funds";
    }

    /// @dev At constant prices a confirmed account ends: cured, closed, or without a position.
    function grind(uint256 seed) public act {
        bytes32 acct = find(State.Confirmed, seed);
        if (acct == 0) return;
        align(0);
        deposit(taker, address(usd), 1e24);
        for (uint256 i; i < 60 && stateOf(acct) == State.Confirmed; ++i) {
            tick(30);
            freshenOptions();
            if (cut(acct, terms(acct, taker))) continue;
            try liquidator.cure(acct, none()) {
                count["cure"]++;
            } catch {}
        }
        count["grind"]++;
        if (stateOf(acct) == State.Confirmed && book(acct).legs.length > 0) {
            broken = "a confirmed account at constant prices did not end";
        }
    }

    /// @dev One that has nothing but debt and collateral, or any.
    function debtor(uint256 seed) private returns (bytes32 acct) {
        for (uint256 i; i < OWNERS; ++i) {
            (,,, uint256 debtSince,,) = clearing.status(live[i]);
            if (debtSince != 0) return live[i];
        }
        return pick(seed);
    }

    function buy(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = debtor(seed);
        Book memory b = book(acct);
        if (b.holdings.length == 0) return;
        vm.prank(flagger);
        try liquidator.buyCollateral(acct, b.holdings[0].collateral, 1e30 >> (seed % 60), 0) {
            count["buy"]++;
        } catch {}
    }

    function writeOff(uint256 seed) public act {
        bytes32 acct = live[seed % OWNERS];
        try liquidator.writeOff(acct) {
            count["writeOff"]++;
        } catch {}
    }

    // --- options' ends ---

    /// @dev Once the price is fixed, anyone pays out anyone; when nobody holds the old pair a new one is listed.
    function settle(uint256 seed) public act {
        if ((seed >> 8) % 4 == 0 && !expired()) pass(expiry - nowS());
        if (!expired()) return;
        align(0);
        if (riskArrays.settlement(ETH, expiry) == 0) return;
        uint256 at = seed % (all.length + 1);
        // The maker, who stands on the other side of all, comes in between; at last everybody.
        for (uint256 i; i < all.length; ++i) {
            if (at == all.length || i == at) settleBoth(all[i]);
        }
        if (clearing.openInterest(options[0]) + clearing.openInterest(options[1]) == 0) {
            listOptions();
            count["renew"]++;
        }
    }

    function settleBoth(bytes32 acct) private {
        for (uint256 i; i < 2; ++i) {
            (Margin memory before,,) = margins(acct);
            ++rounding;
            try clearing.settle(acct, options[i]) {
                count["settle"]++;
            } catch {
                continue;
            }
            (Margin memory later,,) = margins(acct);
            if (later.equity != before.equity || later.requirement != before.requirement) {
                broken = "a settlement changed an account's margin";
            }
        }
    }

    // --- the admin, the guardian, and the losses ---

    /// @dev Somebody raises the breaker; nobody can act against it; and it comes down by itself.
    function brake(uint256 seed) public act {
        if (seed % 3 != 0) return;
        uint256 level = 1 + (seed >> 8) % 3;
        freshen(1);
        vm.prank(guardian);
        breaker.raise(level);
        if (level > 1) tryAgainstBrake(seed, level);
        deposit(pick(seed), address(usd), 1);
        pass(6 hours * level);
        assertEq(breaker.level(), 0);
        count["brake"]++;
    }

    function tryAgainstBrake(uint256 seed, uint256 level) private {
        bytes32 acct = find(State.Healthy, seed);
        if (acct != 0) {
            vm.prank(flagger);
            try liquidator.flag(acct, none()) {
                broken = "an alarm at breaker level 2";
            } catch {}
        }
        acct = find(State.Flagged, seed);
        if (acct != 0) {
            try liquidator.confirm(acct, none()) {
                broken = "a confirmation at breaker level 2";
            } catch {}
        }
        acct = find(State.Confirmed, seed);
        if (acct == 0) return;
        uint256 tau = liquidator.flagOf(acct).tau;
        if (cut(acct, terms(acct, taker)) && level > 2) broken = "a slice at breaker level 3";
        if (liquidator.flagOf(acct).tau != tau) broken = "the clock ran at breaker level 2";
    }

    /// @dev No change of terms moves anybody's margin against him in the block in which it is made.
    function ramp(uint256 seed) public act {
        uint256[] memory before = requirements();
        uint64 mmr = uint64(0.04e18 + (seed >> 8) % 0.02e18);
        uint64 hMM = uint64(0.75e18 + (seed >> 80) % 0.08e18);
        vm.startPrank(admin);
        try instruments.setMargins(ETH, mmr, 2 * mmr, 0.01e18, uint40(24 hours + (seed >> 40) % 24 hours)) {
            count["ramp"]++;
        } catch {}
        try instruments.setHaircuts(WETH, hMM, hMM - 0.1e18, uint40(24 hours)) {} catch {}
        vm.stopPrank();
        uint256[] memory later = requirements();
        for (uint256 i; i < before.length; ++i) {
            if (later[i] > before[i]) broken = "a change of terms raised a requirement at once";
        }
    }

    function requirements() private view returns (uint256[] memory m) {
        m = new uint256[](all.length);
        for (uint256 i; i < all.length; ++i) {
            (Margin memory f,,) = margins(all[i]);
            m[i] = f.requirement;
        }
    }

    function socialise(uint256 seed) public act {
        freshen(seed >> 40);
        if (seed % 2 == 0) {
            try backstop.cover() {
                count["cover"]++;
            } catch {}
        }
        uint16 market = 1;
        while (market < instruments.marketCount() && backstop.owed(market) == 0) ++market;
        try backstop.socialise(market) {
            count["socialise"]++;
        } catch {}
    }

    // --- the rules ---

    /// @dev An index is rounded up for the whole open interest, and each position's share of it once more.
    function countRounding() private {
        for (uint256 m = 1; m <= instruments.marketCount(); ++m) {
            uint256 index = clearing.lossIndex(uint16(m));
            if (index == indexSeen[m]) continue;
            indexSeen[m] = index;
            rounding += clearing.openInterest(uint16(m)) / WAD + 2 + all.length;
            count["loss"]++;
        }
    }

    /// @dev What must not go backwards, after every act.
    function watch() private {
        countRounding();
        for (uint256 i; i < all.length; ++i) {
            Liquidator.Flag memory f = liquidator.flagOf(all[i]);
            Seen storage was = seen[all[i]];
            if (f.flaggedAt == was.flaggedAt && f.tau < was.tau) broken = "tau fell within an episode";
            (was.flaggedAt, was.tau) = (f.flaggedAt, f.tau);
        }
        for (uint256 i; i < 3; ++i) {
            bytes32 feedId = i == 0 ? ETH : i == 1 ? BTC : SOL;
            (, uint256 at,) = fastOracle.read(feedId);
            if (at < observedAt[feedId]) broken = "the fast oracle went back in time";
            observedAt[feedId] = at;
        }
    }

    /// @dev What is judged now is judged at the handler's own time, which forge's does not follow.
    modifier now_() {
        vm.warp(clock);
        vm.roll(height);
        _;
    }

    /// @notice Every rule at once; reverts with the one that does not hold.
    function check() external {
        checkRules();
        checkAccounts();
        checkQuote();
        checkMarkets();
        checkTokens();
        checkIdle();
    }

    /// @notice What an act or a slice broke, or what went backwards.
    function checkRules() public view {
        assertEq(broken, "");
    }

    /// @notice Users without positions lose nothing, whatever becomes of the others.
    function checkIdle() public now_ {
        Book memory untouched = book(idle);
        assertEq(untouched.cash, 777e18, "a user without positions loses nothing");
        assertEq(untouched.holdings[0].amount, 7e18, "a user without positions loses nothing");
    }

    function books() private view returns (Book[] memory all_) {
        all_ = new Book[](all.length);
        for (uint256 i; i < all.length; ++i) {
            all_[i] = book(all[i]);
        }
    }

    function checkAccounts() public now_ {
        Book[] memory all_ = books();
        for (uint256 i; i < all.length; ++i) {
            checkAccount(all[i], all_[i]);
        }
    }

    /// @dev Cash and quote legs, and what settled options pay.
    function quoteOf(Book memory b) private pure returns (int256 quote) {
        quote = b.cash;
        for (uint256 j; j < b.legs.length; ++j) {
            Leg memory l = b.legs[j];
            quote += l.quoteLeg;
            if (l.settlement != 0) {
                quote += MarginMath.mulWadFloor(l.size, Portfolio.payoff(l.kind, l.strike, l.settlement));
            }
        }
    }

    function checkAccount(bytes32 acct, Book memory b) private view {
        for (uint256 j; j < b.legs.length; ++j) {
            assertTrue(b.legs[j].size != 0, "an empty leg stays in the list");
        }
        for (uint256 j; j < b.holdings.length; ++j) {
            assertGt(b.holdings[j].amount, 0, "an empty holding stays in the list");
        }
        (State state,,, uint256 debtSince,,) = clearing.status(acct);
        assertEq(debtSince != 0, b.cash < 0 && b.legs.length == 0, "the debt clock runs while only debt is left");
        assertEq(
            liquidator.flagOf(acct).bond != 0, state == State.Flagged, "a bond is held while flagged and not longer"
        );
    }

    /// @notice Cash, quote legs, insurance and bonds less bad debt are the quote that is held.
    function checkQuote() public now_ {
        int256 quote;
        Book[] memory all_ = books();
        for (uint256 i; i < all_.length; ++i) {
            quote += quoteOf(all_[i]);
        }
        int256 left = int256(quoteCredit(address(clearing))) + int256(backstop.badDebt())
            - int256(backstop.insurance()) - quote;
        assertGe(left, 0, "cash, quote legs, insurance and bad debt are covered by the quote held");
        assertLe(left, int256(rounding), "and nothing is left over but roundings");
        uint256 bonds;
        for (uint256 i; i < all.length; ++i) {
            bonds += liquidator.flagOf(all[i]).bond;
        }
        assertEq(quoteCredit(address(liquidator)), bonds, "the liquidator holds the bonds and nothing else");
        assertEq(quoteCredit(address(backstop)), 0, "the backstop holds numbers only");
        uint256 owed = backstop.unassigned();
        for (uint256 m = 1; m <= instruments.marketCount(); ++m) {
            owed += backstop.owed(uint16(m));
        }
        assertEq(owed, backstop.badDebt(), "bad debt is owed by the markets, or unassigned");
    }

    /// @notice Sizes of a market sum to zero; open interest is their sum without sign.
    function checkMarkets() public now_ {
        Book[] memory all_ = books();
        uint256 markets = instruments.marketCount();
        int256[] memory sizes = new int256[](markets + 1);
        uint256[] memory interest = new uint256[](markets + 1);
        for (uint256 i; i < all_.length; ++i) {
            Leg[] memory legs = all_[i].legs;
            for (uint256 j; j < legs.length; ++j) {
                sizes[legs[j].market] += legs[j].size;
                interest[legs[j].market] += MarginMath.abs(legs[j].size);
            }
        }
        for (uint256 m = 1; m <= markets; ++m) {
            assertEq(clearing.openInterest(uint16(m)), interest[m], "open interest is the sum of all sizes");
            Market memory market = instruments.market(uint16(m));
            bool settled = market.kind != Kind.Perp && riskArrays.settlement(market.feedId, market.expiry) != 0;
            if (!settled) assertEq(sizes[m], 0, "sizes of a market sum to zero");
        }
        (uint256 used,) = liquidator.buckets(ETH);
        assertLe(used, instruments.bucketCap(ETH), "a bucket is never fuller than its cap");
    }

    /// @notice Collateral credits are what was paid in, token by token.
    function checkTokens() public now_ {
        Book[] memory all_ = books();
        uint256[3] memory holdings;
        for (uint256 i; i < all_.length; ++i) {
            Book memory b = all_[i];
            for (uint256 j; j < b.holdings.length; ++j) {
                holdings[b.holdings[j].collateral] += b.holdings[j].amount;
            }
        }
        assertEq(clearing.collateralTotal(WETH), holdings[WETH], "WETH held");
        assertEq(clearing.collateralTotal(WBTC), holdings[WBTC], "WBTC held");
        assertEq(vault.credit(address(weth), address(clearing)), holdings[WETH], "WETH credit");
        assertEq(vault.credit(address(wbtc), address(clearing)), holdings[WBTC], "WBTC credit");
        assertEq(usd.balanceOf(address(vault)) * 1e12, vault.totalCredit(address(usd)), "USD in the vault");
        assertEq(weth.balanceOf(address(vault)), vault.totalCredit(address(weth)), "WETH in the vault");
        assertEq(wbtc.balanceOf(address(vault)) * 1e10, vault.totalCredit(address(wbtc)), "WBTC in the vault");
    }
}
