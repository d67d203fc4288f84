#!/bin/sh
# A device in shell: mosquitto's programs speak MQTT, perl packs the fields of service/devices/msg.proto.
#
#   device.sh NAME [SECONDS]    a reading every so many seconds (10), until Ctrl-C
#
# MQTT_HOST and MQTT_PORT are the broker's (127.0.0.1, 1883), MQTT_PASSWORD the file of the device's password
# (NAME.jwt), MQTT_CA the file of the broker's authority, if it speaks TLS.
set -eu
name=$1 every=${2:-10} delay=10 silence=60 session=$(date +%s)
password=$(cat "${MQTT_PASSWORD:-$name.jwt}")

# The programs read it from a file of options: each user of the machine sees a program's arguments.
XDG_CONFIG_HOME=$(umask 077; mktemp -d)
export XDG_CONFIG_HOME
trap 'rm -r "$XDG_CONFIG_HOME"' EXIT
trap 'exit 0' INT TERM
for program in mosquitto_pub mosquitto_sub; do
  (umask 077; printf '%s %s\n' -P "$password" >"$XDG_CONFIG_HOME/$program")
done

sensor() { # put your sensor here: it prints a temperature and a humidity
  awk -v seed="$(date +%s)" 'BEGIN { srand(seed); printf "%.1f %.1f\n", 20 + 2 * rand(), 45 + 5 * rand() }'
}

mqtt() { # PROGRAM CLIENT-ID OPTIONS...
  program=$1 id=$2
  shift 2
  "$program" -h "${MQTT_HOST:-127.0.0.1}" -p "${MQTT_PORT:-1883}" ${MQTT_CA:+--cafile "$MQTT_CA"} \
    -i "$id" -u "$name" "$@"
}

bytes() { # 'the fields after the device, in Perl' VALUES...
  fields=$1
  shift
  perl -e '
    sub varint { my ($n, $s) = (shift, ""); while ($n > 127) { $s .= chr($n & 127 | 128); $n >>= 7 } $s . chr $n }
    my ($name, @v) = @ARGV;
    print "\x0a", varint(length $name), $name, '"$fields" "$name" "$@"
}

# This connection is the device's presence: when it breaks, the broker publishes the will.
will=$(bytes '"\x10", varint($v[0]), "\x18", varint($v[1])' "$delay" "$session")
mqtt mosquitto_sub "$name" -t pulse --will-topic "lwt/$name" --will-payload "$will" --will-qos 1 &
trap 'kill $!; rm -r "$XDG_CONFIG_HOME"' EXIT

# The readings go over another, so under another client id: two connections with one id end each other.
bytes '"\x10", varint($v[0]), "\x18", varint($v[1])' "$session" "$silence" |
  mqtt mosquitto_pub "$name-out" -q 1 -t "connect/$name" -s
while :; do
  set -- $(sensor)
  bytes '"\x15", pack("f<", $v[0]), "\x1d", pack("f<", $v[1]), "\x20", varint(time)' "$1" "$2" |
    mqtt mosquitto_pub "$name-out" -q 1 -t "data/$name/climate" -s
  echo "stored: $1 °C, $2 %"
  sleep "$every"
done
