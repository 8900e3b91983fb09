"""Errors in the API's words: Status objects. Pure.

Texts and reasons as kube-apiserver 1.36 gives them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Cause(NamedTuple):
    """What is wrong with one field of a request."""

    reason: str
    message: str
    field: str = ""


class ApiError(Exception):
    """A request that is answered with a Status."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        details: Mapping[str, object] | None = None,
        retry_after_s: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
        self.status: dict[str, object] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata or {},
            "status": "Failure",
            "message": message,
            "reason": REASONS.get(code, "Unknown"),
            "code": code,
        }
        retry = {} if retry_after_s is None else {"retryAfterSeconds": retry_after_s}
        if details or retry:
            self.status["details"] = {**(details or {}), **retry}


def version_too_old(version: int, oldest: int) -> ApiError:
    """Of a watch."""
    return ApiError(410, f"too old resource version: {version} ({oldest})")


def list_expired() -> ApiError:
    return ApiError(410, "The resourceVersion for the provided list is too old.")


def continue_expired(token: str) -> ApiError:
    """`token` goes on where the page ended, in the newest state."""
    message = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    return ApiError(410, message, metadata={"continue": token})


def version_too_large(version: int, current: int) -> ApiError:
    cause = Cause("ResourceVersionTooLarge", "Too large resource version")
    return ApiError(
        504,
        f"Timeout: Too large resource version: {version}, current: {current}",
        details={"causes": [_cause(cause)]},
        retry_after_s=1,
    )


def invalid_options(causes: Sequence[Cause]) -> ApiError:
    """Raised for a combination of list options that the API forbids."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    return ApiError(
        422,
        f'ListOptions.meta.k8s.io "" is invalid: {text}',
        details={"group": "meta.k8s.io", "kind": "ListOptions", "causes": [_cause(one) for one in causes]},
    )


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized")


def not_found() -> ApiError:
    return ApiError(404, "the server could not find the requested resource", details={})


def _cause(cause: Cause) -> dict[str, str]:
    return {key: value for key, value in cause._asdict().items() if value}
