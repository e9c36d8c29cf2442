"""The reporters' exchange over real HTTP on loopback: who may ask, and what is made of any answer."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from keeper import reports
from keeper.doctor.finding import Finding, Mark
from keeper.doctor.hybrid import look_at_reports
from keeper.domain import Call, ChainTime, Head, Observation, Reason, Refuse, Report
from keeper.errors import ChainFault, ConfigError
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.quorum import Quorum
from keeper.protocols.hybrid.signing import address_of
from keeper.reports import MAX_BYTES, MAX_REPORTS, PATH, Exchange, Heard, Params, Roll, read, served, write
from keeper.units import WAD
from tests.unit.pipeline.desk import MARKET
from tests.unit.protocols.hybrid.books import NOW_S, feed_view

TOKEN = "correct-horse-battery-staple"
KEYS = [bytes([number]) * 32 for number in range(1, 6)]
SIGNERS = tuple(address_of(key) for key in KEYS)
PLACE = MARKET.fast_domain
AT = ChainTime(100, NOW_S + 12)


def signed(
    signer: int = 0, price_wad: int = 200 * WAD, at_s: int = NOW_S + 10, feed: str = "BTC/USD"
) -> Report:
    key = KEYS[signer] if signer < len(KEYS) else bytes([signer + 1]) * 32
    return MARKET.sign_report(Observation(feed, price_wad, 10, at_s, at_s + 30), key)


class Chain:
    """A reader that knows who may sign, and nothing else."""

    def __init__(self, signers: tuple[str, ...] = SIGNERS, size: int = 3) -> None:
        self.signers, self.size = signers, size

    async def simulate(self, sender: str, call: Call, at: ChainTime, gas_limit: int) -> bytes | Refuse:
        del sender, at, gas_limit
        functions = load("FastOracle").functions
        if self.size and call.data == functions["quorum"].selector:
            return self.size.to_bytes(32)
        index = int.from_bytes(call.data[4:])
        if call.data[:4] == functions["signers"].selector and index < len(self.signers):
            return bytes(12) + bytes.fromhex(self.signers[index][2:])
        return Refuse(Reason("simulation.reverted", "0x", "must not revert"))


async def roll_of(chain: Chain | None = None) -> Roll:
    roll = Roll(chain or Chain(), MARKET.deployment.fast_oracle)  # type: ignore[arg-type]
    await roll.read(AT)
    return roll


# --- who may sign --------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 3), (5, 3), (5, 5)])
async def test_who_may_sign_is_read_though_nobody_tells_how_many(count: int, size: int) -> None:
    assert (await roll_of(Chain(SIGNERS[:count], size))).quorum == Quorum(SIGNERS[:count], size)


async def test_an_oracle_without_a_quorum_is_a_fault() -> None:
    with pytest.raises(ChainFault, match="tells no quorum"):
        await roll_of(Chain(size=0))


# --- serving -------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(*given: Report) -> AsyncIterator[str]:
    async with served("127.0.0.1:0", TOKEN, lambda: given, PLACE) as port:
        yield f"http://127.0.0.1:{port}"


async def asked(
    url: str, token: str | None = TOKEN, path: str = PATH, **more: Any
) -> tuple[int, Mapping[str, str], bytes]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url + path, **more) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.read()


async def test_whoever_has_the_token_is_told_the_newest_reports() -> None:
    report = signed()
    async with serving(report) as url:
        status, headers, body = await asked(url)
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "application/json")
    assert json.loads(body) == {
        "chain_id": 31337,
        "fast_oracle": MARKET.deployment.fast_oracle,
        "reports": [
            {
                "feed": "BTC/USD",
                "price": "200000000000000000000",
                "confidence_bps": 10,
                "observed_at": NOW_S + 10,
                "valid_until": NOW_S + 40,
                "signature": "0x" + report.signature.hex(),
            }
        ],
    }


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "é" * 20])
async def test_nobody_else_is_told_anything(token: str | None) -> None:
    async with serving(signed()) as url:
        status, headers, body = await asked(url, token)
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert b"BTC" not in body
    assert TOKEN.encode() not in body


async def test_other_pages_and_methods_are_not_there() -> None:
    async with serving() as url:
        assert (await asked(url, path="/"))[0] == 404
        async with aiohttp.ClientSession() as session, session.post(url + PATH) as answer:
            assert answer.status == 405


async def test_a_request_too_many_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "REQUESTS_S", 3)
    monkeypatch.setattr("keeper.reports.time.monotonic", lambda: 1.5)
    async with serving() as url:
        answers = [await asked(url, None if number % 2 else TOKEN) for number in range(5)]
        assert [status for status, _, _ in answers] == [200, 401, 200, 429, 429]
        assert answers[-1][1]["Retry-After"] == "1"
        monkeypatch.setattr("keeper.reports.time.monotonic", lambda: 2.0)
        assert (await asked(url))[0] == 200


async def test_a_request_that_carries_anything_is_refused() -> None:
    async with serving() as url:
        assert (await asked(url, data=b"x" * 100_000))[0] == 413
        assert (await asked(url, headers={"X": "y" * 10_000}))[0] == 400


async def test_an_address_that_is_taken_is_a_configuration_error() -> None:
    async with serving() as url:
        with pytest.raises(ConfigError, match="cannot be listened on"):
            async with served(url.removeprefix("http://"), TOKEN, lambda: (), PLACE):
                pass


# --- reading -------------------------------------------------------------------------------------


def test_what_is_written_is_read_as_it_was() -> None:
    given = [signed(0), signed(1, 2**128 - 1), signed(0, 1, feed="ETH/USD")]
    assert read(write(given, PLACE), MARKET, SIGNERS) == Heard(tuple(given))


def altered(**changes: object) -> bytes:
    """An answer of one report, with some of its fields changed or left out."""
    said = json.loads(write([signed()], PLACE))
    for name, value in changes.items():
        said["reports"][0][name] = value
    return json.dumps(said).encode()


UNREADABLE = "a report cannot be read, or has no signature"
STRANGE = "a report is signed by a stranger, or was altered"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "the answer is not JSON"),
        (b"\xff\xfe", "the answer is not JSON"),
        (b"[" * 50_000, "the answer is not JSON"),
        (b"NaN", "the answer is not JSON"),
        (b"[]", "the answer holds no reports"),
        (b'{"reports": {}}', "the answer holds no reports"),
        (write([signed()], (1, PLACE[1])), "the answer is of another oracle"),
        (write([signed()], (PLACE[0], "0x" + "11" * 20)), "the answer is of another oracle"),
        (write([signed()] * (MAX_REPORTS + 1), PLACE), f"the answer holds more than {MAX_REPORTS} reports"),
        (altered(feed="DOGE/USD"), UNREADABLE),
        (altered(feed=["BTC/USD"]), UNREADABLE),
        (altered(price=200), UNREADABLE),
        (altered(price="-1"), UNREADABLE),
        (altered(price="1e21"), UNREADABLE),
        (altered(price="٢"), UNREADABLE),
        (altered(price=str(2**128)), UNREADABLE),
        (altered(price="9" * 5_000), UNREADABLE),
        (altered(confidence_bps=True), UNREADABLE),
        (altered(observed_at=-1), UNREADABLE),
        (altered(observed_at=2**40), UNREADABLE),
        (altered(observed_at=1.5), UNREADABLE),
        (altered(valid_until=None), UNREADABLE),
        (altered(signature="0x"), UNREADABLE),
        (altered(signature="0x" + "00" * 65), UNREADABLE),
        (altered(signature=7), UNREADABLE),
        (altered(price="200000000000000000001"), STRANGE),
        (altered(valid_until=NOW_S + 41), STRANGE),
        (write([signed(9)], PLACE), STRANGE),
    ],
)
def test_what_is_no_report_of_a_signer_is_dropped_and_named(body: bytes, fault: str) -> None:
    found = read(body, MARKET, SIGNERS)
    # A changed digest may also have no address at all.
    assert found.reports == ()
    assert found.faults in ({fault: 1}, {UNREADABLE: 1})


def test_one_bad_report_spoils_no_other() -> None:
    given = [signed(9), signed(0), signed(0, 201 * WAD), signed(1)]
    found = read(write(given, PLACE), MARKET, SIGNERS)
    assert found.reports == (given[1], given[3])
    assert found.faults == {STRANGE: 1, f"{SIGNERS[0]} is there twice with one feed": 1}


@pytest.mark.parametrize(
    ("later", "fault"),
    [
        (signed(), None),
        (signed(at_s=NOW_S + 11), None),
        (signed(at_s=NOW_S + 9), f"a report of {SIGNERS[0]} is older than the one before"),
        (signed(price_wad=201 * WAD), f"{SIGNERS[0]} has signed two things of one feed and second"),
    ],
)
def test_what_does_not_follow_from_what_was_said_before_is_named(later: Report, fault: str | None) -> None:
    found = read(write([later], PLACE), MARKET, SIGNERS, before=[signed()])
    assert found == Heard((later,), {fault: 1} if fault else {})


@given(body=st.one_of(st.binary(max_size=200), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["reports", "chain_id", "feed", "price"]), inner, max_size=4),
    ),
).map(lambda each: json.dumps(each).encode())))  # fmt: skip
def test_garbage_is_named_whatever_it_is(body: bytes) -> None:
    found = read(body, MARKET, SIGNERS)
    assert found.reports == ()
    assert found.faults


# --- asking --------------------------------------------------------------------------------------

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def peer(answer: Answer) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes([web.get(PATH, answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def exchange(
    *urls: str, roll: Roll, token: str = TOKEN, deadline_s: float = 0.3, quiet_s: float = 0.0
) -> Exchange:
    return Exchange(urls, token, MARKET, roll, Params(deadline_s=deadline_s, poll_s=0.01, quiet_s=quiet_s))


async def stalls(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(10)
    return web.Response(body=b"{}")


async def drips(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(100):
        await response.write(b" ")
        await asyncio.sleep(0.02)
    return response


async def floods(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b" " * (MAX_BYTES + 1))


async def packs(_: web.Request) -> web.StreamResponse:
    return web.Response(body=gzip.compress(b" " * 10**7), headers={"Content-Encoding": "gzip"})


async def redirects(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def fails(_: web.Request) -> web.StreamResponse:
    raise web.HTTPServiceUnavailable


async def babbles(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"\x00\x01")


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (stalls, "no answer within 0.3 s"),
        (drips, "no answer within 0.3 s"),
        (floods, f"the answer is larger than {MAX_BYTES} bytes"),
        (packs, "the answer is not JSON"),
        (redirects, "answered 302"),
        (fails, "answered 503"),
        (babbles, "the answer is not JSON"),
    ],
)
async def test_a_bad_peer_is_named_and_holds_up_nobody(bad: Answer, fault: str) -> None:
    async with (
        peer(bad) as bad_url,
        serving(signed(1)) as url,
        exchange(bad_url, "http://127.0.0.1:1", url, roll=await roll_of()) as asking,
    ):
        with capture_logs() as logs:
            async with asyncio.timeout(1.5):
                await asking.ask()
                assert await asking.ask() == [signed(1)]
        assert asking.heard() == [signed(1)]
    told = {each["peer"]: each["why"] for each in logs if each["event"] == "reports.faulty"}
    unreachable = "cannot be reached: ClientConnectorError"
    assert told == {bad_url: [fault], "http://127.0.0.1:1": [unreachable]}
    assert len(logs) == 2, "said once, not at every ask"
    assert [*asking._faults.values()] == [{fault: 2}, {unreachable: 2}, {}]


async def test_with_another_token_it_is_told_nothing_and_the_token_is_shown_nowhere() -> None:
    async with (
        serving(signed()) as url,
        exchange(f"{url}/", roll=await roll_of(), token="another-token-altogether") as asking,
    ):
        with capture_logs() as logs:
            await asking.ask()
        assert asking._faults == {f"{url}{PATH}": {"answered 401": 1}}
        assert "another-token" not in repr(asking) + repr(logs)


@pytest.mark.parametrize("url", ["http://user:word@127.0.0.1:1", "http://nowhere.invalid", "http://"])
async def test_a_peer_that_cannot_even_be_asked_ends_nothing(url: str) -> None:
    async with exchange(url, roll=await roll_of()) as asking:
        with capture_logs() as logs:
            assert await asking.ask() == []
    assert [each["event"] for each in logs] == ["reports.faulty"]


async def test_a_url_that_is_none_is_a_configuration_error() -> None:
    roll = await roll_of()
    for url in ("http://127.0.0.1:99999", "http://[::1"):
        with pytest.raises(ConfigError, match="URL of a reporter cannot be used"):
            exchange(url, roll=roll)


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "nowhere.invalid:0"])
async def test_an_address_that_is_none_is_a_configuration_error(listen: str) -> None:
    with pytest.raises(ConfigError, match="cannot be listened on"):
        async with served(listen, TOKEN, lambda: (), PLACE):
            pass


async def test_of_a_peers_url_no_secret_is_shown() -> None:
    asking = exchange("https://user:secret@b.example:9478/secret?key=secret", roll=await roll_of())
    assert repr(asking) == "Exchange(https://b.example:9478)"


async def test_a_peer_that_fails_keeps_what_it_said_and_is_in_order_again() -> None:
    said = [write([signed()], PLACE), b"", write([signed(at_s=NOW_S + 11)], PLACE)]

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=said.pop(0))

    async with peer(answer) as url, exchange(url, roll=await roll_of()) as asking:
        with capture_logs() as logs:
            heard = []
            for _ in range(3):
                await asking.ask()
                heard.append([each.observation.observed_at_s for each in asking.heard()])
        assert heard == [[NOW_S + 10], [NOW_S + 10], [NOW_S + 11]]
    assert [each["event"] for each in logs] == ["reports.faulty", "reports.in_order"]
    assert logs[1]["since_start"] == {"the answer is not JSON": 1}


async def test_a_peer_that_comes_and_goes_fills_no_log_and_is_told_of_in_the_end() -> None:
    said = [b"", write([signed()], PLACE)] * 5

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=said.pop(0))

    async with peer(answer) as url, exchange(url, roll=await roll_of(), quiet_s=0.5) as asking:
        with capture_logs() as logs:
            for _ in range(8):
                await asking.ask()
            assert [each["event"] for each in logs] == ["reports.faulty"]
            said.pop(0)
            await asyncio.sleep(0.5)
            await asking.ask()
    assert [each["event"] for each in logs] == ["reports.faulty", "reports.in_order"]
    assert logs[1]["since_start"] == {"the answer is not JSON": 4}


async def test_whoever_does_not_answer_now_is_not_among_those_who_do() -> None:
    async with exchange("http://127.0.0.1:1", roll=await roll_of()) as asking:
        asking._heard = dict.fromkeys(asking._heard, Heard((signed(),)))
        assert (await asking.ask(), asking.heard()) == ([], [signed()])


# --- for a keeper --------------------------------------------------------------------------------


async def test_a_keeper_hears_the_bundle_that_the_next_block_takes() -> None:
    view = replace(feed_view("BTC/USD", 200 * WAD), fast_observed_at_s=NOW_S)
    given = [signed(0), signed(1), signed(2, 201 * WAD), signed(3, 300 * WAD), signed(4, at_s=NOW_S + 13)]
    async with serving(*given) as url, exchange(url, roll=await roll_of()) as asking:
        await asking.ask()
        with capture_logs() as logs:
            found = [asking.bundles({"BTC/USD": view}, AT) for _ in range(2)]
    assert [{each.signer for each in bundles["BTC/USD"]} for bundles in found] == [{*SIGNERS[:3]}] * 2
    assert [each["why"] for each in logs if each["event"] == "reports.unusable"] == [
        {SIGNERS[4]: "report.from_future: observed 1 s after the next block, bound before it"}
    ]


async def test_a_keeper_asks_again_and_again() -> None:
    asked_again = asyncio.Event()
    answers = 0

    async def answer(_: web.Request) -> web.StreamResponse:
        nonlocal answers
        answers += 1
        if answers == 3:
            asked_again.set()
        return web.Response(body=write([signed(at_s=NOW_S + answers)], PLACE))

    async with peer(answer) as url, reports.hearing(exchange(url, roll=await roll_of())) as asking:
        async with asyncio.timeout(2):
            await asked_again.wait()
        assert asking.heard()[0].observation.observed_at_s >= NOW_S + 2


async def test_a_keeper_reads_now_and_then_anew_who_may_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "ROLL_S", 0.0)
    chain = Chain()
    roll = await roll_of(chain)
    async with reports.hearing(exchange(roll=roll)) as asking:
        asking.bundles({}, AT)
        chain.signers = SIGNERS[:3]
        await asyncio.sleep(0.1)
        assert roll.quorum.signers == SIGNERS[:3]


async def test_a_fault_of_our_own_while_asking_is_said_aloud() -> None:
    asking = exchange(roll=await roll_of())

    async def breaks() -> list[Report]:
        raise RuntimeError("broken")

    asking.ask = breaks  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with reports.hearing(asking):
            await asyncio.sleep(0.01)
    assert [(each["event"], each["why"]) for each in logs] == [("reports.ended", "RuntimeError('broken')")]


# --- the doctor ----------------------------------------------------------------------------------


async def looked_at(*urls: str) -> list[Finding]:
    head = Head(99, "0x", "0x", NOW_S, 0)
    return [each async for each in look_at_reports(MARKET, urls, Chain(), head)]  # type: ignore[arg-type]


async def test_the_doctor_sees_which_reporters_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_EXCHANGE_TOKEN", TOKEN)
    async with (
        serving(signed(0), signed(0, feed="ETH/USD")) as good,
        serving() as empty,
        serving(signed(9)) as bad,
    ):
        found = await looked_at(good, empty, bad, "http://127.0.0.1:1")
    assert [(each.mark, each.found) for each in found] == [
        (Mark.OK, f"2 reports by {SIGNERS[0]}"),
        (Mark.WARN, "it has nothing to tell"),
        (Mark.WARN, STRANGE),
        (Mark.WARN, "cannot be reached: ClientConnectorError"),
    ]
    assert found[0].what == f"reports {good}"


async def test_the_doctor_misses_the_token_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPER_EXCHANGE_TOKEN", raising=False)
    assert await looked_at() == []
    assert [each.mark for each in await looked_at("http://127.0.0.1:1")] == [Mark.BAD]
