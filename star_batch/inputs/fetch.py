"""Images from the web, for rows that name a URL: only from the hosts that the configuration allows.

What a row says is not trusted. Every address is checked where the connection to it is made, so that neither a name
that resolves differently the second time nor a redirect leads into a private network. No cookies, no proxies, no
credentials, nothing decompressed. Knows no row and no image.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
import tenacity
from yarl import URL

from star_batch.config import Fetch
from star_batch.errors import ImageFetchFailed, ImageFetchRefused, ImageTooLarge, RecordError
from star_batch.inputs.addresses import is_public
from star_batch.storage.redaction import redacted
from star_batch.wording import printable

SCHEMES = ("http", "https")

_CONNECTIONS = 16
_CHUNK_BYTES = 65_536
_ATTEMPTS = 3
_MOVED = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
# As they are, so that what arrives is what `max_bytes` counts.
_HEADERS = {"Accept-Encoding": "identity", "Accept": "image/*", "User-Agent": "star-batch"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image's bytes, or why there are none; `seconds` it took.

    `may_quote`: whether an error may say how they begin. What a row names beyond what is open to it may be anybody's.
    """

    data: bytes | None
    error: RecordError | None = None
    seconds: float = 0.0
    may_quote: bool = True


def fetch_all(urls: Sequence[str], policy: Fetch) -> list[Fetched]:
    """What is at each URL, some of them at the same time."""
    return asyncio.run(_fetch_all(urls, policy))


class _PrivateAddress(OSError):
    """Raised instead of connecting."""


class _Busy(ImageFetchFailed):
    """A server that may answer when asked again."""


async def _fetch_all(urls: Sequence[str], policy: Fetch) -> list[Fetched]:
    connector = aiohttp.TCPConnector(
        limit=_CONNECTIONS, socket_factory=_public_socket if not policy.allow_private else None
    )
    timeout = aiohttp.ClientTimeout(total=None)  # each image has its own
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=_HEADERS,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    ) as session:
        turns = asyncio.Semaphore(_CONNECTIONS)
        return list(await asyncio.gather(*(_fetch(session, turns, url, policy) for url in urls)))


def _public_socket(address: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
    """A socket for the very address that is connected to next."""
    family, kind, protocol, _, target = address
    if not is_public(str(target[0])):
        raise _PrivateAddress(f"{target[0]} is not a public address")
    return socket.socket(family, kind, protocol)


async def _fetch(session: aiohttp.ClientSession, turns: asyncio.Semaphore, text: str, policy: Fetch) -> Fetched:
    async with turns:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(policy.seconds):
                data, error = await _patiently(session, _parse(text), policy), None
        except RecordError as failure:
            data, error = None, failure
        except TimeoutError:
            data, error = None, ImageFetchFailed(f"{_shown(text)}: not there within {policy.seconds:g} seconds")
        return Fetched(data, error, time.perf_counter() - started)


async def _patiently(session: aiohttp.ClientSession, url: URL, policy: Fetch) -> bytes:
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(_Busy),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    return await retrying(_follow, session, url, policy)


async def _follow(session: aiohttp.ClientSession, url: URL, policy: Fetch) -> bytes:
    """The body at the end of the redirects."""
    for _ in range(policy.max_redirects + 1):
        _check(url, policy)
        found = await _get(session, url, policy)
        if isinstance(found, bytes):
            return found
        url = found
    raise ImageFetchRefused(f"{_shown(url)}: more than {policy.max_redirects} redirects")


async def _get(session: aiohttp.ClientSession, url: URL, policy: Fetch) -> bytes | URL:
    """A body, or where it has moved."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status in _MOVED and "Location" in response.headers:
                return url.join(_parse(response.headers["Location"]))
            if response.status != HTTPStatus.OK:
                kind = _Busy if response.status in _BUSY else ImageFetchFailed
                raise kind(f"{_shown(url)}: the server says {response.status} {printable(response.reason, 60)}")
            return await _body(response, url, policy)
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, _PrivateAddress) or "not a public address" in str(error.os_error):
            raise ImageFetchRefused(f"{_shown(url)}: {error.os_error}") from None
        raise _Busy(f"{_shown(url)}: cannot connect: {error.os_error.strerror or error.os_error}") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _Busy(f"{_shown(url)}: {type(error).__name__}") from None


async def _body(response: aiohttp.ClientResponse, url: URL, policy: Fetch) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if max(len(body), response.content_length or 0) > policy.max_bytes:
            raise ImageTooLarge(f"{_shown(url)}: more than {policy.max_bytes:,} bytes")
    return bytes(body)


def _parse(text: str) -> URL:
    try:
        return URL(text)
    except ValueError:
        raise ImageFetchFailed(f"{_shown(text)}: is not a URL") from None


def _check(url: URL, policy: Fetch) -> None:
    """Raises:
    ImageFetchRefused: the URL is not one of those that may be fetched.
    """
    if url.scheme not in policy.schemes:
        raise ImageFetchRefused(
            f"{_shown(url)}: {printable(url.scheme, 40) or 'no scheme'} is not one of input.fetch.schemes"
        )
    if url.user is not None or url.password is not None:
        raise ImageFetchRefused(f"{_shown(url)}: credentials do not belong into a URL")
    if not any(_is_allowed(url, host) for host in policy.hosts):
        raise ImageFetchRefused(f"{_shown(url)}: the host is not one of input.fetch.hosts")


def _is_allowed(url: URL, host: str) -> bool:
    """Whether a URL's host and port are what an entry of `hosts` names."""
    if host == "*":
        return url.is_default_port()
    wanted = URL(f"{url.scheme}://{host.removeprefix('*.')}")
    there, name = _name(url), _name(wanted)
    is_below = host.startswith("*.") and there.endswith(f".{name}")
    return (is_below or (there == name and not host.startswith("*."))) and url.port == wanted.port


def _name(url: URL) -> str:
    return (url.raw_host or "").lower().rstrip(".")


def _shown(url: URL | str) -> str:
    """Without the query, which may hold a signature."""
    return printable(redacted(str(url).partition("?")[0].partition("#")[0]), 200)
