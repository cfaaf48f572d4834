#!/bin/sh
# Run when all packages are installed: $1 is the root directory, $2 the directory of this script.
# Debian's own programs and units stay as they are; this is what an administrator would configure.
set -eu
root=$1
own=$2

echo twinrun > "$root/etc/hostname"
printf '127.0.0.1 localhost\n10.77.0.10 twinrun\n' > "$root/etc/hosts"
# What the building machine's says is of no use there.
: > "$root/etc/resolv.conf"
# A machine without an identity would draw one at its first boot, and each replica another one.
echo 7477696e72756e7477696e72756e3031 > "$root/etc/machine-id"
cat > "$root/etc/fstab" <<END
/dev/vda / ext4 errors=remount-ro 0 1
/dev/vdb /var/lib/redis ext4 defaults 0 2
END

cat > "$root/etc/systemd/network/10-lan.network" <<END
[Match]
Type=ether

[Network]
Address=10.77.0.10/24
LinkLocalAddressing=no
IPv6AcceptRA=no
END

# Keys that everybody knows: for tests in networks of their own, never for a machine that others can reach.
rm -f "$root"/etc/ssh/ssh_host_*
install -m 600 "$own/host_key" "$root/etc/ssh/ssh_host_ed25519_key"
install -m 644 "$own/host_key.pub" "$root/etc/ssh/ssh_host_ed25519_key.pub"
install -d -m 700 "$root/root/.ssh"
install -m 600 "$own/client_key.pub" "$root/root/.ssh/authorized_keys"
echo 'root:$6$twinrun$OVkl/nezBOQ9glbRypwta/Q1a6bOaYzfcxtNV0K8fiYqS8tDinYWFAXsSn2B07BLYyxG78S8qM/I4DP5jVhTb/' | chroot "$root" chpasswd -e

cat >> "$root/etc/redis/redis.conf" <<END

# What counts is durable before it is answered.
bind 0.0.0.0
protected-mode no
appendonly yes
appendfsync always
END

chroot "$root" systemctl --quiet enable systemd-networkd nginx redis-server ssh
# The machine has no way out to look for updates.
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer systemd-networkd-wait-online.service

# What differs from build to build and is made again when it is missed.
rm -f "$root/var/cache/ldconfig/aux-cache" "$root/var/lib/systemd/random-seed"
find "$root/var/log" -type f -delete
