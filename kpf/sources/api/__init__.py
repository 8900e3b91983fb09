"""The Kubernetes API as a source: watches Services, EndpointSlices, this node's Node and ServiceCIDRs.

Reflector, deltas, store and event recorder are what client-go calls so. `access` reads credentials, `client` speaks
HTTP, `source` runs them; the rest of a conversation is pure. Only `access` and `client` know the `kubernetes` package.
"""
