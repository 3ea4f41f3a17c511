"""Where a VM is: the text a user gives as `--vm` and what it means."""

from dataclasses import dataclass

from usbbridge.errors import UsageError

EXAMPLES = "A VM is spice://HOST:PORT, spice+tls://HOST:PORT, spice+unix:PATH, tcp://HOST:PORT or unix:PATH."
MAX_TARGET = 4096
"Longer than any host name (253) or socket path (108) makes it; text beyond that is a mistake."


@dataclass(frozen=True, slots=True)
class SpiceTarget:
    """A SPICE server: TCP with a plain port, a TLS port or both, or a UNIX socket."""

    host: str = ""
    port: int | None = None
    tls_port: int | None = None
    socket_path: str | None = None
    "Set instead of host and ports; there is no TLS on a UNIX socket."

    def __str__(self) -> str:
        if self.socket_path is not None:
            return f"spice+unix:{self.socket_path}"
        if self.port is None:
            return f"spice+tls://{join(self.host, self.tls_port)}"
        tls = "" if self.tls_port is None else f"?tls-port={self.tls_port}"
        return f"spice://{join(self.host, self.port)}{tls}"


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A raw usbredir byte stream over TCP, as QEMU's `-chardev socket` and usbredirect speak it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp://{join(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A raw usbredir byte stream over a UNIX socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Target = SpiceTarget | TcpTarget | UnixTarget


def join(host: str, port: int | None) -> str:
    """HOST:PORT, with an IPv6 literal in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_target(text: str) -> Target:
    """What `text` names. Raises `UsageError` saying what is wrong with it."""
    if len(text) > MAX_TARGET or not text.isprintable() or text != text.strip():
        raise _wrong(text[:80], "it has spaces around it, control characters, or is far too long")
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise _wrong(text, "it does not say how to get there")
    scheme = scheme.lower()
    if scheme in ("unix", "spice+unix"):
        path = _path(text, rest)
        return UnixTarget(path) if scheme == "unix" else SpiceTarget(socket_path=path)
    if scheme not in ("spice", "spice+tls", "tcp"):
        raise _wrong(text, f"{scheme!r} is not a kind of target")
    if not rest.startswith("//"):
        raise _wrong(text, f"write {scheme}://HOST:PORT")
    return _network(text, scheme, rest[2:])


def _network(text: str, scheme: str, rest: str) -> SpiceTarget | TcpTarget:
    authority, _, query = rest.partition("?")
    host, port = _host_port(text, authority.rstrip("/"))
    if scheme == "spice":
        ports = _query_ports(text, query)
        plain, tls = ports.get("port", port), ports.get("tls-port")
        if plain is None and tls is None:
            raise _wrong(text, "the port is missing; SPICE has no port of its own, the first VM's is often 5900")
        return SpiceTarget(host, plain, tls)
    if query:
        raise _wrong(text, f"{scheme}:// takes nothing after '?'")
    if port is None:
        raise _wrong(text, "the port is missing")
    return SpiceTarget(host, None, port) if scheme == "spice+tls" else TcpTarget(host, port)


def _path(text: str, rest: str) -> str:
    path = rest.removeprefix("//") if rest.startswith("///") else rest
    if not path or path.startswith("//"):
        raise _wrong(text, "the socket's path is missing")
    return path


def _host_port(text: str, authority: str) -> tuple[str, int | None]:
    if "@" in authority:
        raise _wrong(text.rpartition("@")[2], "a user or password does not belong in a target; use --password-file")
    if "/" in authority:
        raise _wrong(text, "nothing may follow the port")
    if authority.startswith("["):
        host, bracket, tail = authority[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise _wrong(text, "the brackets around the IPv6 address do not match")
        port = tail[1:] if tail else None
    elif authority.count(":") > 1:
        raise _wrong(text, "an IPv6 address is written in brackets, as in [::1]:5900")
    else:
        host, colon, number = authority.partition(":")
        port = number if colon else None
    if not host or " " in host:
        raise _wrong(text, "the host is missing or has spaces in it")
    return host, None if port is None else _port(text, port)


def _query_ports(text: str, query: str) -> dict[str, int]:
    """The ports in the query of the form `virsh domdisplay` and remote-viewer use: `?port=5900&tls-port=5901`."""
    ports: dict[str, int] = {}
    for item in query.split("&") if query else ():
        key, _, value = item.partition("=")
        if key == "password":
            raise _wrong(text.partition("?")[0], "a password does not belong in a target; use --password-file")
        if key not in ("port", "tls-port"):
            raise _wrong(text, f"{key!r} is not understood; only port and tls-port are")
        ports[key] = _port(text, value)
    return ports


def _port(text: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 5 and 1 <= int(value) <= 65535):
        raise _wrong(text, f"{value!r} is not a port number (1 to 65535)")
    return int(value)


def _wrong(text: str, what: str) -> UsageError:
    return UsageError(f"{text!r} does not name a VM: {what}", hint=EXAMPLES)
