#!/usr/bin/env bash
# Lists what a part of the work needs from this machine, and installs what is missing.
#
#   scripts/setup.sh demo     to boot guests: QEMU 7.2 or later, a guest kernel, small tools
#   scripts/setup.sh test     the above, QEMU 10 and QEMU 7.2, three firmwares, libvirt, DPDK, huge pages, TUN,
#                             network namespaces, clients of DHCP, DNS and TFTP, groff, systemd and strace, a C compiler for the race detector and an emulator for arm64 programs
#   scripts/setup.sh bench    DPDK, Open vSwitch with DPDK, huge pages, Valgrind, passt, TUN, network namespaces, and what demo needs
#
# NO_INSTALL=1 changes nothing: it names what is missing and ends with code 1 if anything is.
# VHOSTNET_HUGEPAGES is how many pages of 2 MiB are wanted, 1024 by default.
# VHOSTNET_CACHE is where packages are unpacked that are not installed: the guest kernel, the
# second QEMU, Open vSwitch. It is ~/.cache/vhostnet by default and may be removed at any time.
set -euo pipefail

cache=${VHOSTNET_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set, nor is VHOSTNET_CACHE}/.cache}/vhostnet}
hugepages=${VHOSTNET_HUGEPAGES:-1024} # of 2 MiB
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
guest_packages=(busybox-static ethtool iperf3 iproute2 kmod libc-bin tcpdump)
firmware_packages=(dnsmasq-base ipxe ipxe-qemu ovmf u-boot-qemu)
client_packages=(atftp bind9-dnsutils busybox-static curl dhcpcd-base dnsmasq-base iputils-arping isc-dhcp-client ndisc6 tftp-hpa udhcpc)
packaging_packages=(groff-base systemd)
libvirt_packages=(libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system)
dpdk_packages=(dpdk dpdk-dev librte-meta-net librte-net-vhost23 librte-net-virtio23)

work= # where something is being unpacked
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

die() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

# --- packages of the system -------------------------------------------------------------------

# installed PACKAGE...: each is installed.
installed() {
	local p
	for p; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || return 1
	done
}

# update: refresh the package lists, once in a run. Who is not root uses those that there are.
update() {
	[ -z "${updated:-}" ] && [ "$(id -u)" = 0 ] || return 0
	run apt-get update -qq
	updated=1
}

# install_packages [OPTION...] PACKAGE...
install_packages() {
	[ "$(id -u)" = 0 ] || die "installing packages takes root: $*"
	update
	run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# run COMMAND...: say what is done, and show its output only if it fails.
run() {
	local log
	printf '    %s\n' "$*"
	log=$(mktemp)
	if ! "$@" >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		die "failed: $*"
	fi
	rm -f "$log"
}

# unpack DIRECTORY PACKAGE[=VERSION]...: unpack packages under $cache/DIRECTORY without installing
# them. The directory appears when it is complete.
unpack() {
	local to=$cache/$1 deb
	shift
	mkdir -p "$cache"
	work=$(mktemp -d "$cache/unpacking.XXXXXX")
	chmod 755 "$work"
	update
	(cd "$work" && run apt-get -o APT::Sandbox::User=root download -qq "$@")
	mkdir "$work/root"
	for deb in "$work"/*.deb; do
		run dpkg -x "$deb" "$work/root"
	done
	finish_unpacked "$work/root"
	rm -rf "$to"
	mv "$work/root" "$to"
	rm -rf "$work"
	work=
}

# finish_unpacked ROOT: index the kernel modules that it holds, if any.
finish_unpacked() {
	local modules
	for modules in "$1"/lib/modules/*; do
		[ -d "$modules" ] || continue
		run "$(tool depmod)" -b "$1" "${modules##*/}"
	done
}

# tool NAME: its path, also where the sbin directories are not in PATH.
tool() { PATH=$PATH:/usr/sbin:/sbin command -v "$1"; }

# versions PACKAGE: all that the configured sources have, newest first.
versions() { apt-cache madison "$1" | awk -F'|' '{gsub(/ /, "", $2); print $2}'; }

# --- the needs: a check that changes nothing, and what mends it --------------------------------

has_guest_packages() { installed "${guest_packages[@]}"; }
get_guest_packages() { install_packages "${guest_packages[@]}"; }

# qemu_version [PROGRAM]: "10.0"
qemu_version() {
	"${1:-qemu-system-x86_64}" -version 2>/dev/null | sed -n 's/.*version \([0-9]*\.[0-9]*\).*/\1/p' | head -n 1
}

# at_least WANTED FOUND: compares versions; an empty one is less than any.
at_least() { [ -n "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

has_qemu() { at_least 7.2 "$(qemu_version)"; }
get_qemu() { install_packages qemu-system-x86; }

has_qemu10() { at_least 10.0 "$(qemu_version)"; }
get_qemu10() {
	update
	if at_least 1:10.0 "$(versions qemu-system-x86 | head -n 1)"; then
		install_packages -t "$(apt-cache madison qemu-system-x86 | awk 'NR == 1 { sub("/.*", "", $6); print $6 }')" qemu-system-x86
		return
	fi
	add_backports
	install_packages -t "$codename-backports" qemu-system-x86
}

# add_backports: one more suite of the mirror that this system's own sources name.
add_backports() {
	local uri key=/usr/share/keyrings/debian-archive-keyring.gpg
	# shellcheck disable=SC2016 # apt fills in the fields
	uri=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		awk -v suite="$codename" '$1 == suite && $2 == "main" && !found { print $3; found = 1 }')
	[ -n "$uri" ] || die "apt's sources name no suite $codename with main: add $codename-backports to them by hand"
	[ "$(id -u)" = 0 ] || die "adding the suite $codename-backports takes root"
	printf '    adding the suite %s-backports\n' "$codename"
	{
		printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n' "$uri" "$codename"
		[ ! -e "$key" ] || printf 'Signed-By: %s\n' "$key"
	} >"/etc/apt/sources.list.d/$codename-backports.sources"
	updated=
	update
}

# A second version of QEMU cannot be installed beside the first: it is unpacked.
old=$cache/qemu-7.2/usr
has_qemu7() {
	at_least 7.2 "$(qemu_version "$old/bin/qemu-system-x86_64")" &&
		"$old/bin/qemu-system-x86_64" -L "$old/share/seabios" -accel help 2>/dev/null | grep -qw tcg
}
get_qemu7() {
	local version seabios
	update
	version=$(versions qemu-system-x86 | grep -m 1 '^1:7\.2') || die "apt's sources have no QEMU 7.2"
	seabios=$(versions seabios | grep -v -m 1 bpo)
	unpack qemu-7.2 "qemu-system-x86=$version" "qemu-system-common=$version" \
		"qemu-system-data=${version%+b[0-9]*}" "seabios=$seabios"
	# Its libraries are mostly those of the installed version.
	local libraries
	mapfile -t libraries < <(apt-cache show "qemu-system-x86=$version" | sed -n 's/^Depends: //p' |
		tr ',' '\n' | awk '$1 ~ /^(lib|zlib)/ { print $1 }')
	installed "${libraries[@]}" || install_packages --no-upgrade "${libraries[@]}"
}

has_kernel() {
	local image
	for image in "$cache"/kernel/boot/vmlinuz-*; do
		[ -e "$image" ] && [ -e "$cache/kernel/lib/modules/${image##*/vmlinuz-}/modules.dep" ] && return
	done
	return 1
}
get_kernel() {
	local package
	update
	package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
	[ -n "$package" ] || die "apt's sources have no linux-image-cloud-amd64"
	unpack kernel "$package"
}

has_firmware() { installed "${firmware_packages[@]}"; }
get_firmware() { install_packages "${firmware_packages[@]}"; }

has_clients() { installed "${client_packages[@]}"; }
get_clients() { install_packages "${client_packages[@]}"; }

has_packaging() { installed "${packaging_packages[@]}"; }
get_packaging() { install_packages "${packaging_packages[@]}"; }

has_libvirt() { installed "${libvirt_packages[@]}"; }
get_libvirt() { install_packages "${libvirt_packages[@]}"; }

has_compiler() { echo '#include <pthread.h>' | "${CC:-gcc}" -x c -fsyntax-only - 2>/dev/null; }
get_compiler() { install_packages gcc libc6-dev; }

has_arm64() { qemu-aarch64-static -version >/dev/null 2>&1; }
get_arm64() { install_packages qemu-user-static; }

has_dpdk() { installed "${dpdk_packages[@]}"; }
get_dpdk() { install_packages "${dpdk_packages[@]}"; }

# Open vSwitch is unpacked, not installed: its package would start a switch and load a kernel module.
ovs=$cache/ovs-dpdk
ovs_packages=(openvswitch-common openvswitch-switch openvswitch-switch-dpdk)
has_ovs() { "$ovs/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk" --version >/dev/null 2>&1 && "$ovs/usr/sbin/ovsdb-server" --version >/dev/null 2>&1; }
get_ovs() {
	local libraries
	unpack ovs-dpdk "${ovs_packages[@]}"
	mapfile -t libraries < <(apt-cache show --no-all-versions "${ovs_packages[@]}" | sed -n 's/^Depends: //p' |
		tr ',' '\n' | awk '$1 ~ /^lib/ { print $1 }' | sort -u)
	installed "${libraries[@]}" || install_packages --no-upgrade "${libraries[@]}"
}

has_hugepages() {
	local size
	size=$(awk '$1 == "Hugepagesize:" { print $2 }' /proc/meminfo)
	[ "$size" = 2048 ] && [ "$(cat /proc/sys/vm/nr_hugepages)" -ge "$hugepages" ] &&
		awk '$2 == "/dev/hugepages" && $3 == "hugetlbfs" { found = 1 } END { exit !found }' /proc/mounts
}
get_hugepages() {
	[ "$(id -u)" = 0 ] || die "huge pages take root"
	[ "$(cat /proc/sys/vm/nr_hugepages)" -ge "$hugepages" ] || run "$(tool sysctl || echo sysctl)" -q -w "vm.nr_hugepages=$hugepages"
	mkdir -p /dev/hugepages
	grep -q ' /dev/hugepages hugetlbfs ' /proc/mounts || run mount -t hugetlbfs hugetlbfs /dev/hugepages
}

has_valgrind() { installed valgrind; }
get_valgrind() { install_packages valgrind; }

has_strace() { installed strace; }
get_strace() { install_packages strace; }

has_passt() { installed passt; }
get_passt() { install_packages passt; }

has_tun() { [ -c /dev/net/tun ] && (exec 3<>/dev/net/tun) 2>/dev/null; }
get_tun() {
	[ "$(id -u)" = 0 ] || die "/dev/net/tun takes root"
	mkdir -p /dev/net
	[ -c /dev/net/tun ] || run mknod -m 666 /dev/net/tun c 10 200
}

has_netns() { unshare --net true 2>/dev/null || unshare --user --map-root-user --net true 2>/dev/null; }
get_netns() { die "network namespaces: this kernel, or the container this runs in, refuses unshare(CLONE_NEWNET); run as root on a machine or in a container that allows it (CAP_SYS_ADMIN)"; }

describe() {
	case $1 in
		guest_packages) echo "packages ${guest_packages[*]}" ;;
		qemu) echo "QEMU 7.2 or later (package qemu-system-x86)" ;;
		qemu10) echo "QEMU 10.0 or later (package qemu-system-x86, of the backports suite where needed)" ;;
		qemu7) echo "QEMU 7.2 beside it (packages unpacked in $cache/qemu-7.2)" ;;
		kernel) echo "a guest kernel (package linux-image-cloud-amd64 unpacked in $cache/kernel)" ;;
		firmware) echo "packages ${firmware_packages[*]}" ;;
		clients) echo "packages ${client_packages[*]}" ;;
		packaging) echo "packages ${packaging_packages[*]}" ;;
		libvirt) echo "packages ${libvirt_packages[*]}" ;;
		compiler) echo "a C compiler, which Go's race detector is linked with (packages gcc libc6-dev)" ;;
		arm64) echo "an emulator for arm64 programs (package qemu-user-static)" ;;
		dpdk) echo "packages ${dpdk_packages[*]}" ;;
		ovs) echo "Open vSwitch with DPDK (packages ${ovs_packages[*]} unpacked in $ovs)" ;;
		hugepages) echo "$hugepages huge pages of 2 MiB, hugetlbfs on /dev/hugepages" ;;
		strace) echo "package strace" ;;
		valgrind) echo "package valgrind" ;;
		passt) echo "package passt" ;;
		tun) echo "/dev/net/tun" ;;
		netns) echo "network namespaces" ;;
	esac
}

case ${1:-} in
	demo) needs=(guest_packages qemu kernel) ;;
	test) needs=(compiler arm64 guest_packages qemu10 qemu7 kernel firmware clients packaging libvirt dpdk hugepages strace tun netns) ;;
	bench) needs=(dpdk ovs hugepages valgrind guest_packages qemu kernel passt tun netns) ;;
	*) die "want demo, test or bench" ;;
esac

printf 'Needed for "%s":\n' "$1"
missing=()
for need in "${needs[@]}"; do
	if "has_$need"; then
		printf '  have     %s\n' "$(describe "$need")"
	else
		printf '  MISSING  %s\n' "$(describe "$need")"
		missing+=("$need")
	fi
done
[ ${#missing[@]} -gt 0 ] || exit 0
[ -z "${NO_INSTALL:-}" ] || die "${#missing[@]} of ${#needs[@]} needs are not met, and NO_INSTALL is set"
for need in "${missing[@]}"; do
	printf '  getting  %s\n' "$(describe "$need")"
	"get_$need"
	"has_$need" || die "still missing after all that: $(describe "$need")"
done
