"""The kernel's numbers and layouts, named as its headers name them: `NFTA_RULE.CHAIN` is NFTA_RULE_CHAIN.

One file for a header or a few of one kind; of each only what is used. They were read from Linux 6.1's, and no later
kernel may change them (tests/test_uapi.py compares them with the headers that are installed). Flags are IntEnums too:
`|` of an IntFlag is a function of Python. What Python's `socket` and `fcntl` name is not here.
"""
