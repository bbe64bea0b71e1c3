"""A download goes where an admin would let it go, and brings what was promised."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from accounts.errors import DomainError
from tests.images.server import ImageServer, redirect
from vms.images import addresses, download

CONTENT = b"disk" * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(settings: Any) -> Iterator[ImageServer]:
    with ImageServer() as running:
        running.files["/disk.img"] = CONTENT
        settings.IMAGE_ALLOWED_HOSTS = [f"127.0.0.1:{running.port}"]
        yield running


def fetch(url: str, path: Path, checksum: str = "") -> download.Downloaded:
    wanted = download.parse_checksum(checksum)
    return download.download(url, path, checksum=wanted, progress=lambda _done, _total: None)


def code(url: str, path: Path, checksum: str = "") -> str:
    with pytest.raises(DomainError) as caught:
        fetch(url, path, checksum)
    return caught.value.code


def test_an_allowed_host_may_be_http_and_private(server: ImageServer, tmp_path: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    got = download.download(
        server.url("/disk.img"),
        tmp_path / "x.part",
        checksum=download.parse_checksum(f"sha256:{SHA256}"),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert (tmp_path / "x.part").read_bytes() == CONTENT
    assert got.size_bytes == len(CONTENT)
    assert got.checksum.value == SHA256
    assert steps[0] == (0, len(CONTENT))
    assert steps[-1] == (len(CONTENT), len(CONTENT))


def test_sha512_and_wrong_checksums(server: ImageServer, tmp_path: Path) -> None:
    url, path = server.url("/disk.img"), tmp_path / "x.part"
    assert fetch(url, path, hashlib.sha512(CONTENT).hexdigest()).checksum.algorithm == "sha512"
    assert fetch(url, path, SHA256.upper()).checksum.value == SHA256
    assert code(url, path, "0" * 64) == "image.checksum_mismatch"
    assert code(url, path, "0" * 128) == "image.checksum_mismatch"


@pytest.mark.parametrize("text", ["x", "1" * 63, "md5:" + "1" * 32, "sha512:" + "1" * 64, "g" * 64])
def test_malformed_checksums(text: str) -> None:
    with pytest.raises(DomainError) as caught:
        download.parse_checksum(text)
    assert caught.value.code == "image.checksum_format"


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("", "image.url_invalid"),
        ("disk.img", "image.url_scheme"),
        ("ftp://example.org/disk.img", "image.url_scheme"),
        ("file:///etc/shadow", "image.url_scheme"),
        ("gopher://example.org/", "image.url_scheme"),
        ("https:///disk.img", "image.url_scheme"),
        ("http://example.org/disk.img", "image.url_not_https"),
        ("https://user:secret@example.org/disk.img", "image.url_credentials"),
        ("https://example.org:99999/", "image.url_invalid"),
        ("https://exa mple.org/\r\nX: y", "image.url_invalid"),
        ("https://example.org/" + "x" * 500, "image.url_invalid"),
        ("https://127.0.0.1/", "image.url_private"),
        ("https://127.1/", "image.url_private"),
        ("https://2130706433/", "image.url_private"),
        ("https://0x7f000001/", "image.url_private"),
        ("https://0/", "image.url_private"),
        ("https://[::1]/", "image.url_private"),
        ("https://[::ffff:127.0.0.1]/", "image.url_private"),
        ("https://[::ffff:a00:1]/", "image.url_private"),
        ("https://[2002:7f00:1::]/", "image.url_private"),
        ("https://[fe80::1]/", "image.url_private"),
        ("https://[fd00::1]/", "image.url_private"),
        ("https://[ff02::1]/", "image.url_private"),
        ("https://[::]/", "image.url_private"),
        ("https://10.0.0.1/", "image.url_private"),
        ("https://172.16.0.1/", "image.url_private"),
        ("https://192.168.1.1/", "image.url_private"),
        ("https://169.254.169.254/latest/meta-data/", "image.url_private"),
        ("https://100.64.0.1/", "image.url_private"),
        ("https://224.0.0.1/", "image.url_private"),
        ("https://240.0.0.1/", "image.url_private"),
        ("https://255.255.255.255/", "image.url_private"),
    ],
)
def test_urls_that_are_refused_as_typed(url: str, wanted: str) -> None:
    with pytest.raises(DomainError) as caught:
        addresses.check_url(url)
    assert caught.value.code == wanted
    assert caught.value.fields == {"url": wanted}


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111"])
def test_public_addresses_are_fine(address: str) -> None:
    assert addresses.is_public(ipaddress.ip_address(address))


def test_allowed_hosts_by_name_or_name_and_port(settings: Any) -> None:
    settings.IMAGE_ALLOWED_HOSTS = ["images.lan", "other.lan:8080", "[::1]:9000"]
    assert addresses.check_url("http://images.lan/x").allowed
    assert addresses.check_url("http://IMAGES.lan.:81/x").allowed
    assert addresses.check_url("http://other.lan:8080/x").allowed
    assert addresses.check_url("http://[::1]:9000/x").allowed
    for refused in ("http://other.lan/x", "http://x.images.lan/x", "http://[::1]/x"):
        with pytest.raises(DomainError):
            addresses.check_url(refused)


def test_another_port_of_an_allowed_host_is_not_allowed(
    server: ImageServer, tmp_path: Path, settings: Any
) -> None:
    settings.IMAGE_ALLOWED_HOSTS = [f"127.0.0.1:{server.port + 1}"]
    assert code(server.url("/disk.img"), tmp_path / "x") == "image.url_not_https"
    assert server.requests == []


def resolves_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """A name server with prepared answers, the last for ever. Gives the list of connections."""
    asked = iter(answers)
    last = answers[-1]
    connected: list[str] = []

    def getaddrinfo(_host: str, port: int, *_args: Any, **_kwargs: Any) -> list[Any]:
        found = next(asked, last)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in found]

    def create_connection(address: tuple[str, int], *_args: Any, **_kwargs: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    return connected


@pytest.mark.parametrize("private", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0"])
def test_a_public_name_with_a_private_address(
    private: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connected = resolves_to(monkeypatch, [private])
    assert code("https://images.example.org/x", tmp_path / "x") == "image.url_private"
    resolves_to(monkeypatch, ["93.184.216.34", private])  # one good answer does not help
    assert code("https://images.example.org/x", tmp_path / "x") == "image.url_private"
    assert connected == []


def test_rebinding_the_name_does_not_move_the_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connected = resolves_to(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    assert code("https://images.example.org/x", tmp_path / "x") == "image.unreachable"
    assert connected == ["93.184.216.34"]


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def getaddrinfo(*_args: Any, **_kwargs: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert code("https://nowhere.example.org/x", tmp_path / "x") == "image.url_unresolved"


def test_redirects_are_followed_and_checked_again(server: ImageServer, tmp_path: Path) -> None:
    path = tmp_path / "x"
    server.answers["/latest"] = redirect("/disk.img", 301)
    assert fetch(server.url("/latest"), path).size_bytes == len(CONTENT)
    for target, wanted in (
        ("http://169.254.169.254/latest/meta-data/", "image.url_not_https"),
        ("https://169.254.169.254/latest/meta-data/", "image.url_private"),
        ("https://[::ffff:127.0.0.1]/", "image.url_private"),
        (f"http://localhost:{server.port}/disk.img", "image.url_not_https"),
        ("file:///etc/shadow", "image.url_scheme"),
        ("https://u:p@example.org/", "image.url_credentials"),
    ):
        server.answers["/evil"] = redirect(target)
        assert code(server.url("/evil"), path) == wanted
    server.answers["/loop"] = redirect("/loop")
    assert code(server.url("/loop"), path) == "image.redirects"
    assert len([r for r in server.requests if r[0] == "/loop"]) == 6


def test_http_errors(server: ImageServer, tmp_path: Path) -> None:
    with pytest.raises(DomainError) as caught:
        fetch(server.url("/missing"), tmp_path / "x")
    assert caught.value.code == "image.http_status"
    assert caught.value.params["status"] == 404


def answer_of(length: int | None, body: bytes) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def test_too_big_by_its_header_and_by_its_body(
    server: ImageServer, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.IMAGE_MAX_FILE_GIB = 1
    server.answers["/header"] = answer_of(2 * 1024**3, b"")
    assert code(server.url("/header"), tmp_path / "x") == "image.file_too_big"
    assert not (tmp_path / "x").exists()
    monkeypatch.setattr(download, "GIB", 1024)  # so that "1 GiB" is 1 KiB
    server.answers["/body"] = answer_of(None, b"x" * 4096)
    assert code(server.url("/body"), tmp_path / "x") == "image.file_too_big"


def test_broken_off_in_the_middle(server: ImageServer, tmp_path: Path) -> None:
    server.answers["/short"] = answer_of(1000, b"x" * 10)
    assert code(server.url("/short"), tmp_path / "x") == "image.download_broken"


def test_a_server_that_says_nothing(
    server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        port = listener.getsockname()[1]
        settings.IMAGE_ALLOWED_HOSTS = [f"127.0.0.1:{port}"]
        assert code(f"http://127.0.0.1:{port}/x", tmp_path / "x") == "image.download_timeout"


def test_a_full_disk_is_noticed_before(
    server: ImageServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "DISK_RESERVE_BYTES", 1024**6)
    assert code(server.url("/disk.img"), tmp_path / "x") == "image.no_space"
    assert not (tmp_path / "x").exists()


def test_progress_can_stop_it(server: ImageServer, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def progress(done: int, _total: int | None) -> None:
        if done:
            raise StopError

    with pytest.raises(StopError):
        download.download(server.url("/disk.img"), tmp_path / "x", checksum=None, progress=progress)


def test_a_planted_link_is_not_followed(server: ImageServer, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "x.part").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        fetch(server.url("/disk.img"), tmp_path / "x.part")
    assert victim.read_text() == "precious"


def certificate(tmp_path: Path, host: str) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_tls_is_checked_against_the_name_not_the_address(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda _host, port, *args, **kwargs: real("127.0.0.1", port, *args, **kwargs),
    )
    settings.IMAGE_ALLOWED_HOSTS = ["images.lan", "other.lan"]
    with ImageServer(certificate(tmp_path, "images.lan")) as server:
        server.files["/disk.img"] = CONTENT
        good, wrong = server.url("/disk.img", "images.lan"), server.url("/disk.img", "other.lan")
        assert code(good, tmp_path / "x") == "image.tls_failed"  # nobody trusts it yet
        trusting = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
        monkeypatch.setattr(download, "_tls", lambda: trusting)
        assert fetch(good, tmp_path / "x").size_bytes == len(CONTENT)
        assert server.requests[-1][1]["Host"] == f"images.lan:{server.port}"
        assert code(wrong, tmp_path / "x") == "image.tls_failed"


GNU = f"{'a' * 64}  other.img\n{SHA256} *disk.img\n"
BSD = f"# disk.img: 400000 bytes\nSHA256 (disk.img) = {SHA256}\n"


@pytest.mark.parametrize("text", [GNU, BSD, SHA256 + "\n", f"{SHA256}  ./disk.img\n"])
def test_vendors_checksum_files(text: str, server: ImageServer) -> None:
    server.files["/SUMS"] = text.encode()
    found = download.fetch_checksum(server.url("/SUMS"), "disk.img")
    assert found == download.Checksum(algorithm="sha256", value=SHA256)


def test_a_checksum_file_that_does_not_name_it(server: ImageServer) -> None:
    server.files["/SUMS"] = f"{'a' * 64}  evil-disk.img\n".encode()
    with pytest.raises(DomainError) as caught:
        download.fetch_checksum(server.url("/SUMS"), "disk.img")
    assert caught.value.code == "image.checksum_not_listed"
    server.files["/SUMS"] = b"x" * (download.CHECKSUM_FILE_BYTES + 1)
    with pytest.raises(DomainError):
        download.fetch_checksum(server.url("/SUMS"), "disk.img")
