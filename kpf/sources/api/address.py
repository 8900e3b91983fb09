"""URLs and host names as a kubeconfig has them: what the HTTP client cannot use, in words. Pure."""

from urllib.parse import urlsplit

from kpf.sources.messages import shown

_SCHEMES = ("http", "https")


def url_mistake(given: object, *, example: str, login: bool = False) -> str:
    """What is wrong with an http or https URL, "" if nothing. `login`: it may hold a user and a password.

    No message holds a password.
    """
    text = given if isinstance(given, str) else ""
    secret = "@" in text
    wanted = f"must be a URL such as {example}" + ("" if secret else f", not {shown(given)}")
    try:
        parts = urlsplit(text)
        usable = parts.port != 0 and _is_plain(text)
    except ValueError:
        return wanted
    if not usable or not parts.scheme or not parts.hostname:
        return wanted
    if parts.scheme not in _SCHEMES:
        return f"{wanted}: {shown(parts.scheme)} is not supported"
    if parts.username is not None and not login:
        return f"{wanted}, without a user and a password"
    host = host_mistake(parts.hostname)
    return f"its host {host}" if host else ""


def host_mistake(given: object) -> str:
    """What is wrong with a name or an address of a host, "" if nothing."""
    wanted = f"must be the name of a host, not {shown(given)}"
    if not isinstance(given, str) or not given or not _is_plain(given):
        return wanted
    try:
        # TLS does both to the name that it expects in the certificate
        given.encode("idna").decode("idna")
    except UnicodeError:
        return wanted
    return ""


def _is_plain(text: str) -> bool:
    return text.isprintable() and " " not in text
