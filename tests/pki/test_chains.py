"""Chains as Go finds them; the texts of errors are Go's, since CFSSL's users see them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from ocspd.errors import Code, CodedError
from ocspd.pki.certs import load_der
from ocspd.pki.chain_link import Link
from ocspd.pki.chains import MAX_CHECKS, Pool, find_chains, is_chain, is_self_signed
from ocspd.pki.hostnames import check_hostname
from tests.authority.chains import NOW, YEAR, Made, ec_key, general_name, make, rsa_key

if TYPE_CHECKING:
    from collections.abc import Sequence


def pool(*made: Made) -> Pool:
    return Pool(each.certificate for each in made)


def names(found: Sequence[Sequence[Link]]) -> list[list[str]]:
    return [[link.name.common_name for link in chain] for chain in found]


def search(leaf: Made, roots: Sequence[Made], intermediates: Sequence[Made] = ()) -> list[list[str]]:
    return names(find_chains(Link(leaf.certificate), pool(*roots), pool(*intermediates), NOW))


def error(leaf: Made, roots: Sequence[Made], intermediates: Sequence[Made] = ()) -> CodedError:
    with pytest.raises(CodedError) as caught:
        search(leaf, roots, intermediates)
    return caught.value


def test_a_chain_goes_over_intermediates_to_a_root() -> None:
    root = make("root")
    upper = make("upper", root)
    lower = make("lower", upper)
    leaf = make("leaf", lower, ca=False)
    assert search(leaf, [root], [upper, lower]) == [["leaf", "lower", "upper", "root"]]
    assert search(leaf, [upper], [upper, lower]) == [["leaf", "lower", "upper"]]
    assert search(lower, [lower]) == [["lower"]]


def test_every_chain_is_found() -> None:
    """A cross-certified intermediate leads to both roots."""
    old, new = make("old"), make("new")
    inter = make("inter", new)
    cross = make("inter", old, key=inter.key)
    cross_root = make("new", old, key=new.key)
    leaf = make("leaf", inter, ca=False)
    found = search(leaf, [old, new], [inter, cross, cross_root])
    assert sorted(found) == [
        ["leaf", "inter", "new"],
        ["leaf", "inter", "new", "old"],
        ["leaf", "inter", "old"],
    ]


def test_the_issuer_with_the_right_key_identifier_is_tried_first() -> None:
    root = make("root")
    wrong = [make("inter", root) for _ in range(MAX_CHECKS)]
    right = make("inter", root)
    leaf = make("leaf", right, ca=False)
    assert search(leaf, [root], [*wrong, right]) == [["leaf", "inter", "root"]]


def test_a_web_of_cross_certificates_ends_at_the_limit_of_signatures() -> None:
    key = ec_key()
    root = make("root")
    # each of these may have issued each other one, so there are more chains than anyone can look at
    web = [
        make(f"ca {subject}", Made(make(f"ca {issuer}", key=key).certificate, key), key=key, key_ids=False)
        for subject in range(12)
        for issuer in range(12)
        if subject != issuer
    ]
    leaf = make("leaf", web[0], ca=False)
    caught = error(leaf, [root], web)
    assert caught.code is Code.CERT_VERIFY_FAILED
    assert "limit reached" in caught.message


def test_certificates_that_issued_each_other_do_not_lead_anywhere() -> None:
    one, other = make("one"), make("other")
    first = make("one", other, key=one.key)
    second = make("other", one, key=other.key)
    leaf = make("leaf", first, ca=False)
    assert error(leaf, [make("root")], [first, second]).code is Code.CERT_UNKNOWN_AUTHORITY


def test_without_an_issuer_the_authority_is_unknown() -> None:
    root = make("root")
    inter = make("inter", root)
    leaf = make("leaf", inter, ca=False)
    for roots, intermediates in (([], [inter]), ([root], []), ([make("root")], [inter]), ([], [])):
        caught = error(leaf, roots, intermediates)
        assert caught.code is Code.CERT_UNKNOWN_AUTHORITY
        assert caught.message.startswith("x509: certificate signed by unknown authority")


def test_the_first_reason_why_a_candidate_was_not_the_issuer_is_named() -> None:
    root, other = make("root"), make("root")
    leaf = make("leaf", root, ca=False)
    assert error(leaf, [other]).message == (
        'x509: certificate signed by unknown authority (possibly because of "x509: ECDSA verification '
        'failure" while trying to verify candidate authority certificate "root")'
    )
    nobody = make("root", ca=False)
    assert "parent certificate cannot sign this kind of certificate" in error(leaf, [nobody]).message
    limited = make("root", key_usage=True)
    assert "parent certificate cannot sign this kind of certificate" in error(leaf, [limited]).message
    rsa_root = make("rsa root", key=rsa_key())
    modern = make("leaf", rsa_root, ca=False)
    sha256, sha1 = (bytes.fromhex("2a864886f70d0101") + bytes([last]) for last in (11, 5))
    old = Made(x509.load_der_x509_certificate(modern.der.replace(sha256, sha1)), modern.key)
    assert "insecure algorithm SHA1-RSA" in error(old, [rsa_root]).message
    forged = make("leaf", rsa_root, ca=False, signed_by=rsa_key())
    assert "crypto/rsa: verification error" in error(forged, [rsa_root]).message


@pytest.mark.parametrize("which", ["leaf", "inter", "root"])
@pytest.mark.parametrize("expired", [True, False])
def test_every_certificate_must_be_valid_now(which: str, *, expired: bool) -> None:
    usual = (NOW - YEAR, NOW + YEAR)
    outside = (NOW - YEAR, NOW - timedelta(days=1)) if expired else (NOW + timedelta(days=1), NOW + YEAR)
    times = {"leaf": usual, "inter": usual, "root": usual, which: outside}
    root = make("root", begin=times["root"][0], end=times["root"][1])
    inter = make("inter", root, begin=times["inter"][0], end=times["inter"][1])
    leaf = make("leaf", inter, ca=False, begin=times["leaf"][0], end=times["leaf"][1])
    caught = error(leaf, [root], [inter])
    assert caught.code is Code.CERT_EXPIRED
    stamp = f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
    moment = (NOW + timedelta(days=-1 if expired else 1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert caught.message == (
        "x509: certificate has expired or is not yet valid: "
        f"current time {stamp} is {'after' if expired else 'before'} {moment}"
    )


def test_a_valid_certificate_of_the_same_issuer_is_used_instead_of_an_expired_one() -> None:
    root = make("root")
    expired = make("inter", root, end=NOW - timedelta(days=1))
    renewed = make("inter", root, key=expired.key)
    leaf = make("leaf", renewed, ca=False)
    for intermediates in ([expired, renewed], [renewed, expired]):
        assert search(leaf, [root], intermediates) == [["leaf", "inter", "root"]]


def test_a_path_length_limits_the_intermediates() -> None:
    root = make("root", path_len=0)
    inter = make("inter", root)
    assert search(make("leaf", root, ca=False), [root]) == [["leaf", "root"]]
    caught = error(make("leaf", inter, ca=False), [root], [inter])
    assert caught.code is Code.CERT_TOO_MANY_INTERMEDIATES
    assert caught.message == "x509: too many intermediates for path length constraint"


def test_an_unknown_critical_extension_excludes_a_certificate() -> None:
    root = make("root")
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    leaf = make("leaf", root, ca=False, extra=[(unknown, True)])
    caught = error(leaf, [root])
    assert (caught.code, caught.message) == (Code.CERT_VERIFY_FAILED, "x509: unhandled critical extension")
    assert search(make("leaf", root, ca=False, extra=[(unknown, False)]), [root]) == [["leaf", "root"]]


def test_a_root_is_a_ca_by_its_constraints_or_has_no_extensions_at_all() -> None:
    nobody = make("root", constraints=False)  # version 3
    assert "cannot sign this kind" in error(make("leaf", nobody, ca=False), [nobody]).message
    assert is_self_signed(Link(make("root").certificate))
    assert not is_self_signed(Link(make("leaf", ca=False).certificate))


def subtrees(permitted: Sequence[str] = (), excluded: Sequence[str] = ()) -> x509.NameConstraints:
    import ipaddress

    def tree(name: str) -> x509.GeneralName:
        return (
            x509.IPAddress(ipaddress.ip_network(name))
            if name[0].isdigit() and "/" in name
            else general_name(name)
        )

    return x509.NameConstraints(
        [tree(name) for name in permitted] or None, [tree(name) for name in excluded] or None
    )


@pytest.mark.parametrize(
    ("permitted", "excluded", "hosts", "allowed"),
    [
        (["example.com"], [], ["example.com"], True),
        (["example.com"], [], ["a.b.example.com"], True),
        (["example.com"], [], ["EXAMPLE.com"], True),
        (["example.com"], [], ["example.org"], False),
        (["example.com"], [], ["notexample.com"], False),
        (["example.com"], [], ["example.com", "example.org"], False),
        (["example.com"], [], ["10.0.0.1"], True),  # of another kind
        (["example.com"], [], ["*.example.com"], True),
        ([".example.com"], [], ["a.example.com"], True),
        ([".example.com"], [], ["example.com"], False),
        ([], ["example.com"], ["a.example.com"], False),
        ([], ["example.com"], ["example.org"], True),
        (["com"], ["example.com"], ["other.com"], True),
        (["10.0.0.0/8"], [], ["10.1.2.3"], True),
        (["10.0.0.0/8"], [], ["11.1.2.3"], False),
        ([], ["10.0.0.0/8"], ["10.1.2.3"], False),
        (["10.0.0.0/8"], [], ["2001:db8::1"], False),
        (["example.com"], [], ["a@example.org"], True),
        (["a@example.com"], [], ["a@example.com"], True),
        (["a@example.com"], [], ["b@example.com"], False),
        ([], ["a@example.com"], ["a@example.com"], False),
    ],
)
def test_name_constraints_apply_to_names_of_their_kind(
    permitted: Sequence[str], excluded: Sequence[str], hosts: Sequence[str], *, allowed: bool
) -> None:
    root = make("root")
    inter = make("inter", root, extra=[(subtrees(permitted, excluded), True)])
    leaf = make("leaf", inter, ca=False, hosts=hosts)
    if allowed:
        assert search(leaf, [root], [inter]) == [["leaf", "inter", "root"]]
    else:
        caught = error(leaf, [root], [inter])
        assert caught.code is Code.CERT_NAME_NOT_ALLOWED
        assert "is not authorized to sign for this name: " in caught.message


@pytest.mark.parametrize("name", ["{}.a", "{}." + "b." * 250 + "a"], ids=["short", "long"])
def test_names_are_compared_with_constraints_a_limited_number_of_times_in_a_search(name: str) -> None:
    """Each of the CAs is below Go's limit for one; together they would cost minutes of CPU for a request."""
    key = ec_key()
    limits = subtrees(["a"], [f"x{number}" for number in range(400)])
    cas = [
        make("inter", make("other"), key=key, extra=[(limits, True)], hosts=[f"h{number}.a"])
        for number in range(8)
    ]
    leaf = make("leaf", cas[0], ca=False, hosts=[name.format(number) for number in range(200)])
    root = make("root")
    assert error(leaf, [root], cas[:1]).code is Code.CERT_UNKNOWN_AUTHORITY
    caught = error(leaf, [root], cas)
    assert caught.code is Code.CERT_VERIFY_FAILED
    assert caught.message == "x509: too many name constraints to check"


def test_the_serial_number_is_read_without_a_warning_whatever_it_is() -> None:
    plain = make("plain")
    assert Link(plain.certificate).serial == plain.certificate.serial_number
    encoded = plain.certificate.serial_number.to_bytes(20, "big")
    negative = plain.der.replace(encoded, b"\xff" + encoded[1:], 1)
    assert Link(load_der(negative)).serial < 0


def test_what_forms_a_chain_is_signed_one_by_the_next() -> None:
    root = make("root")
    inter = make("inter", root)
    leaf = make("leaf", inter, ca=False)
    links = [Link(each.certificate) for each in (leaf, inter, root)]
    assert is_chain(links)
    assert is_chain(links[:1])
    assert not is_chain(links[::-1])
    assert not is_chain([links[0], links[2]])


@pytest.mark.parametrize(
    ("hosts", "host", "message"),
    [
        (["a.example"], "a.example", ""),
        (["a.example"], "A.Example", ""),
        (["a.example"], "a.example.", ""),
        (["*.example"], "a.example", ""),
        (["*.example"], "a.b.example", "x509: certificate is valid for *.example, not a.b.example"),
        (["*.example"], "example", "x509: certificate is valid for *.example, not example"),
        (["a.*.example"], "a.b.example", "x509: certificate is valid for a.*.example, not a.b.example"),
        (["a.example", "b.example"], "c", "x509: certificate is valid for a.example, b.example, not c"),
        (["192.0.2.1"], "192.0.2.1", ""),
        (["192.0.2.1"], "192.0.2.2", "x509: certificate is valid for 192.0.2.1, not 192.0.2.2"),
        (["2001:db8::1"], "[2001:db8::1]", ""),
        (
            ["a"],
            "192.0.2.1",
            "x509: cannot validate certificate for 192.0.2.1 because it doesn't contain any IP SANs",
        ),
        ([], "b", "x509: certificate is not valid for any names, but wanted to match b"),
        ([], "leaf", "x509: certificate relies on legacy Common Name field, use SANs instead"),
        (["a"], "", "x509: certificate is valid for a, not "),
    ],
)
def test_a_host_is_compared_as_in_go(hosts: Sequence[str], host: str, message: str) -> None:
    certificate = make("leaf", ca=False, hosts=hosts).certificate
    if not message:
        check_hostname(certificate, host)
        return
    with pytest.raises(CodedError) as caught:
        check_hostname(certificate, host)
    assert (caught.value.code, caught.value.message) == (Code.CERT_VERIFY_FAILED, message)


def test_lifetimes_do_not_matter_for_whether_there_is_a_chain() -> None:
    root = make("root", end=NOW + 30 * YEAR)
    leaf = make("leaf", root, ca=False, end=NOW + 40 * YEAR)
    assert search(leaf, [root]) == [["leaf", "root"]]
