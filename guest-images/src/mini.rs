//! `mini`: Debian's kernel with busybox and the test server, nothing else. Boots in seconds.
//!
//! Its services are those of the micro guest, its log has the micro guest's form, on /dev/vda. The console has a shell.
//! The power button switches it off.

use std::fs;

use anyhow::{Context as _, Result};

use crate::{Disk, Initramfs, LinuxImage, cache, cloud_kernel, recipe};

/// Size of the disk of counters, in bytes.
const DISK: u64 = 16 << 20;

/// In order: the bus, the devices, the power button.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "button", "evdev"];

/// `ip=` is the kernel's word, but Debian's kernel leaves it to the first process.
const INIT: &str = "
address=10.77.0.10/24
for word in $(cat /proc/cmdline); do
    case $word in ip=*) address=${word#ip=} ;; esac
done
ip link set lo up
ip address add \"$address\" dev eth0
ip link set eth0 up
acpid -l /dev/null -p /acpid.pid
( /bin/server /dev/vda; echo \"mini: the server has ended ($?)\"; poweroff -f ) &
while :; do
    setsid cttyhack sh
    sleep 1
done";

/// Makes the guest `mini`, unless it is there already.
///
/// # Errors
/// A package cannot be fetched, or the test server does not build.
pub fn mini() -> Result<LinuxImage> {
    let kernel = cloud_kernel()?;
    let server = recipe::server()?;
    let mut initramfs = Initramfs::new()?;
    initramfs.load(&kernel, &MODULES)?;
    initramfs.file("/bin/server", 0o555, &fs::read(&server).context("cannot read the test server")?);
    initramfs.file("/etc/acpi/PWRF/00000080", 0o555, b"#!/bin/sh\nsync\npoweroff -f\n");
    initramfs.run(INIT);
    Ok(LinuxImage {
        kernel: kernel.image,
        initrd: initramfs.finish("mini")?,
        cmdline: "console=ttyS0 quiet panic=-1 ip=10.77.0.10/24".to_owned(),
        disks: vec![Disk { name: "counters", template: cache::keep_blank(DISK)? }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb;

    #[test]
    fn it_is_made_once_and_holds_what_it_needs() {
        if let Some(why) = deb::obstacle() {
            eprintln!("SKIPPED: {why}");
            return;
        }
        let image = mini().unwrap();
        assert_eq!(mini().unwrap(), image, "the same inputs give the same bytes");
        // The setup header of a bzImage: Documentation/arch/x86/boot.rst.
        assert_eq!(fs::read(&image.kernel).unwrap()[0x202..0x206], *b"HdrS");
        let initrd = fs::read(&image.initrd).unwrap();
        for name in ["init", "bin/busybox", "bin/server", "modules/virtio_blk.ko", "modules/virtio_ring.ko"] {
            let entry = [name.as_bytes(), b"\0"].concat();
            assert!(initrd.windows(entry.len()).any(|window| window == entry), "{name} is missing");
        }
        assert_eq!(fs::metadata(&image.disks[0].template).unwrap().len(), DISK);
    }
}
