"""The steps of the demo, from an empty directory to a revocation that is served within a second."""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any

from ocspd.cli.demo_processes import Processes, fetch
from ocspd.cli.demo_questions import CHAIN, ISSUER, StatusReport, openssl_words, status_client
from ocspd.cli.io import write_stdout
from ocspd.errors import OCSPDError

if TYPE_CHECKING:
    from pathlib import Path

    from ocspd.cli.demo_questions import StatusClient

_API_PORT, _RESPONDER_PORT, _ADMIN_PORT = 8888, 8889, 9402
_VISIBLE_S = 30.0
_EXPECTED = {"alice": "good", "bob": "revoked", "carol": "good", "mallory": "unauthorized"}


def _subject(common_name: str, **more: Any) -> dict[str, Any]:
    names = [{"C": "FR", "L": "Toulouse", "OU": "ACME operations"}]
    return {"CN": common_name, "key": {"algo": "ecdsa", "size": 256}, "names": names} | more


def _signing_config(api_port: int, responder_port: int) -> dict[str, Any]:
    expiry = "26280h"
    leaf = {
        "expiry": expiry,
        "ocsp_url": f"http://127.0.0.1:{responder_port}",
        "crl_url": f"http://127.0.0.1:{api_port}/crl",
    }
    usages = ["signing", "key encipherment"]
    return {
        "signing": {
            "default": {**leaf, "usages": [*usages, "client auth"]},
            "profiles": {
                "intermediate": {
                    "usages": ["cert sign", "crl sign"],
                    "expiry": expiry,
                    "ca_constraint": {"is_ca": True},
                },
                "ocsp": {
                    "usages": ["digital signature", "ocsp signing"],
                    "expiry": expiry,
                    "ocsp_no_check": True,
                },
                "server": {**leaf, "usages": [*usages, "server auth"]},
                "client": {**leaf, "usages": [*usages, "client auth"]},
            },
        }
    }


class Story:
    """The steps, in order; each describes what it does and shows its command line."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self._directory = directory
        self._processes = processes
        self._step = 0
        self.api_port = self._processes.port(_API_PORT)
        self.responder_port = self._processes.port(_RESPONDER_PORT)
        self.metrics = ""
        self.api = f"http://127.0.0.1:{self.api_port}/api/v1/cfssl"
        self.responder = f"http://127.0.0.1:{self.responder_port}"
        self._client: StatusClient = status_client(directory, self.responder)

    def tell(self) -> None:
        """Run all steps; OCSPDError at the first unexpected result."""
        self._database()
        self._authorities()
        self._serve_api()
        self._certificates()
        self._revoke("bob", "keyCompromise")
        self._presign()
        self._serve_responses()
        self._check_all(_EXPECTED)
        self._revoke_live("carol")

    def _explain(self, text: str) -> None:
        self._step += 1
        say(f"\n{self._step:2}  {text}")

    def _show(self, *commands: list[str], background: bool = False) -> None:
        say("    $ " + " | ".join(shlex.join(command) for command in commands) + (" &" if background else ""))

    def _ocspd(self, *words: str, json_base: str = "") -> bytes:
        """Show and run a command; with `json_base` its output is passed to `ocspd json -bare`."""
        split = ["json", "-bare", json_base]
        self._show(["ocspd", *words], *([["ocspd", *split]] if json_base else []))
        output = self._processes.verb(words)
        if json_base:
            self._processes.verb(split, output)
        return output

    def _write(self, name: str, value: Any) -> None:
        (self._directory / name).write_text(json.dumps(value, indent=2) + "\n")

    def _database(self) -> None:
        self._explain("A SQLite database for certificates and their status; db.json names it.")
        self._write("db.json", {"driver": "sqlite3", "data_source": "certs.db"})
        self._ocspd("db", "up", "-db-config", "db.json")

    def _authorities(self) -> None:
        self._explain(
            "The root CA, self-signed. In practice its key goes offline once the intermediate is signed."
        )
        self._write("ca-csr.json", _subject("Demo root CA"))
        self._ocspd("gencert", "-initca", "ca-csr.json", json_base="ca")

        self._explain(
            "The intermediate CA, which signs all other certificates; config.json has the profiles."
        )
        self._write("config.json", _signing_config(self.api_port, self.responder_port))
        self._write("ca-server.csr.json", _subject("Demo intermediate CA"))
        by_root = ["-ca", "ca.pem", "-ca-key", "ca-key.pem", "-config", "config.json"]
        self._ocspd(
            "gencert", *by_root, "-profile", "intermediate", "ca-server.csr.json", json_base="ca-server"
        )
        chain = b"".join((self._directory / name).read_bytes() for name in (ISSUER, "ca.pem"))
        (self._directory / CHAIN).write_bytes(chain)

        self._explain("A certificate for signing OCSP responses, so that the CA key is not needed for them.")
        self._write("ocsp.csr.json", _subject("Demo OCSP signer"))
        self._ocspd(
            "gencert", *self._by_intermediate(), "-profile", "ocsp", "ocsp.csr.json", json_base="ocsp"
        )

    def _by_intermediate(self) -> list[str]:
        return ["-ca", ISSUER, "-ca-key", "ca-server-key.pem", "-config", "config.json"]

    def _serve_api(self) -> None:
        self._explain(
            "The authority's HTTP API, in the background; it stores every certificate in the database."
        )
        words = ["serve", "-port", str(self.api_port), "-db-config", "db.json", *self._by_intermediate()]
        words += ["-responder", "ocsp.pem", "-responder-key", "ocsp-key.pem"]
        self._show(["ocspd", *words], background=True)
        self._processes.server(words, f"{self.api}/health")

    def _certificates(self) -> None:
        self._explain("alice and bob make their own keys and have the API sign their requests.")
        for name in ("alice", "bob"):
            self._write(f"{name}.json", _subject(name, hosts=[f"{name}.example.org"]))
            self._ocspd("genkey", f"{name}.json", json_base=name)
            remote = f"127.0.0.1:{self.api_port}"
            self._ocspd("sign", "-remote", remote, "-profile", "client", f"{name}.csr", json_base=name)

        self._explain("carol gets a key and a certificate with one request to the API.")
        request = {"request": _subject("carol", hosts=["carol.example.org"]), "profile": "server"}
        self._write("carol.json", request)
        self._show(["curl", "-s", "-d", "@carol.json", f"{self.api}/newcert"], ["ocspd", "json", "carol"])
        reply = fetch(f"{self.api}/newcert", body=json.dumps(request).encode())
        self._processes.verb(["json", "carol"], reply)

        self._explain("mallory's certificate bypasses the database: it is signed without -db-config.")
        self._write("mallory.json", _subject("mallory", hosts=["mallory.example.org"]))
        words = ["gencert", *self._by_intermediate(), "-profile", "client", "mallory.json"]
        self._ocspd(*words, json_base="mallory")

    def revocation(self, name: str, reason: str) -> list[str]:
        """Return the command line that revokes NAME.pem."""
        return ["revoke", "-db-config", "db.json", "-cert", f"{name}.pem", "-reason", reason]

    def _revoke(self, name: str, reason: str) -> None:
        self._explain(f"{name}'s certificate is revoked (without the file, use -serial and -aki).")
        self._ocspd(*self.revocation(name, reason))

    def _signing_flags(self) -> list[str]:
        return [
            "-db-config",
            "db.json",
            "-ca",
            ISSUER,
            "-responder",
            "ocsp.pem",
            "-responder-key",
            "ocsp-key.pem",
        ]

    def _presign(self) -> None:
        self._explain("An OCSP response is signed for every certificate in the database, valid for 96 hours.")
        self._ocspd("ocsprefresh", *self._signing_flags())

    def _serve_responses(self) -> None:
        self._explain("The responder, in the background; with the signer's key it also follows the database.")
        words = ["ocspserve", "-port", str(self.responder_port), *self._signing_flags()]
        admin_port = self._processes.port(_ADMIN_PORT)  # a default port, so chosen as late as possible
        self.metrics = f"http://127.0.0.1:{admin_port}/metrics"
        words += ["-admin-port", str(admin_port)]
        self._show(["ocspd", *words], background=True)
        self._processes.server(words, f"{self.responder}/")

    def _check_all(self, expected: dict[str, str]) -> None:
        self._explain("The status of each certificate, requested like this:")
        self._show(["openssl", *openssl_words("alice", self.responder)])
        if not self._client.who.startswith("openssl"):
            say("    openssl is not installed here, so ocspd's built-in check is used instead")
        reports = {name: self._client.check(name) for name in expected}
        self._table(reports)
        for name, report in reports.items():
            definitive = expected[name] != "unauthorized"
            if report.status != expected[name] or report.verified != definitive:
                raise OCSPDError(
                    f"{name} should be {expected[name]}, but {self._client.who}: {report.status}, "
                    f"signature {'' if report.verified else 'not '}verified ({report.details})"
                )

    def _table(self, reports: dict[str, StatusReport]) -> None:
        rows = [("certificate", self._client.who, "signature", "details")]
        for name, report in reports.items():
            rows.append((name, report.status, "verified" if report.verified else "-", report.details))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        say()
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            say("    " + "  ".join([*cells, row[3]]))

    def _revoke_live(self, name: str) -> None:
        self._explain(f"Now {name} is revoked while the responder is running. How soon is it visible?")
        self._ocspd(*self.revocation(name, "superseded"))
        start = time.monotonic()
        while True:
            report = self._client.check(name)
            taken = time.monotonic() - start
            if report.status == "revoked":
                break
            self._processes.check()
            if taken > _VISIBLE_S:
                raise OCSPDError(f"{name} is still {report.status} {taken:.0f} s after its revocation")
            time.sleep(0.02)
        if not report.verified:
            raise OCSPDError(f"the signature of the response about {name} could not be verified")
        say(f"    {self._client.who}: revoked ({report.details})")
        say(f"    visible {taken * 1000:.0f} ms after the command ended")


def say(text: str = "") -> None:
    """Print a line at once: the reader is watching."""
    write_stdout(text + "\n")
