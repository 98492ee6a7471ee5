from __future__ import annotations

import pytest

from ocspd.authority.access.rates import RateLimit, network_of


class Seconds:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    clock = Seconds()
    limit = RateLimit(2, clock)
    assert [limit.take("a") for _ in range(10)] == [0] * 10
    assert limit.take("a") == 1
    clock.now += 0.5
    assert limit.take("a") == 0
    assert limit.take("a") == 1
    clock.now += 1000
    assert [limit.take("a") for _ in range(11)] == [0] * 10 + [1]


def test_each_client_has_its_own_rate() -> None:
    limit = RateLimit(1, Seconds())
    assert [limit.take("a") for _ in range(6)][-1] == 1
    assert limit.take("b") == 0


def test_a_refused_request_does_not_put_off_the_next_one() -> None:
    clock = Seconds()
    limit = RateLimit(1, clock)
    for _ in range(100):
        limit.take("a")
    clock.now += 1
    assert limit.take("a") == 0


def test_the_table_is_bounded_and_forgets_who_was_away_longest() -> None:
    limit = RateLimit(1, Seconds(), max_clients=100)
    for _ in range(6):
        limit.take("busy")
    for number in range(5000):
        limit.take(str(number))
        assert limit.take("busy") == 1
    assert len(limit) <= 100


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1:8080", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:ffff::1]:81", "2001:db8:1:2::/64"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("[fe80::1%eth0]:80", "fe80::/64"),
        ("-", ""),
    ],
)
def test_one_client_is_one_address_or_one_network(address: str, client: str) -> None:
    assert network_of(address) == client
