"""A real slapd (OpenLDAP) of a test's own: on loopback, in a temporary folder, ended with it.

The Shire: people below ``ou=people``, groups below ``ou=groups``, and below ``ou=clubs`` groups
that anybody may make. It also knows what of Active Directory's schema the tests need.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldap3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import wait_for

BASE = "dc=shire,dc=test"
ROOT_DN, ROOT_PASSWORD = f"cn=root,{BASE}", "one ring"
SEARCH_DN, SEARCH_PASSWORD = f"cn=search,{BASE}", "look only"
PASSWORD = "second breakfast"
_MODULES = Path("/usr/lib/ldap")
_SCHEMA = Path("/etc/ldap/schema")

_CONF = """
include {schema}/core.schema
include {schema}/cosine.schema
include {schema}/nis.schema
include {schema}/inetorgperson.schema
attributetype ( 1.2.840.113556.1.4.221 NAME 'sAMAccountName' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.656 NAME 'userPrincipalName' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' EQUALITY integerMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.2 NAME 'objectGUID' EQUALITY octetStringMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.782 NAME 'objectCategory' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
objectclass ( 1.2.840.113556.1.5.9 NAME 'adUser' SUP inetOrgPerson STRUCTURAL
  MAY ( sAMAccountName $ userPrincipalName $ userAccountControl $ objectGUID $ objectCategory ) )
modulepath {modules}
moduleload back_mdb
pidfile {folder}/pid
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
# The careless server: a bind without a password succeeds as nobody.
allow bind_anon_cred bind_anon_dn
database mdb
maxsize 16777216
suffix "{base}"
rootdn "{root_dn}"
rootpw "{root_password}"
directory {folder}/data
dbnosync
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{search_dn}" read by self read by users read by * none
"""

_LDIF = f"""
dn: {BASE}
objectClass: dcObject
objectClass: organization
o: The Shire
dc: shire

dn: {SEARCH_DN}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: search
userPassword: {SEARCH_PASSWORD}

dn: ou=people,{BASE}
objectClass: organizationalUnit
ou: people

dn: ou=groups,{BASE}
objectClass: organizationalUnit
ou: groups

dn: ou=clubs,{BASE}
objectClass: organizationalUnit
ou: clubs
"""


def is_there() -> bool:
    return slapd() is not None and (_MODULES / "back_mdb.so").exists()


def slapd() -> str | None:
    return shutil.which("slapd", path="/usr/sbin:/usr/local/sbin:/usr/libexec")


class Slapd:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kvmweb-ldap-"))
        (self.folder / "data").mkdir()
        self.ca_file = make_certificates(self.folder)
        # Under another path: Ubuntu's AppArmor profile of slapd knows no temporary folders.
        self.binary = self.folder / "slapd"
        shutil.copy2(slapd() or "slapd", self.binary)
        (self.folder / "slapd.conf").write_text(
            _CONF.format(
                schema=_SCHEMA,
                modules=_MODULES,
                folder=self.folder,
                base=BASE,
                root_dn=ROOT_DN,
                root_password=ROOT_PASSWORD,
                search_dn=SEARCH_DN,
            )
        )
        (self.folder / "tree.ldif").write_text(_LDIF)
        load = [
            str(self.binary),
            "-T",
            "add",
            *self._config(),
            "-l",
            str(self.folder / "tree.ldif"),
        ]
        subprocess.run(load, check=True, capture_output=True, timeout=60)
        self.port, self.tls_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"ldaps://127.0.0.1:{self.tls_port}"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # With -d it stays in the foreground, a child of ours.
                [
                    str(self.binary),
                    *self._config(),
                    "-d",
                    "0",
                    "-h",
                    f"{self.url}/ {self.tls_url}/",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, f"slapd answers ({self.folder / 'log'})")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def as_root(self) -> Iterator[Any]:
        """A connection that may change everything; each failure raises."""
        server = ldap3.Server(self.url, get_info=ldap3.NONE)
        with ldap3.Connection(server, ROOT_DN, ROOT_PASSWORD, raise_exceptions=True) as connection:
            yield connection

    def add(self, dn: str, classes: str, **attributes: Any) -> str:
        with self.as_root() as connection:
            connection.add(f"{dn},{BASE}", classes.split(), attributes)
        return f"{dn},{BASE}"

    def add_person(self, uid: str, **more: Any) -> str:
        attributes = {
            "cn": uid,
            "sn": "Baggins",
            "givenName": uid.capitalize(),
            "mail": f"{uid}@shire.test",
            "userPassword": PASSWORD,
        } | more
        return self.add(f"uid={uid},ou=people", "inetOrgPerson", **attributes)

    def add_group(self, name: str, *members: str, below: str = "ou=groups") -> str:
        return self.add(f"cn={name},{below}", "groupOfNames", member=list(members))

    def change(self, dn: str, **attributes: Any) -> None:
        with self.as_root() as connection:
            changes = {
                name: [(ldap3.MODIFY_REPLACE, value if isinstance(value, list) else [value])]
                for name, value in attributes.items()
            }
            connection.modify(dn, changes)

    def delete(self, dn: str) -> None:
        with self.as_root() as connection:
            connection.delete(dn)

    def empty(self) -> None:
        """Take away everybody and every group."""
        with self.as_root() as connection:
            for below in ("people", "groups", "clubs"):
                base = f"ou={below},{BASE}"
                connection.search(base, "(objectClass=*)", search_scope=ldap3.LEVEL)
                for entry in connection.response:
                    connection.delete(entry["dn"])

    def _config(self) -> list[str]:
        return ["-f", str(self.folder / "slapd.conf")]

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"slapd ended: {(self.folder / 'log').read_text()[-2000:]}")
        try:
            with socket.create_connection(("127.0.0.1", self.tls_port), timeout=1):
                pass
            with self.as_root():
                return True
        except (OSError, ldap3.core.exceptions.LDAPException):
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificates(folder: Path) -> str:
    """An authority, and by it a certificate for 127.0.0.1 alone; the authority's file."""
    now = dt.datetime.now(dt.timezone.utc)
    authority, key = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )

    def certificate(subject: str, public: Any, *more: tuple[Any, bool]) -> Any:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The Shire's CA")]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )
        for extension, critical in more:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(authority, hashes.SHA256())

    own = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    ca = certificate(
        "The Shire's CA",
        authority.public_key(),
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (own, False),
        (usage, True),
    )
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = certificate("shire", key.public_key(), (names, False), (issuer, False))
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "server.pem").write_bytes(server.public_bytes(pem))
    (folder / "server.key").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return str(folder / "ca.pem")
