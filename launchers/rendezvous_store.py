"""Serve torchrun's rendezvous store on a host that the run can rely on. Without it the node of --endpoint serves the
store, and the run ends when that node is lost.

usage: rendezvous_store.py PORT, then launchers/torchrun.sh --nodes MIN:MAX --endpoint THIS_HOST:PORT ... on each node
"""

import signal
import sys


def main() -> None:
    """Serve until a signal comes."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    del sys.path[0]  # its modules might hide other people's
    from torch import distributed

    try:
        store = distributed.TCPStore("0.0.0.0", int(sys.argv[1]), is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        sys.exit(f"error: port {sys.argv[1]} cannot be listened at ({error}); name another one here and in --endpoint")
    print(f"serving the rendezvous store at port {store.port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
