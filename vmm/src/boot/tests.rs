use std::path::PathBuf;

use linux_loader::loader::bootparam::{boot_params, setup_header};
use vm_memory::ByteValued;

use super::*;
use crate::memory;
use crate::table::layout::{ACPI_TABLES, COMMAND_LINE};

/// A bzImage that says of itself what a Debian kernel does.
struct Kernel {
    header: setup_header,
    body: Vec<u8>,
}

const PREFERRED: u64 = 0x40_0000;
const INIT_SIZE: u32 = 0x20_0000;
/// Bytes in front of the body: one boot sector and one of setup code.
const SETUP: usize = 1024;

impl Kernel {
    fn new() -> Self {
        let header = setup_header {
            setup_sects: 1,
            syssize: 0x1000 / 16,
            boot_flag: 0xaa55,
            header: u32::from_le_bytes(bzimage::MARK),
            version: 0x020f,
            loadflags: 0x81,
            initrd_addr_max: 0x7fff_ffff,
            kernel_alignment: 0x20_0000,
            relocatable_kernel: 1,
            xloadflags: 1,
            cmdline_size: 255,
            pref_address: PREFERRED,
            init_size: INIT_SIZE,
            ..Default::default()
        };
        Kernel { header, body: vec![0xf4; 0x1000] }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; SETUP];
        let header = self.header.as_slice();
        bytes[0x1f1..0x1f1 + header.len()].copy_from_slice(header);
        [bytes, self.body.clone()].concat()
    }
}

struct Bench {
    directory: tempfile::TempDir,
    ram: Ram,
}

impl Bench {
    fn new() -> Self {
        Bench {
            directory: tempfile::tempdir().expect("a directory"),
            ram: memory::allocate(16).expect("memory"),
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    }

    fn load(&self, kernel: &[u8], initrd: Option<&[u8]>, command_line: &str) -> Result<CpuState, BootError> {
        let kernel = self.file("kernel", kernel);
        let initrd = initrd.map(|bytes| self.file("initrd", bytes));
        load(&self.ram, Sources { kernel: &kernel, initrd: initrd.as_deref(), command_line })
    }

    fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read_slice(&mut bytes, GuestAddress(address)).expect("in memory");
        bytes
    }

    /// What is wrong, in one line that names the file.
    fn refusal(&self, kernel: &[u8], initrd: Option<&[u8]>) -> String {
        let text = self.load(kernel, initrd, "").expect_err("refused").to_string();
        assert!(text.contains(self.directory.path().to_str().expect("text")), "{text} names no file");
        text
    }
}

#[test]
fn a_linux_kernel_is_started_by_its_boot_protocol() {
    let bench = Bench::new();
    let state = bench.load(&Kernel::new().bytes(), Some(&[7; 5000]), "console=ttyS0").expect("loads");
    assert_eq!(state.rip, PREFERRED + 0x200);
    assert_eq!((state.general[6], state.rflags & 1 << 9), (BOOT_PARAMS, 0));
    let selectors: Vec<u16> = state.segments[..6].iter().map(|segment| segment.selector).collect();
    assert_eq!(selectors, [0x10, 0x18, 0x18, 0x18, 0x18, 0x18]);
    let (gdt, limit) = state.gdt;
    let descriptors = bench.read(gdt, usize::from(limit) + 1);
    assert_eq!(descriptors[0x10..], [GDT[1].to_le_bytes(), GDT[2].to_le_bytes()].concat());
    assert_eq!(bench.read(PREFERRED, 0x1000), [0xf4; 0x1000]);

    let page = bench.read(BOOT_PARAMS, 4096);
    let params = boot_params::from_slice(&page).expect("its size");
    let (header, wanted) = (params.hdr, Kernel::new().header);
    let initrd = (u64::from(header.ramdisk_image), header.ramdisk_size);
    assert_eq!(initrd, (0x100_0000 - 0x2000, 5000), "at the end of memory");
    assert_eq!(bench.read(initrd.0, 5000), [7; 5000]);
    assert_eq!((u64::from(header.cmd_line_ptr), header.type_of_loader), (COMMAND_LINE, 0xff));
    assert_eq!(bench.read(COMMAND_LINE, 14), b"console=ttyS0\0");
    assert_eq!(header.loadflags, 1, "loaded high, no heap");
    let told = setup_header {
        code32_start: u32::try_from(PREFERRED).expect("below 4 GiB"),
        cmd_line_ptr: header.cmd_line_ptr,
        ramdisk_image: header.ramdisk_image,
        ramdisk_size: 5000,
        type_of_loader: 0xff,
        loadflags: 1,
        ..wanted
    };
    assert_eq!(header, told, "all else is the kernel's own");
    assert_eq!({ params.acpi_rsdp_addr }, ACPI_TABLES);
    assert_eq!(bench.read(ACPI_TABLES, 8), b"RSD PTR ");
    let map: Vec<_> = params.e820_table[..3]
        .iter()
        .map(|entry| ({ entry.addr }, { entry.size }, { entry.r#type }))
        .collect();
    assert_eq!(map, [(0, 0x9_fc00, 1), (0x9_fc00, 0x6_0400, 2), (0x10_0000, 0xf0_0000, 1)]);
    assert_eq!({ params.e820_entries }, 3);
}

#[test]
fn kernels_that_cannot_be_started_are_refused() {
    let bench = Bench::new();
    let mut old = Kernel::new();
    old.header.version = 0x020a;
    assert!(bench.refusal(&old.bytes(), None).contains("64-bit entry"));
    let mut narrow = Kernel::new();
    narrow.header.xloadflags = 0;
    assert!(bench.refusal(&narrow.bytes(), None).contains("64-bit entry"));
    let mut small = Kernel::new();
    small.header.loadflags = 0;
    assert!(bench.refusal(&small.bytes(), None).contains("zImage"));
    let mut large = Kernel::new();
    large.header.init_size = 0x1000_0000;
    assert!(bench.refusal(&large.bytes(), None).contains("more memory"));
    let long = [Kernel::new().bytes(), vec![0; INIT_SIZE as usize + 1]].concat();
    assert!(bench.refusal(&long, None).contains("intact"));
    assert!(bench.refusal(b"MZ", None).contains("neither"));
    assert!(bench.refusal(&[], None).contains("neither"));
}

#[test]
fn every_cut_kernel_is_refused() {
    let bench = Bench::new();
    let bytes = Kernel::new().bytes();
    for length in (0..bytes.len()).step_by(97) {
        bench.refusal(&bytes[..length], None);
    }
    bench.refusal(&bytes[..bytes.len() - 1], None);
}

#[test]
fn initial_file_systems_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    let kernel = Kernel::new().bytes();
    assert!(bench.refusal(&kernel, Some(&[])).contains("empty"));
    // 16 MiB of memory, of which the kernel takes all up to 6 MiB.
    assert!(bench.load(&kernel, Some(&vec![1; 10 << 20]), "").is_ok());
    assert!(bench.refusal(&kernel, Some(&vec![1; (10 << 20) + 1])).contains("more memory"));
    assert!(bench.refusal(b"\x7fELF", Some(&[1])).contains("takes none"));
    let kernel = bench.file("kernel", &kernel);
    let missing = bench.directory.path().join("missing");
    for path in [missing.as_path(), bench.directory.path()] {
        let sources = Sources { kernel: &kernel, initrd: Some(path), command_line: "" };
        let error = load(&bench.ram, sources).expect_err("refused");
        assert!(matches!(error, BootError::Initrd { .. }), "{error}");
    }
}

#[test]
fn a_command_line_is_as_long_as_the_kernel_allows() {
    let bench = Bench::new();
    let kernel = Kernel::new().bytes();
    assert!(bench.load(&kernel, None, &"x".repeat(255)).is_ok());
    let error = bench.load(&kernel, None, &"x".repeat(256)).expect_err("too long");
    assert!(matches!(error, BootError::CommandLineTooLong { got: 256, max: 255 }), "{error}");
}
