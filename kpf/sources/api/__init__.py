"""The Kubernetes API as a source: watches Services, EndpointSlices, this node's Node and ServiceCIDRs.

`lines`, `resources`, `reflector` and `mirror` are pure; `access` reads credentials, `client` speaks HTTP, `source` runs
them. Only `access` and `client` know the `kubernetes` package.
"""
