"""Real messages of nodes and providers, and what each of them means for the bytes that were sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.answers import HAS, REFUSALS, TABLE, Answer, Words, outweighing, read

A = Answer
MESSAGES = {
    "already known": A.KNOWN,
    "ALREADY_EXISTS: already known": A.KNOWN,
    "AlreadyKnown": A.KNOWN,
    "OwnNonceAlreadyUsed": A.KNOWN,
    "Known transaction": A.KNOWN,
    "transaction already imported": A.KNOWN,
    "Tx: [0x12ab] already Imported": A.KNOWN,
    "INTERNAL_ERROR: existing tx with same hash": A.KNOWN,
    "known transaction. transaction with hash 0x12ab is already in the system": A.KNOWN,
    "Transaction with the same hash was already imported.": A.KNOWN,
    "nonce too low: next nonce 8, tx nonce 7": A.NONCE_TOO_LOW,
    "nonce too low: address 0x0499BEA3, tx: 3 state: 4": A.NONCE_TOO_LOW,
    "OldNonce, Current nonce: 22, nonce of rejected tx: 17": A.NONCE_TOO_LOW,
    "Nonce too low": A.NONCE_TOO_LOW,
    "Transaction nonce is too low. Try incrementing the nonce.": A.NONCE_TOO_LOW,
    "invalid transaction nonce": A.NONCE_TOO_LOW,
    "nonce too high": A.NONCE_GAP,
    "NonceGap, Future nonce. Expected nonce: 10": A.NONCE_GAP,
    "gapped-nonce tx from delegated accounts": A.NONCE_GAP,
    "Transaction nonce is too distant from current sender nonce": A.NONCE_GAP,
    "transaction underpriced": A.UNDERPRICED,
    "transaction underpriced: gas tip cap 0, minimum needed 1": A.UNDERPRICED,
    "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 50, BaseFee: 100": A.UNDERPRICED,
    "FeeTooLowToCompete": A.UNDERPRICED,
    "Gas price below configured minimum gas price": A.UNDERPRICED,
    "fee too low: 30365610000000, use at least tx.gasLimit = 5874374": A.UNDERPRICED,
    "transaction priority fee below minimum required priority fee 1000000": A.UNDERPRICED,
    "replacement transaction underpriced": A.REPLACEMENT_UNDERPRICED,
    "Replacement transaction underpriced": A.REPLACEMENT_UNDERPRICED,
    "INTERNAL_ERROR: could not replace existing tx": A.REPLACEMENT_UNDERPRICED,
    "Tx: [0x12ab] insufficient gas price to replace existing transaction": A.REPLACEMENT_UNDERPRICED,
    "ReplacementNotAllowed": A.REPLACEMENT_UNDERPRICED,
    "Transaction gas price 100wei is too low. There is another transaction with same nonce in the queue with"
    " gas price 150wei.": A.REPLACEMENT_UNDERPRICED,
    "max fee per gas less than block base fee: address 0x04, maxFeePerGas: 1 baseFee: 2": A.FEE_TOO_LOW,
    "Gas price below current base fee": A.FEE_TOO_LOW,
    "insufficient funds for gas * price + value: balance 1, tx cost 2, overshot 1": A.INSUFFICIENT_FUNDS,
    "insufficient funds for transfer": A.INSUFFICIENT_FUNDS,
    "Insufficient funds for gas * price + value": A.INSUFFICIENT_FUNDS,
    "InsufficientFunds, Balance is 4740799397601480913 less than sending value": A.INSUFFICIENT_FUNDS,
    "Upfront cost exceeds account balance": A.INSUFFICIENT_FUNDS,
    "not enough funds for gas": A.INSUFFICIENT_FUNDS,
    "intrinsic gas too low: gas 1, minimum needed 21000": A.REFUSED,
    "intrinsic gas too high": A.REFUSED,
    "IntrinsicGas": A.REFUSED,
    "Intrinsic gas exceeds gas limit": A.REFUSED,
    "exceeds block gas limit": A.REFUSED,
    "Transaction gas limit exceeds block gas limit": A.REFUSED,
    "GasLimitExceeded, Gas limit: 30000000, gas limit of rejected tx: 40000000": A.REFUSED,
    "oversized data: transaction size 140000, limit 131072": A.REFUSED,
    "invalid sender": A.REFUSED,
    "invalid chain id for signer: have 1 want 31337": A.REFUSED,
    "Wrong chainId": A.REFUSED,
    "Incompatible EIP-155 transaction, signed for another chain": A.REFUSED,
    "transaction type not supported": A.REFUSED,
    "max priority fee per gas higher than max fee per gas": A.REFUSED,
    "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)": A.REFUSED,
    "txpool is full": A.POOL_FULL,
    "pending sub-pool is full": A.POOL_FULL,
    "future transaction tries to replace pending": A.POOL_FULL,
    "in-flight transaction limit reached for delegated accounts": A.POOL_FULL,
    "There are too many transactions in the queue. Your transaction was dropped due to limit. Try increasing"
    " the fee.": A.POOL_FULL,
    "sequencer pending tx pool full, please try again": A.POOL_FULL,
    "Too Many Requests": A.RATE_LIMITED,
    "Your app has exceeded its compute units per second capacity.": A.RATE_LIMITED,
    "Optimism sequencer global transaction limit exceeded": A.RATE_LIMITED,
    "The requests per second (RPS) of your requests are higher than your plan allows.": A.RATE_LIMITED,
    "no answer (TimeoutError)": A.UNKNOWN,
    "expected JSON-RPC, found HTTP 502": A.UNKNOWN,
    "internal error": A.UNKNOWN,
    "Initial sync is still in progress": A.UNKNOWN,
    "execution reverted: insufficient funds": A.UNKNOWN,
    "insufficient funds for gas * price + value (code -32000), with HTTP 503": A.UNKNOWN,
    "": A.UNKNOWN,
}
STAYS = [row.words for row in TABLE if row.answer not in REFUSALS]
ALL = [row.words for row in TABLE]


@pytest.mark.parametrize(("message", "answer"), MESSAGES.items())
def test_a_message_means_the_same_however_it_is_wrapped(message: str, answer: Answer) -> None:
    wrapped = f"eth_sendRawTransaction at https://node.example: {message} (code -32000)"
    assert {read(message), read(wrapped), read(message.upper())} == {answer}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.words)
def test_each_row_says_where_it_is_from_and_can_be_reached(row: Words) -> None:
    assert row.source
    assert row.words == row.words.lower()
    assert read(row.words) is row.answer


def test_each_answer_but_an_acceptance_has_a_row_and_a_message() -> None:
    assert {row.answer for row in TABLE} | {A.TAKEN} == set(Answer)
    assert {*MESSAGES.values(), A.TAKEN} == set(Answer)


@given(st.lists(st.sampled_from(ALL)), st.sampled_from(STAYS), st.lists(st.sampled_from(ALL)), st.text())
def test_words_that_may_mean_a_pool_has_the_bytes_outweigh_any_refusal_beside_them(
    before: list[str], stays: str, after: list[str], between: str
) -> None:
    assert read(f" {between} ".join([*before, stays, *after])) not in REFUSALS


@given(st.text())
def test_what_holds_no_words_of_the_table_is_unknown(text: str) -> None:
    if not any(words in text.lower() for words in ALL):
        assert read(text) is Answer.UNKNOWN


GAP, FULL, SILENT = "nonce too high", "txpool is full", "no answer (TimeoutError)"
UNDER, KNOWN, USED = "replacement transaction underpriced", "already known", "nonce too low"


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ([GAP], GAP),
        ([GAP, UNDER], GAP),
        ([UNDER, FULL], FULL),
        ([GAP, UNDER, SILENT], SILENT),
        ([UNDER, "Too Many Requests", FULL], "Too Many Requests"),
        ([UNDER, SILENT, KNOWN], KNOWN),
        ([GAP, USED], USED),
        ([FULL, USED, KNOWN], USED),
    ],
)
def test_of_several_nodes_words_the_one_that_leaves_most_in_flight_holds(said: list[str], holds: str) -> None:
    assert outweighing(said) == holds


@given(st.lists(st.sampled_from([*MESSAGES]), min_size=1))
def test_bytes_are_refused_only_where_everyone_refuses_and_held_where_anyone_has_them(
    said: list[str],
) -> None:
    answers, holds = {read(each) for each in said}, read(outweighing(said))
    assert (holds in REFUSALS) == (answers <= REFUSALS)
    assert (holds in HAS) == bool(answers & HAS)
