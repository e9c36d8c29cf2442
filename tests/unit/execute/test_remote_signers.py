"""Signers elsewhere: they sign what a key here would sign, and whatever else they say is not believed."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import structlog
import trustme
from aiohttp import web
from eth_account import Account
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st

from keeper.errors import ConfigError, InvariantBroken, SignerFault
from keeper.execute import kms, signers, web3signer
from keeper.execute.keys import KEY_VARIABLE, KeyParams, LocalSigner
from keeper.execute.signer import ORDER, RemoteSigner, Signed, completed, fields_of
from keeper.execute.signers import SignerParams, open_signer, reached, unlock
from tests.unit.execute.stub_web3signer import StubWeb3Signer

KEY = bytes.fromhex("4c" * 32)
ADDRESS = Account.from_key(KEY).address.lower()
OTHER_KEY = b"\x05" * 32
TX = {
    "type": 2,
    "chainId": 1,
    "nonce": 7,
    "to": "0x" + "d1" * 20,
    "data": "0x1234",
    "value": 0,
    "gas": 21_000,
    "maxFeePerGas": 3 * 10**9,
    "maxPriorityFeePerGas": 10**9,
}
PATIENT_S = 30.0
"""Longer than any answer takes that comes at all."""


@pytest.fixture(autouse=True)
def _no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
async def stub() -> AsyncIterator[StubWeb3Signer]:
    stub = StubWeb3Signer(KEY)
    async with stub.serving():
        yield stub


def params(
    stub: StubWeb3Signer, tls: Mapping[str, Path] = MappingProxyType({}), timeout_s: float = PATIENT_S
) -> SignerParams:
    return SignerParams(KeyParams(address=ADDRESS), web3signer.Params(stub.url, timeout_s, **tls))


async def fault_of(signer: RemoteSigner) -> str:
    with pytest.raises(SignerFault) as caught:
        await signer.sign(TX)
    assert signer.fault == str(caught.value)
    return signer.fault


# --- what is signed ------------------------------------------------------------------------------

WORDS = st.sampled_from([0, 1, 127, 128, 255, 256]) | st.integers(min_value=0, max_value=2**96)
DATA = st.binary(max_size=80) | st.sampled_from([1, 55, 56, 255, 256, 4_000]).map(lambda size: b"\x12" * size)
COMMON = {
    "chainId": st.integers(min_value=1, max_value=2**62),
    "nonce": st.integers(min_value=0, max_value=2**64 - 2),
    "to": st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex()),
    "data": DATA.map(lambda raw: "0x" + raw.hex()),
    "value": WORDS,
    "gas": WORDS,
}
DYNAMIC = st.fixed_dictionaries(
    {"type": st.just(2), **COMMON, "maxFeePerGas": WORDS, "maxPriorityFeePerGas": WORDS}
)
LEGACY = st.fixed_dictionaries({**COMMON, "gasPrice": WORDS})


@given(tx=DYNAMIC | LEGACY, key=st.integers(min_value=1, max_value=ORDER - 1), is_high=st.booleans())
def test_a_transaction_signed_here_or_elsewhere_is_the_one_that_eth_account_signs(
    tx: dict[str, Any], key: int, is_high: bool
) -> None:
    account = Account.from_key(key.to_bytes(32))
    theirs = account.sign_transaction({**tx, "to": to_checksum_address(tx["to"])})
    s = ORDER - theirs.s if is_high else theirs.s
    elsewhere = completed(fields_of(tx), theirs.r.to_bytes(32) + s.to_bytes(32), account.address.lower())
    here = asyncio.run(LocalSigner(account).sign(tx))
    assert here == elsewhere
    assert (here.raw, here.tx_hash) == (bytes(theirs.raw_transaction), theirs.hash.to_0x_hex())


@pytest.mark.parametrize(
    "broken",
    [
        {**TX, "type": 1},
        {**TX, "accessList": []},
        {name: value for name, value in TX.items() if name != "gas"},
        {name: value for name, value in TX.items() if name != "type"},
        {**TX, "to": "0x" + "d1" * 19},
        {**TX, "to": 7},
        {**TX, "data": "0x123"},
        {**TX, "data": None},
        {**TX, "value": -1},
        {**TX, "nonce": "0x07"},
        {**TX, "chainId": True},
    ],
)
def test_what_is_no_transaction_of_the_keeper_is_not_signed(broken: dict[str, Any]) -> None:
    with pytest.raises(InvariantBroken, match="cannot be signed"):
        fields_of(broken)


@pytest.mark.parametrize("signature", [b"", b"\x00" * 64, b"\xff" * 64, b"\x01" * 65, b"\x01" * 64])
def test_what_is_no_signature_of_the_wallet_is_not_believed(signature: bytes) -> None:
    with pytest.raises(SignerFault):
        completed(fields_of(TX), signature, ADDRESS)


# --- Web3Signer ----------------------------------------------------------------------------------


async def test_web3signer_signs_what_the_key_itself_would(stub: StubWeb3Signer) -> None:
    async with reached(params(stub)) as signer:
        assert await signer.sign(TX) == await LocalSigner(Account.from_key(KEY)).sign(TX)
        await signer.sign({**TX, "nonce": 8})
        assert signer.fault is None
    signing = f"/api/v1/eth1/sign/{stub.identifier}"
    assert stub.asked == ["/api/v1/eth1/publicKeys", signing, signing]


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (web.Response(status=400), "HTTP 400: it does not take the request"),
        (web.Response(status=403), "HTTP 403: it does not take requests for this host name"),
        (web.Response(status=404), "HTTP 404: it has no such key"),
        (web.Response(status=500, text="stack trace"), "HTTP 500: it failed"),
        (web.Response(status=302, headers={"Location": "/elsewhere"}), "HTTP 302"),
        (web.Response(text=""), "not 65 bytes"),
        (web.Response(text="0x1234"), "not 65 bytes"),
        (web.Response(body=b"\xff" * 132), "not 65 bytes"),
        (web.Response(text="0x" + "00" * 65), f"no signature of {ADDRESS}"),
        (web.Response(text="0x" + "11" * 65), f"no signature of {ADDRESS}"),
        (web.Response(text="x" * (4 * 2**20 + 1)), "longer than"),
    ],
)
async def test_what_web3signer_says_instead_of_a_signature_is_a_fault(
    stub: StubWeb3Signer, says: web.Response, why: str
) -> None:
    stub.says = says
    async with reached(params(stub)) as signer:
        said = await fault_of(signer)
        assert why in said
        assert stub.url in said
        assert "stack trace" not in said


async def test_a_signature_of_another_key_is_not_believed(stub: StubWeb3Signer) -> None:
    stub.signs_with = OTHER_KEY
    async with reached(params(stub)) as signer:
        assert f"no signature of {ADDRESS}" in await fault_of(signer)
        stub.signs_with = None
        await signer.sign(TX)
        assert signer.fault is None


async def test_a_web3signer_without_the_key_is_told(stub: StubWeb3Signer) -> None:
    stub.key = OTHER_KEY
    async with reached(params(stub)) as signer:
        assert f"it has no key of {ADDRESS}" in await fault_of(signer)
        with pytest.raises(SignerFault, match=f"holds no key of {ADDRESS}, only 2 others"):
            await signer.check()


async def test_a_slow_web3signer_is_given_up(stub: StubWeb3Signer) -> None:
    stub.is_slow = True
    async with reached(params(stub, timeout_s=0.2)) as signer:
        assert "no answer within 0.2 s" in await fault_of(signer)


async def test_a_web3signer_that_is_away_is_told_and_found_again() -> None:
    stub = StubWeb3Signer(KEY)
    async with stub.serving():
        port = int(stub.url.rpartition(":")[2])
        found = params(stub)
    async with reached(found) as signer:
        assert "it cannot be asked: Cannot connect" in await fault_of(signer)
        async with stub.serving(port=port):
            await signer.sign(TX)
    assert signer.fault is None


async def test_nobody_is_asked_twice_where_something_was_sent() -> None:
    lines = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal lines
        await reader.readline()
        lines += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        session_of = web3signer.web3signer(web3signer.Params(f"http://127.0.0.1:{port}"))
        async with session_of as holder:
            with pytest.raises(SignerFault, match="it cannot be asked"):
                await holder._ask("POST", "/", {})
    assert lines == 1


async def test_web3signer_and_the_keeper_know_each_other_by_certificates(tmp_path: Path) -> None:
    ca, stranger = trustme.CA(), trustme.CA()
    files = {}
    for name, pem in {
        "ca": ca.cert_pem,
        "other_ca": stranger.cert_pem,
        "cert": (mine := ca.issue_cert("keeper")).cert_chain_pems[0],
        "key": mine.private_key_pem,
    }.items():
        files[name] = tmp_path / f"{name}.pem"
        pem.write_to_path(files[name])
        files[name].chmod(0o600)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    ca.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    stub, ours = StubWeb3Signer(KEY), {"cert_file": files["cert"], "key_file": files["key"]}
    async with stub.serving(tls=tls):
        async with reached(params(stub, {"ca_file": files["ca"], **ours})) as signer:
            await signer.sign(TX)
        for strange in ({"ca_file": files["ca"]}, {"ca_file": files["other_ca"], **ours}, ours):
            async with reached(params(stub, strange)) as signer:
                assert "it cannot be asked" in await fault_of(signer)

    files["key"].chmod(0o644)
    with pytest.raises(ConfigError, match=r"key\.pem holds a secret and may be read by everybody"):
        async with reached(params(stub, ours)):
            pass
    for broken, setting in (("ca_file", "ca_file"), ("cert_file", "cert_file and signer.key_file")):
        files["key"].chmod(0o600)
        with pytest.raises(ConfigError, match=f"signer.{setting}"):
            async with reached(params(stub, {**ours, broken: files["key"]})):
                pass


# --- which wallet --------------------------------------------------------------------------------


async def test_whose_wallet_it_is_is_not_left_to_the_signer(stub: StubWeb3Signer) -> None:
    nobodys = SignerParams(elsewhere=web3signer.Params(stub.url, PATIENT_S))
    with pytest.raises(
        ConfigError, match=r"wallet\.address is not set; Web3Signer at .* signs for 0x"
    ) as told:
        async with open_signer(nobodys, unlock(nobodys)):
            pass
    assert ADDRESS in str(told.value)


def test_a_key_here_and_a_signer_elsewhere_are_one_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = web3signer.Params("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="which key is meant"):
        unlock(SignerParams(KeyParams(keystore=tmp_path), elsewhere))
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    with pytest.raises(ConfigError, match="which key is meant"):
        unlock(SignerParams(elsewhere=elsewhere))


async def test_a_signer_is_missed_before_it_is_needed_and_noticed_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = {"signer.lost": asyncio.Event(), "signer.back": asyncio.Event()}

    def hear(_: object, __: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        heard[event["event"]].set()
        raise structlog.DropEvent

    monkeypatch.setattr(signers, "CHECK_S", 0.01)
    monkeypatch.setattr(signers, "log", structlog.wrap_logger(None, processors=[hear]))
    stub = StubWeb3Signer(KEY)
    async with stub.serving():
        port, found = int(stub.url.rpartition(":")[2]), params(stub)
    async with open_signer(found, unlock(found)) as signer:
        await heard["signer.lost"].wait()
        assert "it cannot be asked" in str(signer.fault)
        async with stub.serving(port=port):
            await heard["signer.back"].wait()
            assert signer.fault is None


async def test_a_signer_that_has_the_key_and_does_not_sign_is_not_back(
    monkeypatch: pytest.MonkeyPatch, stub: StubWeb3Signer
) -> None:
    monkeypatch.setattr(signers, "CHECK_S", 0.001)
    stub.says = web.Response(status=500)
    async with open_signer(params(stub), None) as signer:
        with pytest.raises(SignerFault, match="HTTP 500"):
            await signer.sign(TX)
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert "HTTP 500" in str(signer.fault)


# --- AWS KMS -------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a client of a KMS that is moto's, made to sign a digest as it is.

    moto 5.2 hashes whatever it is given (``ECDSAPrivateKey.sign``), a message of the type DIGEST too.
    """
    import boto3
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256
    from moto import mock_aws
    from moto.kms.responses import KmsResponse
    from moto.kms.utils import ECDSAPrivateKey

    def sign(key: Any, message: bytes, signing_algorithm: str) -> bytes:
        assert signing_algorithm == "ECDSA_SHA_256"
        signature: bytes = key.private_key.sign(message, ec.ECDSA(utils.Prehashed(SHA256())))
        return signature

    def answer(asked: Any) -> Any:
        assert asked._get_param("MessageType") == "DIGEST"
        return answered(asked)

    answered = KmsResponse.sign
    monkeypatch.setattr(ECDSAPrivateKey, "sign", sign)
    monkeypatch.setattr(KmsResponse, "sign", answer)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.client("kms", region_name="eu-central-1")


def key_of(aws: Any, spec: str = "ECC_SECG_P256K1") -> str:
    made = aws.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")
    key_id: str = made["KeyMetadata"]["KeyId"]
    return key_id


async def address_in(key_id: str) -> str:
    async with kms.aws_kms(kms.Params(key_id, "eu-central-1")) as holder:
        (address,) = await holder.addresses()
    return address


def in_kms(key_id: str, address: str) -> SignerParams:
    return SignerParams(KeyParams(address=address), kms.Params(key_id, "eu-central-1", timeout_s=PATIENT_S))


async def test_kms_signs_for_the_address_of_its_key(aws: Any) -> None:
    key_id = key_of(aws)
    address = await address_in(key_id)
    async with reached(in_kms(key_id, address)) as signer:
        await signer.check()
        for nonce in range(8):
            signed = await signer.sign({**TX, "nonce": nonce})
            assert Account.recover_transaction(signed.raw).lower() == address
        assert signer.fault is None


async def test_a_key_of_kms_that_is_not_the_wallets_is_told(aws: Any) -> None:
    key_id = key_of(aws)
    async with reached(in_kms(key_id, ADDRESS)) as signer:
        said = await fault_of(signer)
        assert said == f"AWS KMS key {key_id}: what it returned is no signature of {ADDRESS}"
        with pytest.raises(SignerFault, match=f"holds no key of {ADDRESS}"):
            await signer.check()


async def test_a_key_of_another_curve_is_told(aws: Any) -> None:
    with pytest.raises(SignerFault, match="not of the kind ECC_SECG_P256K1"):
        await address_in(key_of(aws, "ECC_NIST_P256"))


@pytest.mark.usefixtures("aws")
async def test_a_key_that_kms_does_not_have_is_told() -> None:
    unknown = "00000000-0000-0000-0000-000000000000"
    async with reached(in_kms(unknown, ADDRESS)) as signer:
        assert await fault_of(signer) == f"AWS KMS key {unknown}: NotFoundException"


async def test_kms_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    away = kms.Params("alias/keeper", "eu-central-1", "http://127.0.0.1:1", PATIENT_S)
    async with reached(SignerParams(KeyParams(address=ADDRESS), away)) as signer:
        assert "EndpointConnectionError" in await fault_of(signer)


async def test_without_the_extra_it_is_said_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3.session", None)
    with pytest.raises(ConfigError, match=r"needs the extra kms: pip install"):
        await address_in("alias/keeper")


async def test_kms_without_a_region_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(ConfigError, match="You must specify a region"):
        async with kms.aws_kms(kms.Params("alias/keeper")):
            pass


@pytest.mark.parametrize(
    "der",
    [
        "",
        "30",
        "3006020101",
        "300602010102010100",
        "30070201010201010000",
        "3106020101020101",
        "3006030101020101",
        "30060201ff020101",
        "3028022101" + "00" * 32 + "020101",
    ],
)
def test_what_is_no_signature_in_der_is_not_believed(der: str) -> None:
    with pytest.raises(SignerFault, match="no DER"):
        kms.compact_of(bytes.fromhex(der))


def test_a_signature_in_der_is_read() -> None:
    r, s = 0xFF << 248, 1
    der = bytes.fromhex("3026022100ff" + "00" * 31 + "020101")
    assert kms.compact_of(der) == r.to_bytes(32) + s.to_bytes(32)


# --- several wallets in one process ---------------------------------------------------------------


async def test_signers_of_several_wallets_work_side_by_side(aws: Any, stub: StubWeb3Signer) -> None:
    other = StubWeb3Signer(OTHER_KEY)
    keys = [key_of(aws) for _ in range(2)]
    addresses = [await address_in(key) for key in keys]
    second = Account.from_key(OTHER_KEY).address.lower()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(other.serving())
        of_other = SignerParams(KeyParams(address=second), web3signer.Params(other.url, PATIENT_S))
        wanted = [params(stub), of_other, *map(in_kms, keys, addresses)]
        opened = [await stack.enter_async_context(open_signer(each, unlock(each))) for each in wanted]
        asked = [(signer, {**TX, "nonce": nonce}) for nonce in range(12) for signer in opened]
        signed = await asyncio.gather(*(signer.sign(tx) for signer, tx in asked))
        for (signer, _), found in zip(asked, signed, strict=True):
            assert Account.recover_transaction(found.raw).lower() == signer.address
        assert len({each.tx_hash for each in signed}) == len(asked)
        assert [each.address for each in opened] == [ADDRESS, second, *addresses]


async def test_a_signer_that_is_away_holds_up_no_other_wallets(aws: Any, stub: StubWeb3Signer) -> None:
    key = key_of(aws)
    async with (
        open_signer(params(stub, timeout_s=1.0), None) as away,
        open_signer(in_kms(key, await address_in(key)), None) as there,
    ):
        stub.is_slow = True
        lost, signed = await asyncio.gather(away.sign(TX), there.sign(TX), return_exceptions=True)
        assert isinstance(lost, SignerFault)
        assert isinstance(signed, Signed)
        assert (there.fault, away.fault) == (None, str(lost))
        stub.is_slow = False
        assert Account.recover_transaction((await away.sign(TX)).raw).lower() == ADDRESS
