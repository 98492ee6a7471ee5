"""Every flag of every verb that holds a number or a duration has a range, and says so in one line."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from ocspd.cli.flags import Kind, boolean, integer, parse
from ocspd.cli.global_flags import GLOBAL_FLAGS
from ocspd.cli.main import _VERBS, find_verb, main
from ocspd.config import load_signer_config
from ocspd.errors import ConfigError, RangeError, UsageError
from ocspd.limits import Range
from ocspd.shown import HIDDEN
from ocspd.wire import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ocspd.cli.flags import Flag
    from ocspd.cli.verb import Verb

NUMBERS = {Kind.INTEGER, Kind.DURATION}


def verbs() -> Iterator[Verb]:
    for name in _VERBS:
        verb = find_verb(name)
        assert verb is not None
        yield from verb.actions or (verb,)


def numeric() -> list[tuple[str, Flag]]:
    """(verb, flag) of every flag with a number or a duration that some verb accepts."""
    found = [(verb.name, flag) for verb in verbs() for flag in verb.declared() if flag.kind in NUMBERS]
    assert {flag.name for _, flag in found} >= {"port", "interval", "processes", "workers", "index-poll"}
    return found


def written(value: int | timedelta) -> str:
    return format_duration(value) if isinstance(value, timedelta) else str(value)


def limits_of(flag: Flag) -> Range[Any]:
    assert flag.limits is not None
    return flag.limits


def accepted(flag: Flag) -> list[str]:
    limits = limits_of(flag)
    return [written(limits.low), written(limits.high), *(["0"] if limits.zero else [])]


def refused(flag: Flag) -> list[str]:
    """Values just outside of the range, and far outside."""
    limits = limits_of(flag)
    step = timedelta(microseconds=1) if isinstance(limits.low, timedelta) else 1
    unit = "h" if isinstance(limits.low, timedelta) else ""
    values = [f"-1{unit}", written(limits.high + step), f"-{10**18}" + ("ns" if unit else "")]
    if limits.low and not limits.zero:
        values.append("0")
    if not flag.cfssl:  # CFSSL says of its own flags "value out of range" or "parse error", and so do we
        values += [f"{10**30}{unit}", f"-{10**30}{unit}"]
    return values


def test_no_number_and_no_duration_is_declared_without_a_range() -> None:
    assert [(verb, flag.name) for verb, flag in numeric() if flag.limits is None] == []
    assert [flag.name for flag in GLOBAL_FLAGS.values() if flag.kind in NUMBERS and flag.limits is None] == []


def test_a_range_is_one_an_operator_can_mean() -> None:
    for verb, flag in numeric():
        limits = limits_of(flag)
        nothing = timedelta() if flag.kind is Kind.DURATION else 0
        assert nothing <= limits.low < limits.high, (verb, flag.name)
        assert flag.default in limits, (verb, flag.name)


def test_a_flag_that_several_verbs_have_has_one_range() -> None:
    ranges: dict[str, set[str]] = {}
    for _, flag in numeric():
        ranges.setdefault(flag.name, set()).add(str(flag.limits))
    assert {name: texts for name, texts in ranges.items() if len(texts) > 1} == {}


def test_every_value_out_of_range_is_one_line_with_flag_value_and_range(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for verb, flag in numeric():
        for text in refused(flag):
            code = main([*verb.split(), f"-{flag.name}", text])
            out, err = capfd.readouterr()
            expected = f'invalid value "{text}" for flag -{flag.name}: use {flag.limits}\n'
            assert (code, out, err) == (2, "", expected), (verb, flag.name, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9" * 5000, 'invalid value "' + "9" * 60 + '..." for flag -n: use 0 to 8'),
        ("0x" + "5ec1" * 8, f"invalid value {HIDDEN} for flag -n: use 0 to 8"),
    ],
)
def test_the_value_shown_is_short_and_no_key(text: str, message: str) -> None:
    with pytest.raises(RangeError) as caught:
        parse(["-n", text], [integer("n", "number", limits=Range(0, 8))])
    assert str(caught.value) == message


def test_limits_and_a_zero_that_means_something_are_accepted() -> None:
    for _, flag in numeric():
        for text in accepted(flag):
            parse([f"-{flag.name}={text}"], [flag])


@pytest.mark.parametrize("text", ["", "x", "1.5x", "nan", "inf", "1e3", "0x", "\u0663", " 1", "1 "])
def test_what_is_no_number_is_refused_in_go_words(text: str) -> None:
    for _, flag in numeric():
        with pytest.raises(UsageError, match=f"for flag -{flag.name}: parse error$"):
            parse([f"-{flag.name}={text}"], [flag])


@pytest.mark.parametrize(
    ("text", "value"), [("0" * 100 + "7", 7), ("0x" + "0" * 100 + "8", 8), ("-" + "0" * 90, 0)]
)
def test_leading_zeros_do_not_change_a_number(text: str, value: int) -> None:
    flag = integer("n", "number", limits=Range(0, 8))
    assert parse(["-n", text], [flag])[0].integer("n") == value


def test_a_range_names_what_zero_means_and_writes_durations_shortly() -> None:
    assert str(Range(1, 1024, "one on each CPU")) == "1 to 1024, or 0 for one on each CPU"
    assert str(Range(timedelta(milliseconds=50), timedelta(days=365))) == "50ms to 8760h"
    assert str(Range(timedelta(), timedelta(seconds=61))) == "0s to 61s"
    assert str(Range(timedelta(seconds=1), timedelta(minutes=90), "no limit")) == (
        "1s to 90m, or 0s for no limit"
    )


def test_a_flag_that_is_no_number_has_no_range() -> None:
    assert boolean("b", "switch").limits is None
    with pytest.raises(RangeError):
        parse(["-n", "9"], [integer("n", "number", limits=Range(0, 8))])


@pytest.mark.parametrize(
    ("where", "line", "use"),
    [
        ("top", "processes = -1", "processes = -1: use 1 to 1024, or 0 for one on each CPU"),
        ("top", "processes = 1025", "processes = 1025: use 1 to 1024"),
        ("top", "admin_port = 65536", "admin_port = 65536: use 1 to 65535, or 0 for none"),
        ("top", 'pass_interval = "0"', "pass_interval = 0: use 1ms to 8760h"),
        ("top", 'pass_interval = "-1h"', "pass_interval = -1h: use 1ms to 8760h"),
        ("top", f'pass_interval = "{10**30}h"', "use 1ms to 8760h"),
        ("issuer", 'validity = "60s"', "validity = 60s: use 61s to 87600h"),
        ("issuer", 'validity = "87601h"', "validity = 87601h: use 61s to 87600h"),
        ("issuer", "refresh_after = 0.95", "refresh_after = 0.95: use 0.1 to 0.9"),
        ("issuer", "refresh_after = nan", "refresh_after = nan: use 0.1 to 0.9"),
    ],
)
def test_the_configuration_file_has_the_same_ranges(tmp_path: Path, where: str, line: str, use: str) -> None:
    top, issuer = (line, "") if where == "top" else ("", line)
    (tmp_path / "ocspd.toml").write_text(
        f'index = "i"\ndb_config = "d"\n{top}\n'
        f'[[issuer]]\nca = "c"\nresponder = "r"\nresponder_key = "k"\n{issuer}\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_signer_config(tmp_path / "ocspd.toml")
    assert use in str(caught.value)
