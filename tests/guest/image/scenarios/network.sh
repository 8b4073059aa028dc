# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Common parts of scripts about NICs. At the other end of the NIC's cable is a virtio NIC, in a
# network namespace of its own; receivers compare all data. Scripts define the function nic, which
# prints the name of the NIC's interface if there is one.

# The frames' size, and the amount of each test.
mtu=1500
megabytes=16

# there COMMAND...: runs a command at the other end.
there() { nsenter --net=/run/netns/peer "$@"; }

# start_peer ADDRESS: asserts that the virtio NIC at a PCI address becomes the other end.
start_peer() {
	local where
	check 'virtio_net loads' modprobe virtio_net
	check 'peer: interface' within 30 interface "$1"
	other=$(interface "$1")
	check 'peer: namespace' ip netns add peer
	check 'peer: moves' ip link set "$other" netns peer
	check 'peer: address' there ip address add 10.0.0.2/24 dev "$other"
	check 'peer: comes up' there ip link set "$other" mtu $mtu up
	# Connections outlast an interruption, and go on soon after it. The settings are those of a
	# namespace.
	for where in '' there; do
		$where bash -c 'echo 1000 >/proc/sys/net/ipv4/tcp_rto_max_ms
			echo 255 >/proc/sys/net/ipv4/tcp_retries2'
	done
	check 'peer: iperf3 serves' there iperf3 --server --daemon
	head -c $((megabytes << 19)) /dev/urandom >/tmp/file
	sum=$(sha256sum </tmp/file)
	sum=${sum%% *}
}

# configure: gives the NIC its address and enables it.
configure() {
	local name
	name=$(nic)
	ip address replace 10.0.0.1/24 dev "$name"
	ip link set "$name" mtu $mtu up
}
answers() { ping -q -n -c 1 -W 1 10.0.0.2; }
# comes_up WHEN: asserts that the NIC appears, and that packets pass.
comes_up() {
	check "$1: interface" within 30 nic
	check "$1: configured" configure
	check "$1: link" within 30 answers
}

# frames MTU: asserts that both ends take frames of that size.
frames() {
	mtu=$1
	check "frames of $mtu: peer" there ip link set "$other" mtu "$mtu"
	check "frames of $mtu: NIC" ip link set "$(nic)" mtu "$mtu"
}

# --- traffic that ends ------------------------------------------------------

# datagrams: sends requests of various sizes, whose answers must have the same data.
datagrams() {
	local size
	for size in 0 1 18 19 63 512 1471 1472 1473 $((mtu - 29)) $((mtu - 28)) 20001; do
		if ! ping -n -c 2 -i 0.05 -W 5 -s $size 10.0.0.2 >/tmp/ping ||
			grep -i wrong /tmp/ping; then
			cat /tmp/ping
			echo "datagrams of $size bytes"
			return 1
		fi
	done
}

# moved SENT RECEIVED: succeeds if the NIC has counted more bytes than these by half the amount of a
# test: iperf3 ends when it has written all to its sockets, whatever has arrived.
moved() {
	local statistics least=$((megabytes << 19))
	statistics=/sys/class/net/$(nic)/statistics
	(($(<"$statistics/tx_bytes") >= $1 + least || $(<"$statistics/rx_bytes") >= $2 + least))
}

# tcp WHAT OPTION...: asserts that iperf3 moves the amount through the NIC.
tcp() {
	local what=$1 statistics sent received
	shift
	statistics=/sys/class/net/$(nic)/statistics
	sent=$(<"$statistics/tx_bytes") received=$(<"$statistics/rx_bytes")
	check "$what" iperf3 --client 10.0.0.2 --bytes ${megabytes}M \
		--window 128K "$@"
	# Some drivers read the device's counters now and then.
	check "$what: through the NIC" within 10 moved "$sent" "$received"
}

# sender WHERE ADDRESS PORT: sends its input from WHERE, which is `there` or empty. It keeps the
# connection until the receiver has closed it: the kernel drops what is left to be sent in a socket
# that no process has, without a word, as soon as a retransmission waits for tcp_rto_max_ms; the
# receiver would wait for ever.
sender() { $1 socat -b 65536 -t 600 - "TCP:$2:$3,retry=100,interval=0.1"; }

# copies: sends /tmp/file in each direction, at the same time.
copies() {
	local pids=() pid
	rm -f /tmp/here /tmp/there
	there socat -u TCP-LISTEN:5010,reuseaddr CREATE:/tmp/there &
	pids+=($!)
	socat -u TCP-LISTEN:5011,reuseaddr CREATE:/tmp/here &
	pids+=($!)
	sender '' 10.0.0.2 5010 </tmp/file &
	pids+=($!)
	sender there 10.0.0.1 5011 </tmp/file &
	pids+=($!)
	for pid in "${pids[@]}"; do
		wait "$pid" || return
	done
	sha256sum --quiet -c <<-END
		$sum  /tmp/here
		$sum  /tmp/there
	END
}

# traffic WHEN: asserts that all of these work.
traffic() {
	check "$1: datagrams" datagrams
	tcp "$1: sends"
	tcp "$1: receives" --reverse
	[[ ${SMALL:-} ]] || tcp "$1: four connections, both ways" --bidir --parallel 4
	check "$1: files" copies
}

# --- streams that go on -----------------------------------------------------

# One copy of the data, of which a stream has many.
copy=$((512 << 10))

# send: writes copies of the data until the streams are to end.
send() {
	until [[ -e /run/streams.stop ]]; do
		head -c $copy /tmp/file
	done
}

# receive NAME: compares each copy in its input, and counts them.
receive() {
	local count=0 got
	while got=$(head -c $copy | sha256sum) && [[ $got != "$nothing" ]]; do
		[[ $got == "$wanted" ]] || { echo 'wrong data'; return 1; }
		echo $((++count)) >"/run/$1.new"
		mv "/run/$1.new" "/run/$1.count"
	done
	echo "ends after $count copies"
}

# stream NAME RECEIVER SENDER ADDRESS PORT: runs a stream to its end. RECEIVER and SENDER are
# `there`, or empty.
stream() {
	send | sender "$3" "$4" "$5" &
	{ $2 socat -u -b 65536 "TCP-LISTEN:$5,reuseaddr" - | receive "$1"; } >"/run/$1.result" 2>&1
	mv "/run/$1.result" "/run/$1.end"
	wait
}

streams='out in'
start_streams() {
	local name
	nothing=$(sha256sum </dev/null)
	wanted=$(head -c $copy /tmp/file | sha256sum)
	rm -f /run/streams.stop
	for name in $streams; do
		rm -f "/run/$name.end"
		echo 0 >"/run/$name.count"
	done
	stream out there '' 10.0.0.2 5001 &
	stream in '' there 10.0.0.1 5002 &
}
count() { cat "/run/$1.count"; }
# nudge: with NUDGE=1, sends a datagram from a port of its own, and so through any queue of the NIC.
nudge() { [[ ! ${NUDGE:-} ]] || echo 2>/dev/null >/dev/udp/10.0.0.2/9 || true; }
more() {
	nudge
	(($(count out) >= $1 + 2 && $(count in) >= $2 + 2))
}
# flows WHEN: asserts that both streams go on.
flows() { check "$1: streams go on" within 60 more "$(count out)" "$(count in)"; }
ended() { [[ -e /run/out.end && -e /run/in.end ]]; }
end_streams() {
	local name
	touch /run/streams.stop
	check 'streams end' within 60 ended
	for name in $streams; do
		check "stream $name: every copy is right" grep '^ends after' "/run/$name.end"
	done
}
