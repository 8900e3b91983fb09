"""Private network namespaces, hosts, pods as network plugins make them, backends and clients.

For the demo, the tests and the benchmarks: what the daemon is made of never imports it.
"""
