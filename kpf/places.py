"""Where kpf is asked unless the configuration says otherwise; here, so that who asks need not read that."""

DEFAULT_CONTROL_SOCKET = "/run/kpf/control.sock"
