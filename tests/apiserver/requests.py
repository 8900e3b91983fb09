"""What was asked of the test API server, in the API's terms."""

import re
import time
from dataclasses import dataclass

from aiohttp import web

from tests.apiserver.resources import BY_PATH, BY_PLURAL, EVENTS
from tests.apiserver.status import ApiError

_EVENTS_PATH = re.compile(r"/apis/events\.k8s\.io/v1/namespaces/(?P<namespace>[^/]+)/events")


@dataclass(slots=True)
class Asked:
    """`time_s`: CLOCK_MONOTONIC. `resource`: its plural, "" for none. `status`: 0 until it is answered.

    `verb`: list, watch, create; get of anything that is no resource.
    """

    time_s: float
    method: str
    path: str
    query: dict[str, str]
    user_agent: str
    resource: str
    verb: str
    namespace: str
    status: int = 0

    def forbidden(self, user: str) -> ApiError:
        """The answer to one who may not ask this, of a resource."""
        resource = BY_PLURAL[self.resource]
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        message = (
            f'{resource.qualified} is forbidden: User "{user}" cannot {self.verb} resource "{resource.plural}" '
            f'in API group "{resource.group}" {where}'
        )
        details = {"kind": resource.plural, **({"group": resource.group} if resource.group else {})}
        return ApiError(403, message, details=details)


def asked_for(request: web.BaseRequest) -> Asked:
    """What a request asks for; something that the server does not have is asked of no resource."""
    resource, verb, namespace = "", "get", ""
    if request.method == "GET" and request.path in BY_PATH:
        resource = BY_PATH[request.path].plural
        verb = "watch" if request.query.get("watch", "0").lower() not in ("0", "false") else "list"
    elif request.method == "POST" and (found := _EVENTS_PATH.fullmatch(request.path)):
        resource, verb, namespace = EVENTS.plural, "create", found["namespace"]
    return Asked(
        time_s=time.monotonic(),
        method=request.method,
        path=request.path,
        query=dict(request.query),
        user_agent=request.headers.get("User-Agent", ""),
        resource=resource,
        verb=verb,
        namespace=namespace,
    )
