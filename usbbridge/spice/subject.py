"""Certificate subjects as SPICE writes them: `O=Example,CN=vm-host`, in the certificate's own order.

virt-viewer's `host-subject` and spice-gtk's `cert-subject` have this form; a comma or backslash in a value has a
backslash before it. Equal means equal in every attribute, its order and its value: nothing a CA added goes unseen.
"""

from usbbridge.errors import UsageError

Subject = tuple[tuple[str, str], ...]
"(dotted object identifier, value) of each attribute."

_IDENTIFIERS = {
    "CN": "2.5.4.3",
    "SN": "2.5.4.4",
    "serialNumber": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "street": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "title": "2.5.4.12",
    "GN": "2.5.4.42",
    "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25",
    "emailAddress": "1.2.840.113549.1.9.1",
}
"OpenSSL's short names (X.520 §6, RFC 4519, RFC 2985 §5.2.1)."
_NAMES = {identifier: name for name, identifier in _IDENTIFIERS.items()}
_LOWER = {name.lower(): identifier for name, identifier in _IDENTIFIERS.items()}


def parse_subject(text: str) -> Subject:
    """The attributes that `text` names. Raises `UsageError`."""
    return tuple(_attribute(part, text) for part in _split(text))


def certificate_subject(der: bytes) -> Subject:
    """The subject of a DER certificate. Raises `ValueError` if it cannot be parsed."""
    # Imported here: it costs 30 ms and 12 MB, and few connections need it.
    from cryptography.x509 import load_der_x509_certificate

    rdns = load_der_x509_certificate(der).subject.rdns
    # Attributes that share an RDN have no order and no form in SPICE's notation; they must not pass for separate ones.
    return tuple(
        ("+".join(a.oid.dotted_string for a in rdn), "+".join(str(a.value) for a in rdn)) for rdn in rdns
    )


def format_subject(subject: Subject) -> str:
    """The text that `parse_subject` would take."""
    return ",".join(f"{_NAMES.get(oid, oid)}={_escape(value)}" for oid, value in subject)


def _split(text: str) -> list[str]:
    """Cut at commas without a backslash before them; the backslashes stay."""
    parts, start, index = [], 0, 0
    while index < len(text):
        if text[index] == ",":
            parts.append(text[start:index])
            start = index + 1
        index += 2 if text[index] == "\\" else 1
    return [*parts, text[start:]]


def _attribute(part: str, text: str) -> tuple[str, str]:
    name, equals, value = part.lstrip().partition("=")
    identifier = name if name.replace(".", "").isdigit() else _LOWER.get(name.lower())
    if not equals or identifier is None or not value:
        raise UsageError(
            f"{text!r} is not a certificate subject: {part.strip()!r} is not NAME=VALUE",
            hint="Write it as in O=Example,CN=vm-host; names are " + ", ".join(_IDENTIFIERS) + ".",
        )
    return identifier, _unescape(value)


def _unescape(value: str) -> str:
    result, index = "", 0
    while index < len(value):
        index += value[index] == "\\"
        result += value[index : index + 1]
        index += 1
    return result


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")
