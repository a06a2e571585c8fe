# A gateway, two VMs that it keeps apart, and a port that watches it all.
# "vhostnet check FILE" says what this means; "vhostnet run FILE" runs it.
# docs/configuration.md explains every key.

workers      = 2
socket_group = "kvm" # QEMU's; without it only the user who runs vhostnet attaches VMs
log_format   = "json"

switch "lan" {
  port "gateway" {
    socket = "/run/vhostnet/gateway.sock"
    trunk  = [10, "20-29"] # by tags
    native = 10            # and this one without
  }

  port "web" {
    socket    = "/run/vhostnet/web.sock"
    mac       = "52:54:00:00:00:01"
    vlan      = 10
    protected = true
    mirror    = "watch"
  }

  port "db" {
    socket    = "/run/vhostnet/db.sock"
    mac       = "52:54:00:00:00:02"
    vlan      = 20
    protected = true
    pairs     = 2
    mask      = ["guest_tso4", "guest_tso6"]
    mirror    = "watch"
  }

  # QEMU makes this socket (server=on); vhostnet connects.
  port "watch" {
    socket = "/run/vhostnet/watch.sock"
    role   = "connect"
    mode   = "interrupt"
  }
}
