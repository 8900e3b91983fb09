"""Where kpf's sockets are unless the configuration says otherwise; here, so that a probe need not read that."""

DEFAULT_CONTROL_SOCKET = "/run/kpf/control.sock"
DEFAULT_HANDOVER_SOCKET = "/run/kpf/handover.sock"
