"""`kpf cleanup`: takes the table away, also after a crash."""

import asyncio
import sys

from kpf.nft.kernel import Kernel


def main() -> int:
    """0, also when there is nothing; 1 if the kernel refuses."""
    try:
        asyncio.run(_delete())
    except OSError as error:
        print(f"kpf cleanup: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


async def _delete() -> None:
    kernel = Kernel()
    try:
        await kernel.delete()
    finally:
        kernel.close()
