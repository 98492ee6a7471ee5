from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocspd.cli.flags import (
    Flags,
    HelpRequested,
    boolean,
    duration,
    integer,
    parse,
    quote,
    string,
    strings,
)
from ocspd.cli.global_flags import GLOBAL_FLAGS
from ocspd.cli.verb import Verb
from ocspd.errors import UsageError
from ocspd.limits import PORT, Range
from ocspd.wire import MAX_DURATION
from tests.tools import need

FLAGS = (
    string("s", "text", "default"),
    string("empty", "text"),
    boolean("b", "switch"),
    replace(integer("n", "number", 7, limits=Range(-(1 << 63), (1 << 63) - 1)), cfssl=True),
    replace(
        duration("d", "duration", timedelta(hours=96), limits=Range(-MAX_DURATION, MAX_DURATION)), cfssl=True
    ),
    strings("many", "several"),
)


def values(flags: Flags) -> tuple[object, ...]:
    return (flags.string("s"), flags.boolean("b"), flags.integer("n"), flags.duration("d"))


DEFAULTS = ("default", False, 7, timedelta(hours=96))


@pytest.mark.parametrize("dash", ["-", "--"])
@pytest.mark.parametrize("words", [["{}s", "v"], ["{}s=v"]])
def test_one_or_two_dashes_and_a_space_or_an_equals_sign_are_the_same(dash: str, words: list[str]) -> None:
    flags, rest = parse([word.format(dash) for word in words], FLAGS)
    assert (flags.string("s"), rest) == ("v", [])


@pytest.mark.parametrize(
    ("words", "expected", "rest"),
    [
        ([], DEFAULTS, []),
        (["-b"], ("default", True, 7, timedelta(hours=96)), []),
        (["-b", "true"], ("default", True, 7, timedelta(hours=96)), ["true"]),
        (["-b=false", "x"], DEFAULTS, ["x"]),
        (["-s="], ("", False, 7, timedelta(hours=96)), []),
        (["-s", "-b"], ("-b", False, 7, timedelta(hours=96)), []),
        (["-s", "--"], ("--", False, 7, timedelta(hours=96)), []),
        (["-s=a=b"], ("a=b", False, 7, timedelta(hours=96)), []),
        (["-s", "a", "-s", "b"], ("b", False, 7, timedelta(hours=96)), []),
        (["-"], DEFAULTS, ["-"]),
        (["", "x"], DEFAULTS, ["", "x"]),
        (["--", "-b", "--"], DEFAULTS, ["-b", "--"]),
        (["x", "-n=3", "y", "-b"], ("default", True, 3, timedelta(hours=96)), ["x", "y"]),
        (["-n", "-3"], ("default", False, -3, timedelta(hours=96)), []),
        (["-d", "1h30m"], ("default", False, 7, timedelta(minutes=90)), []),
        (["-d=0"], ("default", False, 7, timedelta()), []),
    ],
)
def test_words_are_read_as_go_reads_them(
    words: list[str], expected: tuple[object, ...], rest: list[str]
) -> None:
    flags, positional = parse(words, FLAGS)
    assert (values(flags), positional) == (expected, rest)


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_every_word_for_true_is_accepted(text: str) -> None:
    assert parse([f"-b={text}"], FLAGS)[0].boolean("b") is True


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "FALSE", "False"])
def test_every_word_for_false_is_accepted(text: str) -> None:
    assert parse(["-b", f"-b={text}"], FLAGS)[0].boolean("b") is False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("42", 42),
        ("+42", 42),
        ("-42", -42),
        ("0x1f", 31),
        ("0X1F", 31),
        ("-0x1f", -31),
        ("0b101", 5),
        ("010", 8),
        ("0o10", 8),
        ("00", 0),
        ("1_000", 1000),
        ("0x_1f", 31),
        ("0_7", 7),
        ("9223372036854775807", (1 << 63) - 1),
        ("-9223372036854775808", -(1 << 63)),
    ],
)
def test_integers_have_go_literal_forms(text: str, value: int) -> None:
    assert parse(["-n", text], FLAGS)[0].integer("n") == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-x"], "flag provided but not defined: -x"),
        (["--x=1"], "flag provided but not defined: -x"),
        (["-s"], "flag needs an argument: -s"),
        (["--n"], "flag needs an argument: -n"),
        (["-n", "x"], 'invalid value "x" for flag -n: parse error'),
        (["-n="], 'invalid value "" for flag -n: parse error'),
        (["-n=1__0"], 'invalid value "1__0" for flag -n: parse error'),
        (["-n=_1"], 'invalid value "_1" for flag -n: parse error'),
        (["-n=08"], 'invalid value "08" for flag -n: parse error'),
        (["-n=1.5"], 'invalid value "1.5" for flag -n: parse error'),
        (["-n=9223372036854775808"], 'invalid value "9223372036854775808" for flag -n: value out of range'),
        (["-n", "\u0663"], 'invalid value "\u0663" for flag -n: parse error'),
        (["-b=maybe"], 'invalid boolean value "maybe" for -b: parse error'),
        (["-b="], 'invalid boolean value "" for -b: parse error'),
        (["-d", "5"], 'invalid value "5" for flag -d: parse error'),
        (["-d", "1d"], 'invalid value "1d" for flag -d: parse error'),
        (["-d", 'a"\n'], 'invalid value "a\\"\\n" for flag -d: parse error'),
        (["---x"], "bad flag syntax: ---x"),
        (["-=v"], "bad flag syntax: -=v"),
        (["--=v"], "bad flag syntax: --=v"),
        (["x", "-nope"], "flag provided but not defined: -nope"),
    ],
)
def test_a_mistake_is_reported_in_go_words(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words, FLAGS)
    assert str(caught.value) == message


@pytest.mark.parametrize("word", ["-h", "--h", "-help", "--help", "-h=1"])
def test_help_is_asked_for_by_any_of_its_names(word: str) -> None:
    with pytest.raises(HelpRequested):
        parse(["x", word], FLAGS)


def test_a_declared_flag_named_h_is_not_help() -> None:
    flags, _ = parse(["-h", "example.org"], (string("h", "host"),))
    assert flags.string("h") == "example.org"


def test_a_repeatable_flag_keeps_every_occurrence_in_order() -> None:
    flags, _ = parse(["-many", "a", "x", "-many=b"], FLAGS)
    assert flags.strings("many") == ("a", "b")
    assert parse([], FLAGS)[0].strings("many") == ()


def test_a_single_flag_can_be_read_as_a_list_of_at_most_one() -> None:
    flags, _ = parse(["-s", "x"], FLAGS)
    assert (flags.strings("s"), flags.strings("empty")) == (("x",), ())


def test_a_flag_given_its_default_was_set_all_the_same() -> None:
    flags, _ = parse(["-n", "7"], FLAGS)
    assert (flags.was_set("n"), flags.was_set("s")) == (True, False)


def test_asking_for_an_undeclared_flag_or_another_kind_is_a_bug() -> None:
    flags, _ = parse([], FLAGS)
    with pytest.raises(KeyError):
        flags.string("absent")
    with pytest.raises(TypeError):
        flags.string("n")


def test_help_lines_have_cfssl_form() -> None:
    assert [flag.help_line() for flag in FLAGS] == [
        "  -s=default: text",
        '  -empty="": text',
        "  -b=false: switch",
        "  -n=7: number",
        "  -d=96h0m0s: duration",
        '  -many="": several',
    ]


def test_a_verb_accepts_the_whole_table_and_its_own_flags_and_lists_only_its_own() -> None:
    verb = Verb(
        "v",
        "ocspd v -- x",
        ("ca", strings("responder", "one each"), integer("port", "p", 8889, limits=PORT)),
        print,
    )
    flags, _ = parse(["-db-config", "f", "-responder", "a", "-responder", "b"], verb.declared())
    assert (flags.string("db-config"), flags.strings("responder"), flags.integer("port")) == (
        "f",
        ("a", "b"),
        8889,
    )
    listed = [line.split("=")[0].strip() for line in verb.help().splitlines() if line.startswith("  -")]
    assert listed == ["-ca", "-responder", "-port", "-loglevel"]


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("s"), text),
            st.tuples(st.just("b"), st.booleans()),
            st.tuples(st.just("n"), st.integers(-(1 << 63), (1 << 63) - 1)),
            st.tuples(st.just(""), text.filter(lambda word: not word.startswith("-") or word == "-")),
        )
    ),
    st.lists(text),
    st.randoms(use_true_random=False),
)
def test_whatever_is_written_is_read_back(
    items: list[tuple[str, object]], tail: list[str], random: object
) -> None:
    words: list[str] = []
    expected: dict[str, object] = {"s": "default", "b": False, "n": 7}
    positional: list[str] = []
    for number, (name, value) in enumerate(items):
        dash = "-" if number % 2 else "--"
        if not name:
            words.append(str(value))
            positional.append(str(value))
        elif name == "b":
            words.append(f"{dash}b={'T' if value else '0'}")
            expected["b"] = value
        else:
            words += [f"{dash}{name}={value}"] if number % 3 else [f"{dash}{name}", str(value)]
            expected[name] = value
    flags, rest = parse([*words, "--", *tail], FLAGS)
    assert rest == positional + tail
    assert {"s": flags.string("s"), "b": flags.boolean("b"), "n": flags.integer("n")} == expected


@given(st.lists(st.text(max_size=8)))
def test_any_words_are_parsed_or_refused_with_the_documented_errors(words: list[str]) -> None:
    with contextlib.suppress(UsageError, HelpRequested):
        parse(words, FLAGS)


@pytest.mark.parametrize(
    "words",
    [
        ["-nope"],
        ["---x"],
        ["-=x"],
        ["-loglevel"],
        ["-loglevel", "x"],
        ["-loglevel=1_0_"],
        ["-loglevel", "0x"],
        ["-loglevel", "99999999999999999999"],
        ["-initca=maybe"],
        ["-initca="],
        ["-interval", "5"],
        ["-interval", "1d"],
        ["-interval", "h"],
        ["-interval", "\x01\u00e9\u202e"],
        ["-num-workers", "0b2"],
        ["-max-hosts", "08"],
    ],
)
def test_the_first_line_of_a_mistake_is_the_one_cfssl_prints(words: list[str]) -> None:
    theirs = subprocess.run([need("cfssl"), "version", *words], capture_output=True, check=False)
    with pytest.raises(UsageError) as caught:
        parse(words, GLOBAL_FLAGS.values())
    assert (theirs.returncode, theirs.stderr.decode().splitlines()[0]) == (2, str(caught.value))


def test_every_flag_of_cfssl_has_its_default_and_kind_here() -> None:
    seen = {}
    for verb in (
        "gencert",
        "sign",
        "serve",
        "bundle",
        "scan",
        "ocspsign",
        "ocsprefresh",
        "ocspserve",
        "revoke",
    ):
        shown = subprocess.run([need("cfssl"), verb, "-h"], capture_output=True, check=False).stderr.decode()
        for line in shown.splitlines():
            if line.startswith("  -"):
                name, _, default = line.strip().split(": ")[0][1:].partition("=")
                seen[name] = default
    # 1.2.0 says -password=0; so do later versions. Everything it lists must be equal here.
    ours = {name: flag.help_line().split(": ")[0].partition("=")[2] for name, flag in GLOBAL_FLAGS.items()}
    assert {name: ours.get(name) for name in seen} == seen
    assert len(seen) > 30


def test_quoting_follows_go() -> None:
    assert quote('a"\\\n\x00\x7f\udcff\u202e\U000e0001é') == '"a\\"\\\\\\n\\x00\\x7f\\xff\\u202e\\U000e0001é"'
