"""The page's server: for this machine alone unless it is asked otherwise, and for its own page alone.

A page of a stranger that is open in the same browser may send requests here, also under a name of
the stranger's that leads to this address (DNS rebinding). So a request must be for a host by a name
of this machine, and come from no other page.
"""

import errno
import ipaddress
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from seer import __version__
from seer.browse.answers import Answer, Answers, RefusedError, as_json
from seer.errors import InputError, InUseError

logger = logging.getLogger("seer.browse")

LARGEST_UPLOAD = 32 * 2**20  # bytes
LONGEST_REQUEST = 8_192  # characters of an address
SILENCE = 30  # seconds after which a connection is closed
LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """Holds `host` and `port` (0: any that is free) from the beginning; answers once it serves.

    Raises:
        InUseError: another process has the port.
        InputError: the host is none of this machine's, or the port may not be used.
    """

    daemon_threads = True
    request_queue_size = 64

    answers: Answers  # set before it serves

    def __init__(self, host: str, port: int):
        self.host = host
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__(address[:2], Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise _refusal(host, port, error) from None

    def server_bind(self) -> None:
        """As the class above, without asking a name server who we are."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name = self.host
        self.server_port = self.server_address[1]

    @property
    def is_open(self) -> bool:
        """Whether others than this machine can reach it."""
        return not ipaddress.ip_address(str(self.server_address[0])).is_loopback

    @property
    def url(self) -> str:
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def knows(self, host: str) -> bool:
        """Whether a name in a request is one of this machine's: on the loopback its three names, and
        where others may reach it any address (which no name server of a stranger gives) and its name.
        """
        if host in (*LOOPBACK, self.host.lower()):
            return True
        return self.is_open and (_is_address(host) or host in own_names())

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is nothing to tell; the rest is for the log."""
        logger.debug("a request ended early", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = f"seer/{__version__}"
    sys_version = ""
    timeout = SILENCE
    server: Server

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, act: Callable[[], Answer]) -> None:
        try:
            self._check()
            answer = act()
        except RefusedError as refused:
            self.close_connection = True  # a body that nobody reads may follow
            self._send(refused.status, as_json({"error": str(refused)}))
        except Exception:
            logger.exception("no answer to %s", ascii(self.path[:200]))
            self.close_connection = True
            wrong = as_json({"error": "this could not be answered; the terminal says why"})
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, wrong)
        else:
            self._send(HTTPStatus.OK, answer)

    def _get(self) -> Answer:
        return self.server.answers.get(*self._asked())

    def _post(self) -> Answer:
        path, values = self._asked()
        if path != "/api/nearest":
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "nothing is sent to this address")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 15):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "say how many bytes follow")
        if int(length) > LARGEST_UPLOAD:
            reason = f"the image is larger than {LARGEST_UPLOAD // 2**20} MB"
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the image was cut short")
        return self.server.answers.upload(content, values)

    def _asked(self) -> tuple[str, dict[str, str]]:
        if len(self.path) > LONGEST_REQUEST:
            raise RefusedError(HTTPStatus.REQUEST_URI_TOO_LONG, "the address is too long")
        try:
            address = urlsplit(self.path)
            return address.path, dict(parse_qsl(address.query, max_num_fields=20))
        except ValueError:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "this is no address of this page") from None

    def _check(self) -> None:
        """Raise `RefusedError` for a request that is not our own page's."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.knows(host_of(f"//{hosts[0]}")):
            raise RefusedError(HTTPStatus.FORBIDDEN, "this page is not known by that name")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            raise RefusedError(HTTPStatus.FORBIDDEN, "another page may not ask here")
        site = self.headers.get("Sec-Fetch-Site", "none")
        follows_link = self.command == "GET" and self.path == "/"
        if site not in ("none", "same-origin") and not follows_link:
            raise RefusedError(HTTPStatus.FORBIDDEN, "another page may not ask here")

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.content)))
        self.send_header("Cache-Control", "private, max-age=3600" if answer.lasting else "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *values: object) -> None:
        logger.debug(format, *values)


def host_of(address: str) -> str:
    """The host of `//HOST:PORT`, in lower case; "" if it is none."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises for what is no number
        is_plain = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
        return (parts.hostname or "") if is_plain else ""
    except ValueError:
        return ""


def own_names() -> set[str]:
    return {socket.gethostname().lower(), socket.getfqdn().lower()} - {""}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refusal(host: str, port: int, error: OSError) -> InputError:
    reason = error.strerror or " ".join(str(error).split())
    if isinstance(error, socket.gaierror):
        return InputError(f"--host {host}: no address of this machine ({reason})")
    kind = InUseError if error.errno == errno.EADDRINUSE else InputError
    return kind(
        f"--port {port}: cannot be used at {host} ({reason}); give another one, or 0 for any"
    )
