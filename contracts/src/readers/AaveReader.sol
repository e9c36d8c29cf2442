// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {GuardedCall} from "../slow/GuardedCall.sol";

/// @dev What a pool of Aave v3 is asked, in the words that 3.0 and 3.6 share. Structs of one word are words.
interface IAavePool {
    struct ReserveData {
        uint256 configuration;
        uint128 incomeIndex;
        uint128 incomeRate;
        uint128 debtIndex;
        uint128 debtRate;
        uint128 stableRate;
        uint40 updatedAt;
        uint16 id;
        address aToken;
        address stableDebtToken;
        address debtToken;
        address rateStrategy;
        uint128 accruedToTreasury;
        uint128 unbacked;
        uint128 isolationModeTotalDebt;
    }

    struct Category {
        uint16 ltv;
        uint16 threshold;
        uint16 bonus;
        address priceSource;
        string label;
    }

    struct CategoryConfig {
        uint16 ltv;
        uint16 threshold;
        uint16 bonus;
    }

    function ADDRESSES_PROVIDER() external view returns (IAaveAddresses);
    function POOL_REVISION() external view returns (uint256);
    function getReservesList() external view returns (address[] memory);
    function getReserveData(address asset) external view returns (ReserveData memory);
    function getUserConfiguration(address user) external view returns (uint256);
    function getUserEMode(address user) external view returns (uint256);
    /// @dev 3.0
    function getEModeCategoryData(uint8 id) external view returns (Category memory);
    /// @dev 3.6, and the three below
    function getEModeCategoryCollateralConfig(uint8 id) external view returns (CategoryConfig memory);
    function getEModeCategoryCollateralBitmap(uint8 id) external view returns (uint128);
    function getLiquidationGracePeriod(address asset) external view returns (uint40);
    function getVirtualUnderlyingBalance(address asset) external view returns (uint128);
}

interface IAaveAddresses {
    function getPriceOracle() external view returns (IAaveOracle);
    function getPriceOracleSentinel() external view returns (address);
}

interface IAaveOracle {
    function BASE_CURRENCY_UNIT() external view returns (uint256);
    function getAssetPrice(address asset) external view returns (uint256);
    function getSourceOfAsset(address asset) external view returns (address);
}

interface IAaveToken {
    function scaledBalanceOf(address user) external view returns (uint256);
    function principalBalanceOf(address user) external view returns (uint256);
    function balanceOf(address user) external view returns (uint256);
}

interface IAaveSentinel {
    function isLiquidationAllowed() external view returns (bool);
}

interface IAnswers {
    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80);
}

/// @title Accounts of an Aave v3 pool, and the world that they are valued in, in one call each
/// @notice Health is the caller's work. Answers are columns of words. One source of prices that reverts takes
/// away its own price alone. It needs no deployment: its code may go with the call.
contract AaveReader {
    /// @dev as many as the bits of an account's configuration have room for
    uint256 private constant MAX_RESERVES = 128;
    uint256 private constant RESERVE_WORDS = 6;
    uint256 private constant CATEGORY_WORDS = 3;
    uint256 private constant LISTING_WORDS = 5;
    uint256 private constant FIRST_REVISION_OF_3_6 = 10;
    uint256 private constant COLLATERAL = 0;
    uint256 private constant DEBT = 1;
    uint256 private constant STABLE_DEBT = 2;
    /// @dev a price that is not to be had, where zero says that there is no such price
    uint256 private constant UNPRICED = type(uint256).max;
    /// @dev what a foreign contract may use that is not to spoil the rest
    uint256 private constant TRIED_GAS = 2_000_000;

    /// @notice Accounts in the order asked for.
    /// @return heads a word each: the user in the highest 160 bits, the e-mode category in 16, the number of
    /// its entries in 16
    /// @return entries a word for each collateral and debt that is flagged, account after account: the kind
    /// above bit 136, the reserve's number above bit 128, the scaled amount below (of a stable debt the principal)
    function rows(IAavePool pool, address[] calldata users)
        external
        view
        returns (uint256[] memory heads, uint256[] memory entries)
    {
        IAavePool.ReserveData[] memory reserves = _byNumber(pool);
        uint256[] memory flags = new uint256[](users.length);
        uint256 room;
        for (uint256 k; k < users.length; ++k) {
            flags[k] = pool.getUserConfiguration(users[k]);
            for (uint256 bits = flags[k]; bits != 0; bits &= bits - 1) {
                // A borrowed reserve may be owed at both rates.
                room += 2;
            }
        }
        heads = new uint256[](users.length);
        entries = new uint256[](room);
        uint256 used;
        for (uint256 k; k < users.length; ++k) {
            uint256 first = used;
            used = _addEntries(reserves, users[k], flags[k], entries, used);
            heads[k] = uint256(uint160(users[k])) << 96 | pool.getUserEMode(users[k]) << 16 | (used - first);
        }
        _cut(entries, used);
    }

    /// @notice What all accounts share.
    /// @param feeds contracts whose `latestRoundData` is wanted
    /// @return all the block's time, the pool's revision, 1 where the sentinel allows liquidations or there is
    /// none, the base currency's unit
    /// @return reserves six words each. Its number (16 bits), the end of its grace period (40), when its indices
    /// were updated (40), its token (160); its configuration; index and rate of income, then of debt, 128 bits
    /// each; its price, 0 where it has none, and what it can pay out, 128 bits each; the source of its price
    /// @return categories three words each: its number, threshold and bonus in 16 bits each; the reserves that it
    /// concerns; the price instead of theirs, 0 where they keep their own
    /// @return answers two words each: the newest answer and its time, zeros where there is none
    function world(IAavePool pool, address[] calldata feeds)
        external
        view
        returns (
            uint256[] memory all,
            uint256[] memory reserves,
            uint256[] memory categories,
            uint256[] memory answers
        )
    {
        IAaveAddresses addresses = pool.ADDRESSES_PROVIDER();
        IAaveOracle oracle = addresses.getPriceOracle();
        all = new uint256[](4);
        (all[0], all[1]) = (block.timestamp, pool.POOL_REVISION());
        all[2] = _allows(addresses.getPriceOracleSentinel()) ? 1 : 0;
        all[3] = oracle.BASE_CURRENCY_UNIT();
        reserves = _reserves(pool, oracle, all[1]);
        categories = all[1] < FIRST_REVISION_OF_3_6 ? _oldCategories(pool, oracle, reserves) : _categories(pool);
        answers = new uint256[](2 * feeds.length);
        for (uint256 i; i < feeds.length; ++i) {
            bytes memory told = GuardedCall.ask(feeds[i], abi.encodeCall(IAnswers.latestRoundData, ()), TRIED_GAS, 160);
            if (told.length != 0) {
                (, int256 newest,, uint256 time,) = abi.decode(told, (uint256, int256, uint256, uint256, uint256));
                (answers[2 * i], answers[2 * i + 1]) = newest > 0 ? (uint256(newest), time) : (0, 0);
            }
        }
    }

    /// @notice What is listed.
    /// @return all the pool's revision, the base currency's unit
    /// @return reserves five words each: its number, token, aToken, debt token, and the source of its price
    function listing(IAavePool pool) external view returns (uint256[] memory all, uint256[] memory reserves) {
        IAaveOracle oracle = pool.ADDRESSES_PROVIDER().getPriceOracle();
        all = new uint256[](2);
        (all[0], all[1]) = (pool.POOL_REVISION(), oracle.BASE_CURRENCY_UNIT());
        address[] memory list = pool.getReservesList();
        reserves = new uint256[](LISTING_WORDS * list.length);
        for (uint256 i; i < list.length; ++i) {
            IAavePool.ReserveData memory data = pool.getReserveData(list[i]);
            uint256 at = LISTING_WORDS * i;
            reserves[at] = data.id;
            reserves[at + 1] = uint160(list[i]);
            reserves[at + 2] = uint160(data.aToken);
            reserves[at + 3] = uint160(data.debtToken);
            reserves[at + 4] = uint160(oracle.getSourceOfAsset(list[i]));
        }
    }

    /// @notice Answers of contracts that may not know what they are asked: nothing where they revert.
    function tried(address[] calldata targets, bytes[] calldata calls) external view returns (bytes[] memory answers) {
        answers = new bytes[](targets.length);
        for (uint256 i; i < targets.length; ++i) {
            (bool ok, bytes memory answer) = targets[i].staticcall{gas: TRIED_GAS}(calls[i]);
            answers[i] = ok ? answer : bytes("");
        }
    }

    function _addEntries(
        IAavePool.ReserveData[] memory reserves,
        address user,
        uint256 flags,
        uint256[] memory entries,
        uint256 used
    ) private view returns (uint256) {
        for (uint256 id; flags != 0; ++id) {
            IAavePool.ReserveData memory reserve = reserves[id];
            // A flag may outlive a reserve that was dropped; the pool passes over it as well.
            if (reserve.aToken != address(0)) {
                if (flags & 2 != 0) {
                    entries[used++] = _entry(COLLATERAL, id, IAaveToken(reserve.aToken).scaledBalanceOf(user));
                }
                if (flags & 1 != 0) {
                    entries[used++] = _entry(DEBT, id, IAaveToken(reserve.debtToken).scaledBalanceOf(user));
                    uint256 stable =
                        _word(reserve.stableDebtToken, abi.encodeCall(IAaveToken.principalBalanceOf, (user)));
                    if (stable != 0) {
                        entries[used++] = _entry(STABLE_DEBT, id, stable);
                    }
                }
            }
            flags >>= 2;
        }
        return used;
    }

    /// @param amount in 128 bits, as Aave's tokens keep it
    function _entry(uint256 kind, uint256 id, uint256 amount) private pure returns (uint256) {
        return kind << 136 | id << 128 | uint128(amount);
    }

    function _reserves(IAavePool pool, IAaveOracle oracle, uint256 revision)
        private
        view
        returns (uint256[] memory words)
    {
        address[] memory list = pool.getReservesList();
        words = new uint256[](RESERVE_WORDS * list.length);
        for (uint256 i; i < list.length; ++i) {
            address asset = list[i];
            IAavePool.ReserveData memory data = pool.getReserveData(asset);
            bool isNew = revision >= FIRST_REVISION_OF_3_6;
            uint256 grace = isNew ? pool.getLiquidationGracePeriod(asset) : 0;
            uint256 liquid = isNew
                ? pool.getVirtualUnderlyingBalance(asset)
                : _word(asset, abi.encodeCall(IAaveToken.balanceOf, (data.aToken)));
            uint256 at = RESERVE_WORDS * i;
            words[at] = uint256(data.id) << 240 | grace << 200 | uint256(data.updatedAt) << 160 | uint160(asset);
            words[at + 1] = data.configuration;
            words[at + 2] = uint256(data.incomeIndex) << 128 | data.incomeRate;
            words[at + 3] = uint256(data.debtIndex) << 128 | data.debtRate;
            words[at + 4] = _price(oracle, asset) << 128 | uint128(liquid);
            words[at + 5] = uint160(oracle.getSourceOfAsset(asset));
        }
    }

    function _categories(IAavePool pool) private view returns (uint256[] memory words) {
        words = new uint256[](CATEGORY_WORDS * type(uint8).max);
        uint256 at;
        for (uint8 id = 1; id != 0; id = _next(id)) {
            IAavePool.CategoryConfig memory category = pool.getEModeCategoryCollateralConfig(id);
            if (category.threshold != 0) {
                words[at] = _terms(id, category.threshold, category.bonus);
                words[at + 1] = pool.getEModeCategoryCollateralBitmap(id);
                at += CATEGORY_WORDS;
            }
        }
        _cut(words, at);
    }

    /// @dev In 3.0 a reserve says which category it is in, and a category may have a price of its own.
    function _oldCategories(IAavePool pool, IAaveOracle oracle, uint256[] memory reserves)
        private
        view
        returns (uint256[] memory words)
    {
        words = new uint256[](CATEGORY_WORDS * type(uint8).max);
        uint256 at;
        for (uint8 id = 1; id != 0; id = _next(id)) {
            IAavePool.Category memory category = pool.getEModeCategoryData(id);
            if (category.threshold != 0) {
                words[at] = _terms(id, category.threshold, category.bonus);
                for (uint256 i; i < reserves.length; i += RESERVE_WORDS) {
                    if (uint8(reserves[i + 1] >> 168) == id) {
                        words[at + 1] |= 1 << (reserves[i] >> 240);
                    }
                }
                if (category.priceSource != address(0)) {
                    uint256 price = _price(oracle, category.priceSource);
                    words[at + 2] = price == 0 ? UNPRICED : price;
                }
                at += CATEGORY_WORDS;
            }
        }
        _cut(words, at);
    }

    function _terms(uint256 id, uint256 threshold, uint256 bonus) private pure returns (uint256) {
        return id << 32 | threshold << 16 | bonus;
    }

    /// @dev 0 after the last.
    function _next(uint8 id) private pure returns (uint8) {
        unchecked {
            return id + 1;
        }
    }

    /// @dev Every reserve at its number; one that was dropped has no tokens.
    function _byNumber(IAavePool pool) private view returns (IAavePool.ReserveData[] memory reserves) {
        reserves = new IAavePool.ReserveData[](MAX_RESERVES);
        address[] memory list = pool.getReservesList();
        for (uint256 i; i < list.length; ++i) {
            IAavePool.ReserveData memory data = pool.getReserveData(list[i]);
            reserves[data.id] = data;
        }
    }

    /// @dev A sentinel that reverts has the pool revert as well.
    function _allows(address sentinel) private view returns (bool) {
        return sentinel == address(0) || _word(sentinel, abi.encodeCall(IAaveSentinel.isLiquidationAllowed, ())) == 1;
    }

    /// @dev 0 where the oracle reverts, or says what is no price.
    function _price(IAaveOracle oracle, address asset) private view returns (uint256) {
        uint256 price = _word(address(oracle), abi.encodeCall(IAaveOracle.getAssetPrice, (asset)));
        return price <= type(uint128).max ? price : 0;
    }

    function _word(address target, bytes memory question) private view returns (uint256) {
        bytes memory answer = GuardedCall.ask(target, question, TRIED_GAS, 32);
        return answer.length == 0 ? 0 : abi.decode(answer, (uint256));
    }

    function _cut(uint256[] memory words, uint256 used) private pure {
        assembly ("memory-safe") {
            mstore(words, used)
        }
    }
}
