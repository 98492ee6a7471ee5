"""The same command lines for Debian's cfssl and for ours: exit code, stdout, files, and kind of error.

Every difference is one that docs/cfssl-compat.md names, or one between Debian's old program and CFSSL's HEAD.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.interchange.programs import Case, Outcome, run
from tests.tools import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CA = "-ca ca.pem -ca-key ca-key.pem"
CONFIG = f"{CA} -config config.json"
OCSP = "-ca ca.pem -responder ocsp.pem -responder-key ocsp-key.pem -cert client.pem"
MISSING_CA = "A missing `-ca` or `-ca-key` ends with an error line and exit status 1"

CASES = [
    # -- making requests and CAs
    Case("genkey leaf.json"),
    Case("genkey -", {"CN": "x", "hosts": ["x.example"]}),
    Case("genkey -initca ca.json"),
    Case("genkey caps.json"),
    Case("genkey twice.json"),
    Case("genkey unknown.json"),
    Case("genkey ca.json"),
    Case("genkey nowhere.json"),
    Case("genkey empty.json"),
    Case("genkey curly.json"),
    Case("genkey wrongtype.json"),
    Case("genkey"),
    Case("genkey -", {"CN": "x", "key": {"algo": "rsa", "size": 2048}}),
    Case("genkey -", {"CN": "x", "key": {"algo": "rsa", "size": 1024}}),
    Case("genkey -", {"CN": "x", "key": {"algo": "ecdsa", "size": 1}}),
    Case("genkey -", {"CN": "x", "key": {"algo": "dsa", "size": 1024}}),
    Case("gencert -initca leaf.json"),
    Case("gencert -initca ca.json"),
    Case("gencert -initca badca.json"),
    Case("gencert -initca noname.json"),
    Case("gencert -initca -ca-key ca-key.pem ca.json"),
    Case("gencert -initca -ca-key leaf.csr ca.json"),
    Case("gencert -renewca -ca ca.pem -ca-key ca-key.pem"),
    Case("gencert -renewca -ca ca.pem -ca-key leaf-key.pem"),
    Case("gencert -renewca -ca leaf.csr -ca-key ca-key.pem"),
    # -- signing
    Case(f"gencert {CA} leaf.json"),
    Case(f"gencert {CONFIG} -profile client leaf.json"),
    Case(f"gencert {CONFIG} -profile nonexistent leaf.json"),
    Case(f"gencert {CONFIG} -hostname a.example,10.0.0.1 leaf.json"),
    Case(f"gencert {CONFIG} -cn other leaf.json", head=(0, "")),
    Case(f"gencert {CA} ca.json"),
    Case("gencert leaf.json", differs=MISSING_CA),
    Case("sign leaf.csr", differs=MISSING_CA),
    Case(f"sign {CONFIG} leaf.csr"),
    Case(f"sign {CONFIG} -csr leaf.csr"),
    Case(f"sign {CONFIG} -profile ocsp leaf.csr"),
    Case(f"sign {CONFIG} -hostname b.example leaf.csr subject.json"),
    Case(f"sign {CONFIG} leaf.csr subject.json"),
    Case(f"sign {CONFIG} nowhere.csr"),
    Case(f"sign {CONFIG} junk.pem"),
    Case(f"sign {CONFIG} ca.pem"),
    Case(f"sign {CONFIG}"),
    Case(f"sign {CA} -config nowhere.json leaf.csr"),
    Case(f"sign {CA} -config empty.json leaf.csr"),
    Case(f"sign {CA} -config noexpiry.json leaf.csr"),
    Case(f"sign {CA} -config badwhitelist.json leaf.csr", head=(1, "plain")),
    Case(f"sign {CA} -config whitelist.json -profile www leaf.csr"),
    Case(f"sign {CA} -config whitelist.json -profile go leaf.csr"),
    Case("sign -ca ca.pem -ca-key leaf-key.pem leaf.csr", head=(1, "1000")),
    Case("sign -ca ca.pem -ca-key junk.pem leaf.csr"),
    Case("sign -ca ca.pem -ca-key k1-key.pem leaf.csr"),
    Case("sign -ca junk.pem -ca-key ca-key.pem leaf.csr"),
    Case("sign -ca nowhere.pem -ca-key ca-key.pem leaf.csr"),
    Case("sign -ca ca.pem -ca-key nowhere.pem leaf.csr"),
    Case("sign -ca ca.pem -ca-key locked-key.pem leaf.csr"),
    Case("sign -ca ca.pem -ca-key locked-key.pem leaf.csr", env={"CFSSL_CA_PK_PASSWORD": "right"}),
    Case("sign -ca ca.pem -ca-key locked-key.pem leaf.csr", env={"CFSSL_CA_PK_PASSWORD": "wrong"}),
    Case(f"sign {CONFIG} -db-config nowhere.json leaf.csr"),
    Case(f"sign {CONFIG} -db-config baddb.json leaf.csr"),
    Case(f"sign {CONFIG} -db-config oracle.json leaf.csr"),
    Case("gencert -initca -ca-key nowhere.pem ca.json"),
    Case("gencert -renewca -ca ca.pem -ca-key nowhere.pem"),
    Case("info -config config.json -ca ca.pem -ca-key nowhere.pem"),
    Case(f"info {CONFIG}"),
    Case(f"info {CONFIG} -profile client"),
    Case("info -config config.json"),
    Case("info"),
    # -- statuses
    Case(f"ocspsign {OCSP}", differs="ResponderID is byKey"),
    Case(f"ocspsign {OCSP} -status revoked -reason 1", differs="ResponderID is byKey"),
    Case(f"ocspsign {OCSP} -status fine"),
    Case(f"ocspsign {OCSP} -status revoked -reason nonsense"),
    Case(f"ocspsign {OCSP} -status revoked -reason 11"),
    Case(f"ocspsign {OCSP} -status revoked -reason 1 -revoked-at soon"),
    Case("ocspsign -ca ca.pem -responder ocsp.pem -responder-key ocsp-key.pem -cert foreign.pem"),
    Case("ocspsign -ca ca.pem -responder ocsp.pem -responder-key ocsp-key.pem -cert nowhere.pem"),
    Case("ocspsign -ca ca.pem -responder ocsp.pem -responder-key ocsp-key.pem"),
    Case("ocspsign -ca ca.pem -cert client.pem"),
    Case("ocspsign -ca ca.pem -responder ocsp.pem -responder-key nowhere.pem -cert client.pem"),
    Case("ocspsign -ca ca.pem -responder nowhere.pem -responder-key ocsp-key.pem -cert client.pem"),
    Case("ocspsign -ca nowhere.pem -responder ocsp.pem -responder-key ocsp-key.pem -cert client.pem"),
    Case("ocspsign -ca junk.pem -responder ocsp.pem -responder-key ocsp-key.pem -cert client.pem"),
    Case("gencrl - ca.pem ca-key.pem", "1\n\n123456789012345678901234567890\n"),
    Case("gencrl - ca.pem ca-key.pem", ""),
    Case("gencrl - ca.pem ca-key.pem", "x\n", differs="A serial number that is not decimal is refused"),
    Case("gencrl - ca.pem leaf-key.pem", "1\n", differs="A key that does not belong to the certificate is"),
    Case("gencrl nowhere ca.pem ca-key.pem"),
    Case("gencrl - nowhere.pem ca-key.pem"),
    Case("gencrl - ca.pem nowhere.pem"),
    Case("gencrl - junk.pem ca-key.pem"),
    Case("gencrl - ca.pem junk.pem"),
    Case("gencrl - ca.pem locked-key.pem", "1\n"),
    Case("gencrl - ca.pem"),
    Case("gencrl"),
    Case("revoke"),
    Case("revoke -serial 5"),
    Case("revoke -serial 5 -aki ab"),
    Case("revoke -db-config db.json"),
    Case("revoke -db-config nowhere.json -serial 5 -aki ab"),
    Case("revoke -db-config db.json -serial 5 -aki ab x"),
    Case("ocspdump"),
    Case("ocspdump -db-config nowhere.json"),
    Case("ocspdump -db-config baddb.json"),
    Case("ocsprefresh"),
    Case("ocsprefresh -db-config db.json"),
    Case("ocsprefresh -db-config db.json -responder ocsp.pem"),
    Case("ocsprefresh -db-config db.json -responder ocsp.pem -responder-key ocsp-key.pem"),
    Case("ocsprefresh -db-config nowhere.json -ca ca.pem -responder ocsp.pem -responder-key ocsp-key.pem"),
    Case("ocspserve"),
    Case("ocspserve -responses nowhere"),
    Case("ocspserve x"),
    Case("serve x"),
    Case("serve -db-config nowhere.json"),
    Case("serve -db-config baddb.json"),
    Case("serve -config nowhere.json"),
    # -- inspecting
    Case("certinfo"),
    Case("certinfo -csr leaf.csr"),
    Case("certinfo -csr nowhere.csr"),
    Case("certinfo -cert nowhere.pem"),
    Case("certinfo -cert junk.pem"),
    Case("bundle"),
    Case("bundle -cert ca.pem"),
    Case("bundle -cert nowhere.pem"),
    Case("bundle -cert junk.pem"),
    Case("bundle -cert client.pem -ca-bundle foreign.pem"),
    Case("bundle -cert client.pem -ca-bundle ca.pem -key ca-key.pem"),
    Case("gencrl"),
    Case("gencrl serials"),
    Case("gencrl nowhere ca.pem ca-key.pem"),
    Case("gencrl serials junk.pem ca-key.pem"),
    Case("gencrl serials ca.pem junk.pem"),
    Case("scan", differs="if there is no host; CFSSL logs the first"),
    Case("scan -family [ localhost", differs="if an expression, `-ca-bundle` or `-csv` cannot be used"),
    # -- the rest
    Case(""),
    Case("help"),
    Case("nonsense"),
    Case("-loglevel 0 sign"),
    Case("sign -nonsense"),
    Case("sign -port x"),
    Case("sign -initca=maybe"),
    Case("sign -ca"),
    Case("sign -h"),
    Case("print-defaults"),
    Case("print-defaults csr"),
    Case("print-defaults nonsense"),
    Case("print-defaults config", differs="`print-defaults config` has the profiles"),
    Case("selfsign x.example bare.json"),
    Case("selfsign x.example"),
    Case("selfsign"),
]


def listed() -> str:
    return " ".join((ROOT / "docs" / "cfssl-compat.md").read_text().split())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case} {case.env or ''}".strip())
def test_both_programs_do_the_same_or_the_list_says_so(
    case: Case, ours: Path, theirs: str, places: tuple[Path, Path]
) -> None:
    expected, told_theirs = run(theirs, case, places[0])
    found, told_ours = run(ours, case, places[1])
    if case.head is not None:
        expected = Outcome(case.head[0], found.stdout, case.head[1], found.files)
    told = f"theirs: {told_theirs}\nours: {told_ours}"
    if case.differs:
        assert case.differs in listed(), "the list of differences has no such line"
        assert found != expected, f"no difference any more: {case.differs}\n{told}"
        return
    assert replace(found, stdout="") == replace(expected, stdout=""), told
    assert found.stdout == expected.stdout, told
    assert "Traceback" not in told_ours
