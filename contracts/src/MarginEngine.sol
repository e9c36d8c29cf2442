// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {IAccounts, IInstruments, IMarginEngine, IRiskArrays} from "./interfaces/IModules.sol";
import {MarginMath} from "./MarginMath.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Portfolio} from "./Portfolio.sol";
import {Slope} from "./Slope.sol";
import {Balance, Book, FeedPrice, Kind, Leg, Margin, Market, Position, Quote, Risk, View, WAD} from "./HybridTypes.sol";

/// @title What accounts are worth, and what they must be
/// @notice Gathers an account, its terms, its options' risk arrays and both oracles' prices, and values them.
/// Keeps nothing, so that everything can be read again at any time.
contract MarginEngine is IMarginEngine {
    using MarginMath for Margin;

    IAccounts public immutable clearing;
    IInstruments public immutable instruments;
    IRiskArrays public immutable riskArrays;
    OracleRouter public immutable router;

    error StaleOracle(bytes32 feedId);

    constructor(IAccounts clearing_, IInstruments instruments_, IRiskArrays riskArrays_, OracleRouter router_) {
        (clearing, instruments, riskArrays, router) = (clearing_, instruments_, riskArrays_, router_);
    }

    /// @inheritdoc IMarginEngine
    function look(bytes32 acct, uint256 band) external view returns (View memory v) {
        v.book = _book(acct);
        v.feedIds = _feedIds(v.book);
        v.feeds = _feeds(v.feedIds);
        bool held = _price(v, band);
        v.arraysSilent = MarginMath.silent(v.book, block.timestamp);
        v.fresh = v.fastFresh && v.slowFresh && !v.arraysSilent;
        v.legPrices = new uint256[](v.book.legs.length);
        for (uint256 i; i < v.legPrices.length; ++i) {
            v.legPrices[i] = MarginMath.legPrice(v.book.legs[i], v.exec[i]);
        }
        uint256[][] memory vectors = new uint256[][](held ? 3 : 2);
        (vectors[0], vectors[1]) = (v.fast, v.slow);
        if (held) vectors[2] = v.exec;
        Margin[] memory at = MarginMath.maintenances(v.book, vectors, block.timestamp);
        (v.atFast, v.atSlow, v.atExec) = (at[0], at[1], at[held ? 2 : 0]);
    }

    /// @inheritdoc IMarginEngine
    function initial(bytes32 acct, uint256 beta) external view returns (bool ok, Margin memory worst) {
        return _initial(acct, beta, false);
    }

    /// @inheritdoc IMarginEngine
    function initialSlow(bytes32 acct, uint256 beta) external view returns (bool ok, Margin memory worst) {
        return _initial(acct, beta, true);
    }

    /// @inheritdoc IMarginEngine
    /// @dev A stale fast price gives way to a fresh slow one, and a slow price that cannot be read to the fast one.
    function fair(uint16 market)
        external
        view
        returns (
            uint256 atFast,
            uint256 atSlow,
            uint256 fast,
            uint256 slow,
            bool fastFresh,
            bool slowFresh,
            bool current
        )
    {
        Leg memory leg = _leg(market);
        (fast, slow, fastFresh, slowFresh) = _bothPrices(leg.feedId);
        (atFast, atSlow) = (MarginMath.legPrice(leg, fast), MarginMath.legPrice(leg, slow));
        current = leg.kind == Kind.Perp
            || (
                Portfolio.current(leg.array, fast, block.timestamp)
                    && Portfolio.current(leg.array, slow, block.timestamp)
            );
    }

    /// @inheritdoc IMarginEngine
    /// @dev Stale prices give way as in `fair`.
    function fairAt(uint16 market, uint256 band) external view returns (uint256 price, uint256 underlying) {
        Leg memory leg = _leg(market);
        (uint256 fast, uint256 slow,,) = _bothPrices(leg.feedId);
        underlying = Slope.executionPrice(fast, slow, band);
        price = MarginMath.legPrice(leg, underlying);
    }

    // --- inside ---

    /// @param alone whether a slow price may stand for a silent fast one
    function _initial(bytes32 acct, uint256 beta, bool alone) private view returns (bool ok, Margin memory worst) {
        Book memory b = _book(acct);
        bytes32[] memory feedIds = _feedIds(b);
        FeedPrice[] memory feeds = _feeds(feedIds);
        uint256[][] memory vectors = new uint256[][](2);
        (vectors[0], vectors[1]) = (new uint256[](feeds.length), new uint256[](feeds.length));
        for (uint256 i; i < feeds.length; ++i) {
            FeedPrice memory p = feeds[i];
            bool replaced = alone && p.silent;
            if (!(p.slowFresh && (p.fastFresh || replaced))) revert StaleOracle(feedIds[i]);
            (vectors[0][i], vectors[1][i]) = (replaced ? p.slow : p.fast, p.slow);
        }
        Margin[] memory at = MarginMath.initials(b, vectors, block.timestamp, beta);
        worst = at[at[0].below(WAD) ? 0 : 1];
        ok = !worst.below(WAD);
    }

    function _book(bytes32 acct) private view returns (Book memory b) {
        Position[] memory positions;
        Balance[] memory balances;
        (b.cash, positions, balances) = clearing.account(acct);
        b.legs = _legs(positions);
        if (balances.length > 0) b.holdings = instruments.haircuts(balances);
    }

    function _legs(Position[] memory positions) private view returns (Leg[] memory legs) {
        uint256 n = positions.length;
        legs = new Leg[](n);
        if (n == 0) return legs;
        uint16[] memory ids = new uint16[](n);
        for (uint256 i; i < n; ++i) {
            ids[i] = positions[i].market;
        }
        (Market[] memory markets, Risk[] memory risks) = instruments.terms(ids);
        uint256 options;
        for (uint256 i; i < n; ++i) {
            Leg memory leg = legs[i];
            _describe(leg, ids[i], markets[i], risks[i]);
            (leg.size, leg.quoteLeg) = (positions[i].size, positions[i].quoteLeg);
            if (_marked(leg)) ids[options++] = ids[i];
        }
        if (options == 0) return legs;
        // The front of `ids` now lists the options that a risk array marks, in the order of the legs.
        assembly {
            mstore(ids, options)
        }
        Quote[] memory quotes = riskArrays.quotes(ids);
        uint256 next;
        for (uint256 i; i < n; ++i) {
            if (_marked(legs[i])) legs[i].array = quotes[next++];
        }
    }

    function _describe(Leg memory leg, uint16 id, Market memory market, Risk memory risk) private view {
        (leg.market, leg.feedId, leg.kind, leg.risk) = (id, market.feedId, market.kind, risk);
        if (market.kind == Kind.Perp) return;
        (leg.expiry, leg.strike) = (market.expiry, market.strike);
        if (block.timestamp >= market.expiry) leg.settlement = riskArrays.settlement(market.feedId, market.expiry);
    }

    /// @dev One unit of a market.
    function _leg(uint16 market) private view returns (Leg memory leg) {
        Market memory m = instruments.market(market);
        _describe(leg, market, m, instruments.risk(m.feedId));
        leg.size = int256(WAD);
        if (!_marked(leg)) return leg;
        uint16[] memory ids = new uint16[](1);
        ids[0] = market;
        leg.array = riskArrays.quotes(ids)[0];
    }

    function _marked(Leg memory leg) private pure returns (bool) {
        return leg.kind != Kind.Perp && leg.settlement == 0;
    }

    function _feedIds(Book memory b) private pure returns (bytes32[] memory ids) {
        uint256 n = b.legs.length;
        ids = new bytes32[](n + b.holdings.length);
        for (uint256 i; i < ids.length; ++i) {
            ids[i] = i < n ? b.legs[i].feedId : b.holdings[i - n].feedId;
        }
    }

    /// @dev Both prices of every entry. Each feed is read once: a slow source's answer costs more than finding
    /// out that it was asked already.
    function _feeds(bytes32[] memory ids) private view returns (FeedPrice[] memory feeds) {
        uint256 n = ids.length;
        bytes32[] memory asked = new bytes32[](n);
        uint256[] memory at = new uint256[](n);
        uint256 different;
        for (uint256 i; i < n; ++i) {
            uint256 k;
            while (k < different && asked[k] != ids[i]) ++k;
            if (k == different) asked[different++] = ids[i];
            at[i] = k;
        }
        assembly {
            mstore(asked, different)
        }
        FeedPrice[] memory each = router.prices(asked);
        if (different == n) return each;
        feeds = new FeedPrice[](n);
        for (uint256 i; i < n; ++i) {
            feeds[i] = each[at[i]];
        }
    }

    /// @dev The three price vectors and how fresh they are. A feed whose fast source is silent is judged, and
    /// executed, at its slow price alone.
    /// @return held whether the band holds a fast price back, so that exec is not fast
    function _price(View memory v, uint256 band) private pure returns (bool held) {
        uint256 all = v.feeds.length;
        (v.fast, v.slow, v.exec) = (new uint256[](all), new uint256[](all), new uint256[](all));
        (v.fastFresh, v.slowFresh) = (true, true);
        bool eitherWay = true;
        for (uint256 i; i < all; ++i) {
            FeedPrice memory p = v.feeds[i];
            bool alone = p.silent && p.slowFresh;
            (v.fast[i], v.slow[i]) = (alone ? p.slow : p.fast, p.slow);
            v.exec[i] = Slope.executionPrice(v.fast[i], p.slow, band);
            held = held || v.exec[i] != v.fast[i];
            v.fastFresh = v.fastFresh && p.fastFresh;
            v.slowFresh = v.slowFresh && p.slowFresh;
            eitherWay = eitherWay && (p.fastFresh || p.silent);
        }
        v.slowOnly = v.slowFresh && eitherWay && !v.fastFresh;
    }

    function _bothPrices(bytes32 feedId)
        private
        view
        returns (uint256 fast, uint256 slow, bool fastFresh, bool slowFresh)
    {
        FeedPrice memory p = router.price(feedId);
        (fast, slow, fastFresh, slowFresh) = (p.fast, p.slow, p.fastFresh, p.slowFresh);
        if (!fastFresh && slowFresh) fast = slow;
        if (slow == 0) slow = fast;
    }
}
