#!/usr/bin/env bash
# Puts what "make install" has built in its places, below DESTDIR:
#   install.sh DESTDIR BINDIR MANDIR DATADIR SYSCONFDIR UNITDIR BACKENDDIR
# A configuration that is there is left as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 7 ] || {
	echo "install: want seven directories; use make install DESTDIR=... PREFIX=..." >&2
	exit 2
}
dest=$1 bin=$2 man=$3 data=$4 etc=$5 unit=$6 backend=$7

# fill FILE TO: install a file with the directories written into it.
fill() {
	local made
	made=$(mktemp)
	sed -e "s|@BINDIR@|$bin|g" -e "s|@SYSCONFDIR@|$etc|g" "$1" >"$made"
	install -D -m 644 "$made" "$2"
	rm -f "$made"
}

install -D -m 755 bin/vhostnet "$dest$bin/vhostnet"
for page in bin/man/*.1; do
	install -D -m 644 "$page" "$dest$man/${page##*/}"
done
for shell in bash:bash-completion/completions/vhostnet zsh:zsh/site-functions/_vhostnet fish:fish/vendor_completions.d/vhostnet.fish; do
	made=$(mktemp)
	bin/vhostnet completion "${shell%%:*}" >"$made"
	install -D -m 644 "$made" "$dest$data/${shell#*:}"
	rm -f "$made"
done
fill packaging/vhostnet.service.in "$dest$unit/vhostnet.service"
fill packaging/50-vhostnet.json.in "$dest$backend/50-vhostnet.json"
install -D -m 644 docs/configuration.md "$dest$data/doc/vhostnet/configuration.md"
install -D -m 644 examples/config/vhostnet.hcl "$dest$data/doc/vhostnet/vhostnet.hcl"
if [ ! -e "$dest$etc/vhostnet/vhostnet.hcl" ]; then
	install -D -m 644 examples/config/vhostnet.hcl "$dest$etc/vhostnet/vhostnet.hcl"
fi
