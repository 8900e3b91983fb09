"""Loads for figures: HTTP clients of epoll and plain sockets, with so little Python that they do not hide the proxy.

Each is a function to be run on a machine of the lab (`Machine.begin`, `Machine.call`), bounded in number and in time.
An error of one connection is counted, not raised; the load goes on. The server's answers have a Content-Length.
"""
