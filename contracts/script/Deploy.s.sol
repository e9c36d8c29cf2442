// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Script} from "forge-std/Script.sol";
import {console} from "forge-std/console.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {TestAggregator} from "../demo/TestAggregator.sol";
import {TestToken} from "../demo/TestToken.sol";
import {Backstop} from "../src/Backstop.sol";
import {Breaker} from "../src/Breaker.sol";
import {Clearing} from "../src/Clearing.sol";
import {FastOracle} from "../src/FastOracle.sol";
import {Kind, Market, WAD} from "../src/HybridTypes.sol";
import {Instruments} from "../src/Instruments.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {MarginEngine} from "../src/MarginEngine.sol";
import {MarginReader} from "../src/MarginReader.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {Ramp} from "../src/Ramp.sol";
import {RiskArrays} from "../src/RiskArrays.sol";
import {RiskSteward} from "../src/RiskSteward.sol";
import {SlopeParams} from "../src/Slope.sol";
import {Slopes} from "../src/Slopes.sol";
import {Vault} from "../src/Vault.sol";
import {IAggregatorV3, IAnswerBounds} from "../src/interfaces/IAggregatorV3.sol";
import {ISlowOracle} from "../src/interfaces/ISlowOracle.sol";
import {ChainlinkAdapter} from "../src/slow/ChainlinkAdapter.sol";

/// @title Deploy the protocol, hand it to a timelock, and look whether all is as it was asked for
/// @notice The environment variable CONFIG names a TOML file; script/example.toml explains every entry. `run`
/// deploys and verifies; `verify(reader)` verifies what was deployed before, from the address of its MarginReader.
contract Deploy is Script {
    using SafeCast for int256;
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    uint256 internal constant TIMELOCK_DELAY = 48 hours;
    /// @dev EIP-170.
    uint256 internal constant CODE_MAX = 24_576;
    uint256 internal constant BPS = 1e14;
    uint256 internal constant E8 = 1e10;

    string internal config;
    address internal deployer;

    FastOracle internal fastOracle;
    ChainlinkAdapter internal adapter;
    OracleRouter internal router;
    Vault internal vault;
    Instruments internal instruments;
    RiskArrays internal riskArrays;
    RiskSteward internal riskSteward;
    Clearing internal clearing;
    MarginEngine internal engine;
    Backstop internal backstop;
    Breaker internal breaker;
    Liquidator internal liquidator;
    Slopes internal slopes;
    MarginReader internal reader;
    TimelockController internal timelock;
    address internal quote;

    error ZeroAddress(string entry);
    error EmptyList(string entry);
    error BadName(string name);
    error NotAsAsked(string what);

    /// @notice Deploy, set up, hand over, verify.
    function run() external {
        _readConfig();
        vm.startBroadcast();
        (, deployer,) = vm.readCallers();
        _deployOracles();
        _deployModules();
        _bind();
        _list();
        _seed();
        _handOver();
        vm.stopBroadcast();
        _verify();
        // Only now: whoever deployed must have nothing left to say, and what the insurance holds will not stay.
        _verifyLeft(deployer);
        _check(backstop.insurance() == _in(".backstop", ".seed") * WAD, ".backstop.seed");
        _print();
    }

    /// @notice Compare a deployment with CONFIG; reverts NotAsAsked with the first difference.
    function verify(MarginReader reader_) external {
        _readConfig();
        reader = reader_;
        (clearing, liquidator, slopes) = (reader.clearing(), reader.liquidator(), reader.slopes());
        (instruments, backstop, router) = (reader.instruments(), reader.backstop(), reader.router());
        riskArrays = RiskArrays(address(reader.riskArrays()));
        riskSteward = RiskSteward(instruments.steward());
        breaker = Breaker(address(reader.breaker()));
        engine = MarginEngine(address(clearing.engine()));
        (vault, quote, fastOracle) = (clearing.vault(), clearing.quote(), router.fastOracle());
        timelock = TimelockController(payable(clearing.owner()));
        (ISlowOracle slow,,,,) = router.feeds(_feedId(_names(".feeds")[0]));
        adapter = ChainlinkAdapter(address(slow));
        _verify();
        _print();
    }

    // --- deploying ---

    function _deployOracles() private {
        fastOracle = new FastOracle(deployer);
        fastOracle.setSigners(_addresses(".reporters.signers"), _uint(".reporters.quorum"));
        adapter = new ChainlinkAdapter(deployer);
        router = new OracleRouter(fastOracle, deployer);
        address uptime = _address(".sequencer.uptime");
        if (uptime != address(0)) {
            router.setSequencer(IAggregatorV3(uptime), _uint(".sequencer.grace_s").toUint32());
        }
        string[] memory feeds = _names(".feeds");
        for (uint256 i; i < feeds.length; ++i) {
            _deployFeed(string.concat(".feed.", feeds[i]), _feedId(feeds[i]));
        }
    }

    function _deployFeed(string memory at, bytes32 feedId) private {
        (uint256 lower, uint256 upper) = (_in(at, ".lower_e8"), _in(at, ".upper_e8"));
        address aggregator = _address(string.concat(at, ".aggregator"));
        if (aggregator == address(0)) {
            _requireDemo(string.concat(at, ".aggregator"));
            // Its own bounds lie outside the adapter's, as those of a real one should.
            (int192 low, int192 high) = ((lower / 10).toInt256().toInt192(), (upper * 10).toInt256().toInt192());
            TestAggregator demo = new TestAggregator(8, low, high, deployer);
            demo.update(_in(at, ".demo_price_e8").toInt256());
            aggregator = address(demo);
        }
        address bounds = _address(string.concat(at, ".bounds"));
        adapter.setSource(
            feedId,
            IAggregatorV3(aggregator),
            IAnswerBounds(bounds == address(0) ? aggregator : bounds),
            _in(at, ".max_age_s").toUint32(),
            (lower * E8).toUint128(),
            (upper * E8).toUint128()
        );
        router.setFeed(
            feedId,
            adapter,
            _bps(at, ".deviation_bps"),
            _in(at, ".heartbeat_s").toUint32(),
            _in(at, ".min_delay_s").toUint32()
        );
    }

    function _deployModules() private {
        vault = new Vault(deployer);
        quote = _token(".quote");
        instruments = new Instruments(vault, router, quote, deployer);
        riskArrays = new RiskArrays(fastOracle, router, instruments);
        riskSteward = new RiskSteward(fastOracle, instruments, deployer);
        clearing = new Clearing(vault, router, instruments, riskArrays, quote, deployer);
        engine = new MarginEngine(clearing, instruments, riskArrays, router);
        backstop = new Backstop(vault, clearing, router, instruments, quote, deployer);
        breaker = new Breaker(router, _address(".roles.guardian"), deployer);
        liquidator =
            new Liquidator(clearing, engine, instruments, backstop, breaker, _slope("default"), deployer);
        slopes = liquidator.registry();
        reader = new MarginReader(clearing, liquidator);
    }

    function _bind() private {
        vault.addModule(address(clearing));
        vault.addModule(address(liquidator));
        vault.addModule(address(backstop));
        instruments.setSteward(address(riskSteward));
        clearing.bind(address(liquidator), address(engine), address(backstop), address(breaker));
        backstop.setShares(_bps(".backstop", ".share_bps"), _bps(".backstop", ".account_share_bps"));
        string[] memory offered = _names(".offered_slopes");
        for (uint256 i; i < offered.length; ++i) {
            slopes.offerSlope(slopes.addSlope(_slope(offered[i])), true);
        }
    }

    function _list() private {
        string[] memory names = _names(".feeds");
        for (uint256 i; i < names.length; ++i) {
            string memory at = string.concat(".feed.", names[i]);
            bytes32 feedId = _feedId(names[i]);
            instruments.listUnderlying(
                feedId,
                _bps(at, ".mmr_bps"),
                _bps(at, ".imr_bps"),
                _bps(at, ".short_min_bps"),
                (_in(at, ".bucket_cap") * WAD).toUint128()
            );
            if (_stewarded(at)) riskSteward.setBounds(feedId, _bounds(at));
            if (_bool(at, ".perp")) instruments.listPerp(feedId);
        }
        names = _names(".options");
        for (uint256 i; i < names.length; ++i) {
            string memory at = string.concat(".option.", names[i]);
            uint128 strike = (_in(at, ".strike_e8") * E8).toUint128();
            instruments.listOption(_feedOf(at), strike, _expiry(at), _bool(at, ".call"));
        }
        names = _names(".collaterals");
        for (uint256 i; i < names.length; ++i) {
            string memory at = string.concat(".collateral.", names[i]);
            instruments.listCollateral(
                _token(at),
                _feedOf(at),
                _bps(at, ".h_mm_bps"),
                _bps(at, ".h_im_bps"),
                _bps(at, ".sale_disc_max_bps"),
                (_in(at, ".cap") * WAD).toUint128()
            );
        }
    }

    /// @dev The insurance's first quote, out of the deployer's own.
    function _seed() private {
        uint256 amount = _in(".backstop", ".seed") * WAD;
        if (amount == 0) return;
        uint256 units = amount / vault.scaleOf(quote);
        if (_address(".quote.token") == address(0)) TestToken(quote).mint(deployer, units);
        IERC20(quote).forceApprove(address(vault), units);
        vault.deposit(quote, units, deployer);
        backstop.fund(amount);
    }

    /// @dev One operation, while the delay is still nought: the timelock accepts every contract, lets the
    /// executors in, and raises its own delay. The executors come last because an operation that anyone may
    /// carry out could be carried out before the script does, and the script would stop half-way.
    function _handOver() private {
        address[] memory first = new address[](1);
        first[0] = deployer;
        address[] memory proposers = _addresses(".roles.proposers");
        address[] memory executors = _addresses(".roles.executors");
        // A timelock that nobody can ask, or that nobody can make act, would own everything for ever.
        if (proposers.length == 0) revert EmptyList(".roles.proposers");
        if (executors.length == 0) revert EmptyList(".roles.executors");
        timelock = new TimelockController(0, first, first, address(0));
        Ownable2Step[] memory owned = _owned();

        uint256 count = owned.length + 2 * proposers.length + executors.length + 1;
        address[] memory targets = new address[](count);
        bytes[] memory calls = new bytes[](count);
        for (uint256 i; i < count; ++i) {
            targets[i] = address(timelock);
        }
        uint256 n;
        for (uint256 i; i < owned.length; ++i) {
            owned[i].transferOwnership(address(timelock));
            targets[n] = address(owned[i]);
            calls[n++] = abi.encodeCall(Ownable2Step.acceptOwnership, ());
        }
        for (uint256 i; i < proposers.length; ++i) {
            calls[n++] = abi.encodeCall(timelock.grantRole, (timelock.PROPOSER_ROLE(), proposers[i]));
            calls[n++] = abi.encodeCall(timelock.grantRole, (timelock.CANCELLER_ROLE(), proposers[i]));
        }
        for (uint256 i; i < executors.length; ++i) {
            calls[n++] = abi.encodeCall(timelock.grantRole, (timelock.EXECUTOR_ROLE(), executors[i]));
        }
        calls[n] = abi.encodeCall(timelock.updateDelay, (TIMELOCK_DELAY));

        timelock.scheduleBatch(targets, new uint256[](count), calls, 0, 0, 0);
        timelock.executeBatch(targets, new uint256[](count), calls, 0, 0);
        if (!_contains(proposers, deployer)) {
            timelock.renounceRole(timelock.PROPOSER_ROLE(), deployer);
            timelock.renounceRole(timelock.CANCELLER_ROLE(), deployer);
        }
        if (!_contains(executors, deployer)) timelock.renounceRole(timelock.EXECUTOR_ROLE(), deployer);
    }

    /// @dev Every contract that somebody owns.
    function _owned() private view returns (Ownable2Step[] memory owned) {
        owned = new Ownable2Step[](10);
        (owned[0], owned[1], owned[2]) = (fastOracle, adapter, router);
        (owned[3], owned[4], owned[5]) = (vault, instruments, clearing);
        (owned[6], owned[7], owned[8], owned[9]) = (backstop, breaker, slopes, riskSteward);
    }

    // --- verifying ---

    function _verify() private view {
        _verifyOwners();
        _verifyBindings();
        _verifyReporters();
        _verifyFeeds();
        _verifyMarkets();
        _verifyCollaterals();
        _verifySlopes();
        _verifySizes();
    }

    function _verifyOwners() private view {
        Ownable2Step[] memory owned = _owned();
        for (uint256 i; i < owned.length; ++i) {
            _check(owned[i].owner() == address(timelock), string.concat("owner of ", vm.toString(address(owned[i]))));
            _check(owned[i].pendingOwner() == address(0), "nobody else is to become an owner");
        }
        _check(timelock.getMinDelay() == TIMELOCK_DELAY, "delay of the timelock");
        _check(timelock.hasRole(timelock.DEFAULT_ADMIN_ROLE(), address(timelock)), "the timelock governs itself");
        address[] memory proposers = _addresses(".roles.proposers");
        for (uint256 i; i < proposers.length; ++i) {
            _check(timelock.hasRole(timelock.PROPOSER_ROLE(), proposers[i]), "proposers");
            _check(timelock.hasRole(timelock.CANCELLER_ROLE(), proposers[i]), "cancellers");
        }
        address[] memory executors = _addresses(".roles.executors");
        for (uint256 i; i < executors.length; ++i) {
            _check(timelock.hasRole(timelock.EXECUTOR_ROLE(), executors[i]), "executors");
        }
        _check(breaker.guardian() == _address(".roles.guardian"), "guardian");
    }

    /// @dev What a role's holder is cannot be listed on chain, but one address can be asked for.
    function _verifyLeft(address who) private view {
        _check(!timelock.hasRole(timelock.DEFAULT_ADMIN_ROLE(), who), "the deployer governs the timelock");
        if (!_contains(_addresses(".roles.proposers"), who)) {
            _check(!timelock.hasRole(timelock.PROPOSER_ROLE(), who), "the deployer proposes");
            _check(!timelock.hasRole(timelock.CANCELLER_ROLE(), who), "the deployer cancels");
        }
        if (!_contains(_addresses(".roles.executors"), who)) {
            _check(!timelock.hasRole(timelock.EXECUTOR_ROLE(), who), "the deployer executes");
        }
    }

    function _verifyBindings() private view {
        _check(vault.isModule(address(clearing)), "vault: clearing");
        _check(vault.isModule(address(liquidator)), "vault: liquidator");
        _check(vault.isModule(address(backstop)), "vault: backstop");
        _check(clearing.liquidator() == address(liquidator), "clearing: liquidator");
        _check(address(clearing.engine()) == address(engine), "clearing: engine");
        _check(address(clearing.backstop()) == address(backstop), "clearing: backstop");
        _check(address(clearing.breaker()) == address(breaker), "clearing: breaker");
        _check(address(clearing.vault()) == address(vault), "clearing: vault");
        _check(address(clearing.router()) == address(router), "clearing: router");
        _check(address(clearing.instruments()) == address(instruments), "clearing: instruments");
        _check(address(clearing.riskArrays()) == address(riskArrays), "clearing: riskArrays");
        _check(clearing.quote() == quote && vault.scaleOf(quote) != 0, "clearing: quote");
        _check(address(engine.clearing()) == address(clearing), "engine: clearing");
        _check(address(engine.instruments()) == address(instruments), "engine: instruments");
        _check(address(engine.riskArrays()) == address(riskArrays), "engine: riskArrays");
        _check(address(engine.router()) == address(router), "engine: router");
        _check(address(liquidator.clearing()) == address(clearing), "liquidator: clearing");
        _check(address(liquidator.engine()) == address(engine), "liquidator: engine");
        _check(address(liquidator.instruments()) == address(instruments), "liquidator: instruments");
        _check(address(liquidator.backstop()) == address(backstop), "liquidator: backstop");
        _check(address(liquidator.breaker()) == address(breaker), "liquidator: breaker");
        _check(address(liquidator.registry()) == address(slopes), "liquidator: slopes");
        _verifyOtherBindings();
    }

    function _verifyOtherBindings() private view {
        _check(address(backstop.clearing()) == address(clearing), "backstop: clearing");
        _check(address(backstop.vault()) == address(vault), "backstop: vault");
        _check(address(backstop.router()) == address(router), "backstop: router");
        _check(address(backstop.instruments()) == address(instruments), "backstop: instruments");
        _check(backstop.quote() == quote, "backstop: quote");
        _check(backstop.share() == _bps(".backstop", ".share_bps"), "backstop: share");
        _check(backstop.accountShare() == _bps(".backstop", ".account_share_bps"), "backstop: accountShare");
        _check(address(breaker.router()) == address(router), "breaker: router");
        _check(address(instruments.vault()) == address(vault), "instruments: vault");
        _check(address(instruments.router()) == address(router), "instruments: router");
        _check(instruments.quote() == quote, "instruments: quote");
        _check(address(riskArrays.fastOracle()) == address(fastOracle), "riskArrays: fastOracle");
        _check(address(riskArrays.router()) == address(router), "riskArrays: router");
        _check(address(riskArrays.instruments()) == address(instruments), "riskArrays: instruments");
        _check(address(riskSteward.fastOracle()) == address(fastOracle), "riskSteward: fastOracle");
        _check(address(riskSteward.instruments()) == address(instruments), "riskSteward: instruments");
        _check(address(router.fastOracle()) == address(fastOracle), "router: fastOracle");
        _check(address(reader.clearing()) == address(clearing), "reader: clearing");
        _check(address(reader.liquidator()) == address(liquidator), "reader: liquidator");
    }

    function _verifyReporters() private view {
        address[] memory signers = _addresses(".reporters.signers");
        _check(fastOracle.quorum() == _uint(".reporters.quorum"), "quorum");
        for (uint256 i; i < signers.length; ++i) {
            _check(fastOracle.signers(i) == signers[i], "signers");
        }
        (bool more,) = address(fastOracle).staticcall(abi.encodeCall(fastOracle.signers, (signers.length)));
        _check(!more, "signers that nobody asked for");
    }

    function _verifyFeeds() private view {
        (IAggregatorV3 uptime, uint32 grace) = router.sequencer();
        _check(address(uptime) == _address(".sequencer.uptime"), "sequencer: uptime");
        if (address(uptime) != address(0)) _check(grace == _uint(".sequencer.grace_s"), "sequencer: grace");
        string[] memory names = _names(".feeds");
        for (uint256 i; i < names.length; ++i) {
            string memory at = string.concat(".feed.", names[i]);
            bytes32 feedId = _feedId(names[i]);
            (ISlowOracle slow, uint64 deviation, uint32 heartbeat, uint32 minDelay,) = router.feeds(feedId);
            _check(address(slow) == address(adapter), string.concat(at, ": slow source"));
            _check(deviation == _bps(at, ".deviation_bps"), string.concat(at, ".deviation_bps"));
            _check(heartbeat == _in(at, ".heartbeat_s"), string.concat(at, ".heartbeat_s"));
            _check(minDelay == _in(at, ".min_delay_s"), string.concat(at, ".min_delay_s"));
            _verifyMargins(at, feedId);
            _verifySource(at, feedId);
        }
    }

    /// @dev Margins that a quorum has moved since are within its bounds; all others are as they were asked for.
    function _verifyMargins(string memory at, bytes32 feedId) private view {
        Instruments.Underlying memory u = instruments.underlying(feedId);
        _check(_rests(u.shortMin, _bps(at, ".short_min_bps")), string.concat(at, ".short_min_bps"));
        _check(u.bucketCap == _in(at, ".bucket_cap") * WAD, string.concat(at, ".bucket_cap"));
        RiskSteward.Bounds memory b = _boundsOf(feedId);
        RiskSteward.Bounds memory asked;
        if (_stewarded(at)) asked = _bounds(at);
        _check(keccak256(abi.encode(b)) == keccak256(abi.encode(asked)), string.concat(at, ": what a quorum may"));
        (, uint256 changedAt) = riskSteward.last(feedId);
        if (changedAt == 0) {
            _check(_rests(u.mmr, _bps(at, ".mmr_bps")), string.concat(at, ".mmr_bps"));
            _check(_rests(u.imr, _bps(at, ".imr_bps")), string.concat(at, ".imr_bps"));
        } else {
            _check(u.mmr.to >= b.mmrLeast && u.mmr.to <= b.mmrMost, string.concat(at, ".mmr_bps"));
            _check(u.imr.to >= b.imrLeast && u.imr.to <= b.imrMost, string.concat(at, ".imr_bps"));
        }
    }

    function _boundsOf(bytes32 feedId) private view returns (RiskSteward.Bounds memory b) {
        (b.mmrLeast, b.mmrMost, b.imrLeast, b.imrMost, b.rise, b.fall, b.interval) = riskSteward.bounds(feedId);
    }

    function _verifySource(string memory at, bytes32 feedId) private view {
        (IAggregatorV3 aggregator,, uint32 maxAge, bool composed, uint128 lower, uint128 upper) =
            adapter.sources(feedId);
        address asked = _address(string.concat(at, ".aggregator"));
        _check(asked == address(0) || asked == address(aggregator), string.concat(at, ".aggregator"));
        _check(!composed, string.concat(at, ": one aggregator only"));
        _check(maxAge == _in(at, ".max_age_s"), string.concat(at, ".max_age_s"));
        _check(lower == _in(at, ".lower_e8") * E8, string.concat(at, ".lower_e8"));
        _check(upper == _in(at, ".upper_e8") * E8, string.concat(at, ".upper_e8"));
    }

    function _verifyMarkets() private view {
        uint16 id;
        string[] memory names = _names(".feeds");
        for (uint256 i; i < names.length; ++i) {
            if (!_bool(string.concat(".feed.", names[i]), ".perp")) continue;
            Market memory m = instruments.market(++id);
            _check(m.feedId == _feedId(names[i]) && m.kind == Kind.Perp, string.concat("perp of ", names[i]));
        }
        names = _names(".options");
        for (uint256 i; i < names.length; ++i) {
            string memory at = string.concat(".option.", names[i]);
            Market memory m = instruments.market(++id);
            _check(m.feedId == _feedOf(at), string.concat(at, ".feed"));
            _check(m.kind == (_bool(at, ".call") ? Kind.Call : Kind.Put), string.concat(at, ".call"));
            _check(m.strike == _in(at, ".strike_e8") * E8, string.concat(at, ".strike_e8"));
            // Of one that was given as a span only the deployment's own time would tell more.
            bool dated = vm.keyExistsToml(config, string.concat(at, ".expiry"));
            _check(dated ? m.expiry == _in(at, ".expiry") : m.expiry != 0, string.concat(at, ": expiry"));
        }
        _check(instruments.marketCount() == id, "markets that nobody asked for");
    }

    function _verifyCollaterals() private view {
        string[] memory names = _names(".collaterals");
        for (uint8 i; i < names.length; ++i) {
            string memory at = string.concat(".collateral.", names[i]);
            Instruments.Collateral memory c = instruments.collateralTerms(i + 1);
            address asked = _address(string.concat(at, ".token"));
            _check(asked == address(0) || asked == c.token, string.concat(at, ".token"));
            _check(vault.scaleOf(c.token) != 0, string.concat(at, ": unknown to the vault"));
            _check(c.feedId == _feedOf(at), string.concat(at, ".feed"));
            _check(_rests(c.hMM, _bps(at, ".h_mm_bps")), string.concat(at, ".h_mm_bps"));
            _check(_rests(c.hIM, _bps(at, ".h_im_bps")), string.concat(at, ".h_im_bps"));
            _check(c.saleDiscMax == _bps(at, ".sale_disc_max_bps"), string.concat(at, ".sale_disc_max_bps"));
            _check(c.cap == _in(at, ".cap") * WAD, string.concat(at, ".cap"));
        }
        _check(instruments.collateralCount() == names.length, "collaterals that nobody asked for");
    }

    function _verifySlopes() private view {
        _check(slopes.defaultSlope() == 0, "default slope");
        _check(_same(slopes.slopes(0), _slope("default")), ".slope.default");
        string[] memory offered = _names(".offered_slopes");
        for (uint16 i; i < offered.length; ++i) {
            string memory at = string.concat(".slope.", offered[i]);
            _check(_same(slopes.slopes(i + 1), _slope(offered[i])), at);
            _check(slopes.offered(i + 1), string.concat(at, ": offered"));
        }
        _check(slopes.slopeCount() == offered.length + 1, "slopes that nobody asked for");
    }

    function _verifySizes() private view {
        address[14] memory all = _all();
        for (uint256 i; i < all.length; ++i) {
            uint256 size = all[i].code.length;
            _check(size > 0 && size < CODE_MAX, string.concat("code size of ", vm.toString(all[i])));
        }
    }

    function _all() private view returns (address[14] memory) {
        return [
            address(fastOracle),
            address(adapter),
            address(router),
            address(vault),
            address(instruments),
            address(riskArrays),
            address(riskSteward),
            address(clearing),
            address(engine),
            address(backstop),
            address(breaker),
            address(liquidator),
            address(slopes),
            address(reader)
        ];
    }

    function _print() private view {
        string[14] memory names = [
            "FastOracle",
            "ChainlinkAdapter",
            "OracleRouter",
            "Vault",
            "Instruments",
            "RiskArrays",
            "RiskSteward",
            "Clearing",
            "MarginEngine",
            "Backstop",
            "Breaker",
            "Liquidator",
            "Slopes",
            "MarginReader"
        ];
        address[14] memory all = _all();
        for (uint256 i; i < all.length; ++i) {
            console.log(names[i], all[i]);
        }
        console.log("TimelockController", address(timelock));
        console.log("quote", quote);
        console.log("insurance, whole units of quote", backstop.insurance() / WAD);
        for (uint8 i = 1; i <= instruments.collateralCount(); ++i) {
            console.log("collateral", instruments.collateralTerms(i).token);
        }
        string[] memory feeds = _names(".feeds");
        for (uint256 i; i < feeds.length; ++i) {
            (IAggregatorV3 aggregator,,,,,) = adapter.sources(_feedId(feeds[i]));
            console.log(string.concat("aggregator ", feeds[i]), address(aggregator));
        }
    }

    // --- the file ---

    function _readConfig() private {
        config = vm.readFile(vm.envString("CONFIG"));
    }

    function _uint(string memory key) private view returns (uint256) {
        return vm.parseTomlUint(config, key);
    }

    function _address(string memory key) private view returns (address) {
        return vm.parseTomlAddress(config, key);
    }

    function _addresses(string memory key) private view returns (address[] memory) {
        return vm.parseTomlAddressArray(config, key);
    }

    function _names(string memory key) private view returns (string[] memory) {
        return vm.parseTomlStringArray(config, key);
    }

    function _in(string memory table, string memory entry) private view returns (uint256) {
        return _uint(string.concat(table, entry));
    }

    function _bps(string memory table, string memory entry) private view returns (uint64) {
        return (_in(table, entry) * BPS).toUint64();
    }

    function _bool(string memory table, string memory entry) private view returns (bool) {
        return vm.parseTomlBool(config, string.concat(table, entry));
    }

    /// @dev The feed's name in ASCII, padded with zeros on the right, as the keeper reads it.
    function _feedId(string memory feed) private view returns (bytes32) {
        string memory name = vm.parseTomlString(config, string.concat(".feed.", feed, ".name"));
        if (bytes(name).length == 0 || bytes(name).length > 32) revert BadName(name);
        return bytes32(bytes(name));
    }

    function _feedOf(string memory table) private view returns (bytes32) {
        return _feedId(vm.parseTomlString(config, string.concat(table, ".feed")));
    }

    function _expiry(string memory table) private view returns (uint40) {
        if (vm.keyExistsToml(config, string.concat(table, ".expiry"))) return _in(table, ".expiry").toUint40();
        return (block.timestamp + _in(table, ".expires_in_s")).toUint40();
    }

    function _stewarded(string memory at) private view returns (bool) {
        return vm.keyExistsToml(config, string.concat(at, ".steward"));
    }

    function _bounds(string memory at) private view returns (RiskSteward.Bounds memory b) {
        at = string.concat(at, ".steward");
        (b.mmrLeast, b.mmrMost) = (_bps(at, ".mmr_least_bps"), _bps(at, ".mmr_most_bps"));
        (b.imrLeast, b.imrMost) = (_bps(at, ".imr_least_bps"), _bps(at, ".imr_most_bps"));
        (b.rise, b.fall) = (_bps(at, ".rise_bps"), _bps(at, ".fall_bps"));
        b.interval = _in(at, ".interval_s").toUint40();
    }

    function _slope(string memory name) private view returns (SlopeParams memory p) {
        string memory at = string.concat(".slope.", name);
        (p.beta, p.betaCure, p.betaFlag) =
            (_bps(at, ".beta_bps"), _bps(at, ".beta_cure_bps"), _bps(at, ".beta_flag_bps"));
        p.tSlope = _in(at, ".t_slope_s").toUint32();
        p.lambda = uint64(uint256(FixedPointMathLib.lnWad(int256(WAD + p.beta))) / p.tSlope);
        p.qMin = uint64((WAD * WAD + WAD + p.beta - 1) / (WAD + p.beta));
        (p.k0, p.k1, p.tK) = (_bps(at, ".k0_bps"), _bps(at, ".k1_bps"), _in(at, ".t_k_s").toUint32());
        (p.theta, p.bandBase) = (_bps(at, ".theta_bps"), _bps(at, ".band_base_bps"));
        (p.bandRate, p.bandMax) = (_bps(at, ".band_rate_bps"), _bps(at, ".band_max_bps"));
        (p.stepCap, p.stepWindow) = (_bps(at, ".step_cap_bps"), _in(at, ".step_window_s").toUint32());
        (p.minSlice, p.dust) = ((_in(at, ".min_slice") * WAD).toUint128(), (_in(at, ".dust") * WAD).toUint128());
    }

    /// @dev The token of a table, or a demo token in its place; known to the vault from here on.
    function _token(string memory table) private returns (address token) {
        token = _address(string.concat(table, ".token"));
        if (token == address(0)) {
            _requireDemo(string.concat(table, ".token"));
            string memory symbol = vm.parseTomlString(config, string.concat(table, ".symbol"));
            token = address(new TestToken(symbol, symbol, _in(table, ".decimals").toUint8()));
        }
        vault.acceptToken(token);
    }

    function _requireDemo(string memory key) private view {
        if (!vm.parseTomlBool(config, ".demo")) revert ZeroAddress(key);
    }

    // --- small questions ---

    function _check(bool holds, string memory what) private pure {
        if (!holds) revert NotAsAsked(what);
    }

    /// @dev At this value, and on the way to no other.
    function _rests(Ramp memory r, uint256 value) private pure returns (bool) {
        return r.from == value && r.to == value;
    }

    function _same(SlopeParams memory a, SlopeParams memory b) private pure returns (bool) {
        return keccak256(abi.encode(a)) == keccak256(abi.encode(b));
    }

    function _contains(address[] memory list, address one) private pure returns (bool) {
        for (uint256 i; i < list.length; ++i) {
            if (list[i] == one) return true;
        }
        return false;
    }
}
