"""What is not the public internet is the same on every interpreter."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.inputs.addresses import NOT_PUBLIC, is_public

METADATA = "168.63.129.16 169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192 fd00:ec2::254 fd20:ce::254"
PRIVATE = """
10.1.2.3 127.0.0.1 172.16.0.1 192.168.0.1 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255
::1 :: fe80::1 fe80::1%1 fc00::1 fec0::1 ff02::1 ::127.0.0.1 ::8.8.8.8 4000::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:168.63.129.16
2002:7f00:1:: 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::808:808 2001:0:7f00:1::
"""
PUBLIC = "8.8.8.8 93.184.216.34 168.63.129.15 2606:4700::1111 2a00:1450:4001::200e ::ffff:8.8.8.8 64:ff9b::808:808"


@pytest.mark.parametrize("network", NOT_PUBLIC, ids=str)
def test_every_listed_network_is_refused_whole(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
    for address in (network[0], network[network.num_addresses // 2], network[-1]):
        assert not is_public(str(address))


@pytest.mark.parametrize("address", f"{PRIVATE} {METADATA}".split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses())
def test_what_the_interpreter_holds_for_private_is_refused_too(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert address.is_global or not is_public(str(address))


@given(st.ip_addresses(v=4))
def test_an_address_that_another_carries_is_judged_itself(address: ipaddress.IPv4Address) -> None:
    for carrier in (f"::ffff:{address}", str(ipaddress.IPv6Address((0x64FF9B << 96) | int(address)))):
        assert is_public(carrier) == is_public(str(address))


@given(st.ip_addresses(v=4))
def test_tunnels_lead_nowhere(address: ipaddress.IPv4Address) -> None:
    six_to_four, teredo = (0x2002 << 112) | (int(address) << 80), (0x2001 << 112) | (int(address) << 64)
    assert not is_public(str(ipaddress.IPv6Address(six_to_four)))
    assert not is_public(str(ipaddress.IPv6Address(teredo)))
