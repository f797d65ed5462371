"""Which IP addresses are no part of the public internet, as data: the interpreter's own tables differ by its version.

Sources: IANA's IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and what updates it, as they stood in October
2025), its registries of multicast and of unicast allocations, and what clouds document of their machines' own services.
All of it is refused, "globally reachable" or not: no image comes from there. Knows no name and no URL.
"""

import ipaddress

_SPECIAL_IPV4 = """
0.0.0.0/8        "this network", RFC 791
10.0.0.0/8       private, RFC 1918
100.64.0.0/10    shared by a provider's customers, RFC 6598; in it 100.100.100.200, Alibaba's metadata
127.0.0.0/8      loopback, RFC 1122
169.254.0.0/16   link-local, RFC 3927; in it 169.254.169.254, most clouds' metadata
172.16.0.0/12    private, RFC 1918
192.0.0.0/24     protocol assignments, RFC 6890; in it 192.0.0.192, Oracle's metadata
192.0.2.0/24     documentation, RFC 5737
192.31.196.0/24  AS112, RFC 7535
192.52.193.0/24  AMT, RFC 7450
192.88.99.0/24   6to4 relays, deprecated by RFC 7526
192.168.0.0/16   private, RFC 1918
192.175.48.0/24  AS112, RFC 7534
198.18.0.0/15    benchmarks, RFC 2544
198.51.100.0/24  documentation, RFC 5737
203.0.113.0/24   documentation, RFC 5737
224.0.0.0/4      multicast, RFC 5771
240.0.0.0/4      reserved, RFC 1112, and the broadcast address
168.63.129.16/32 Azure's wire server, which hands a machine its secrets
"""

_SPECIAL_IPV6 = """
::/96               unspecified, loopback, and IPv4-compatible, deprecated by RFC 4291
64:ff9b:1::/48      translation within a network, RFC 8215
100::/64            discarded, RFC 6666
100:0:0:1::/64      dummy, RFC 9780
2001::/23           protocol assignments, RFC 2928: Teredo, benchmarks, AMT, AS112, ORCHID, DRIP
2001:db8::/32       documentation, RFC 3849
2002::/16           6to4, RFC 3056: its relays are gone, RFC 7526
2620:4f:8000::/48   AS112, RFC 7534
3fff::/20           documentation, RFC 9637
5f00::/16           segment routing, RFC 9602
fc00::/7            unique local, RFC 4193; in it fd00:ec2::254, Amazon's metadata
fe80::/10           link-local, RFC 4291
fec0::/10           site-local, deprecated by RFC 3879
ff00::/8            multicast, RFC 4291
"""

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Each carries an IPv4 address in its last 32 bits, and is what that is.
_CARRIERS = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))


def _networks(table: str) -> tuple[str, ...]:
    return tuple(line.split(maxsplit=1)[0] for line in table.strip().splitlines())


NOT_PUBLIC = tuple(map(ipaddress.ip_network, (*_networks(_SPECIAL_IPV4), *_networks(_SPECIAL_IPV6))))
"""Every network of the tables."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; one that carries another is judged by that.

    What this interpreter holds for private is refused besides.

    Raises:
        ValueError: not an IP address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in carrier for carrier in _CARRIERS):
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip not in _GLOBAL_UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in NOT_PUBLIC)
