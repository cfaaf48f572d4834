//! CPUID profile v1: x86-64 with SSE2 and FXSAVE, a local APIC, a stopped kvmclock, and nothing else.
//!
//! Leaf numbers and bits: SDM volume 2A "CPUID", AMD APM volume 3 appendix E. The family and model are those
//! of an old generic processor, so that no guest looks for features by model.

/// Who made the processor. The one thing that the guest sees of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// `GenuineIntel`
    Intel,
    /// `AuthenticAMD`
    Amd,
}

impl Vendor {
    /// The name as CPUID gives it, bytes of EBX, EDX, ECX.
    #[must_use]
    pub fn name(self) -> &'static [u8; 12] {
        match self {
            Vendor::Intel => b"GenuineIntel",
            Vendor::Amd => b"AuthenticAMD",
        }
    }

    /// Recognises a name.
    #[must_use]
    pub fn from_name(name: &[u8; 12]) -> Option<Self> {
        [Vendor::Intel, Vendor::Amd].into_iter().find(|vendor| vendor.name() == name)
    }
}

/// One row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX on input.
    pub function: u32,
    /// ECX on input.
    pub index: u32,
    /// Output.
    pub eax: u32,
    /// Output.
    pub ebx: u32,
    /// Output.
    pub ecx: u32,
    /// Output.
    pub edx: u32,
}

/// Leaf 1 EDX: FPU, DE, PSE, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT, PSE36, CLFSH, MMX, FXSR, SSE, SSE2.
/// Not TSC: hidden, so that no guest keeps time by it.
pub const FEATURES_EDX: u32 = bits(&[0, 2, 3, 5, 6, 8, 9, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26]);
/// Leaf 1 ECX: running under a hypervisor.
const FEATURES_ECX: u32 = bits(&[31]);
/// Leaf 0x80000001 EDX: SYSCALL, NX, long mode.
pub const EXTENDED_EDX: u32 = bits(&[11, 20, 29]);
/// AMD repeats these of leaf 1 in leaf 0x80000001 (not SEP, CLFSH, SSE, SSE2).
const AMD_REPEATED_EDX: u32 = FEATURES_EDX & !bits(&[11, 19, 25, 26]);
/// Leaf 1 EBX: cache line of 64 bytes for CLFLUSH, one processor, APIC id 0.
const FEATURES_EBX: u32 = 8 << 8;
/// Leaf 6 EAX: the APIC timer always runs.
const THERMAL_EAX: u32 = bits(&[2]);
/// Leaf 0x80000008 EAX: 40 physical and 48 linear address bits.
const ADDRESS_BITS: u32 = 48 << 8 | 40;
/// Hypervisor leaves: our own name, so that the host kernel answers none of its hypercalls.
const HYPERVISOR_NAME: &[u8; 12] = b"TwinRunHyper";
/// `Hv#1`: a hypercall interface on which the host's time cannot be asked for.
const HYPERVISOR_INTERFACE: u32 = 0x3123_7648;
const KVM_NAME: &[u8; 12] = b"KVMKVMKVM\0\0\0";
/// Clock source by the new registers (3), end of interrupts in memory (6), clock declared stable (24).
pub const KVM_FEATURES: u32 = bits(&[3, 6, 24]);
const BRAND: &[u8; 48] = b"TwinRun virtual processor, profile v1\0\0\0\0\0\0\0\0\0\0\0";

const fn bits(list: &[u32]) -> u32 {
    let mut word = 0;
    let mut at = 0;
    while at < list.len() {
        word |= 1 << list[at];
        at += 1;
    }
    word
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at * 4..].first_chunk().map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> Leaf {
    Leaf { function, index: 0, eax, ebx, ecx, edx }
}

/// A leaf that begins a range: highest leaf, then a name in EBX, ECX, EDX.
fn range(function: u32, last: u32, name: &[u8; 12]) -> Leaf {
    leaf(function, [last, word(name, 0), word(name, 1), word(name, 2)])
}

/// The whole profile, by ascending leaf.
#[must_use]
pub fn profile(vendor: Vendor) -> Vec<Leaf> {
    let name = vendor.name();
    // Family, model, stepping: 15, 6, 1 and 15, 47, 2. Linux looks for defects of AMD's later models of that
    // family in registers that only these have.
    let (signature, repeated) = match vendor {
        Vendor::Intel => (0x0000_0f61, 0),
        Vendor::Amd => (0x0002_0ff2, AMD_REPEATED_EDX),
    };
    // The vendor's own leaves give the name in EBX, EDX, ECX.
    let vendor_leaf = |function, last| leaf(function, [last, word(name, 0), word(name, 2), word(name, 1)]);
    let mut leaves = vec![vendor_leaf(0, 7), leaf(1, [signature, FEATURES_EBX, FEATURES_ECX, FEATURES_EDX])];
    leaves.extend((2..=5).map(|function| leaf(function, [0; 4])));
    leaves.push(leaf(6, [THERMAL_EAX, 0, 0, 0]));
    leaves.push(leaf(7, [0; 4]));
    leaves.push(range(0x4000_0000, 0x4000_0001, HYPERVISOR_NAME));
    leaves.push(leaf(0x4000_0001, [HYPERVISOR_INTERFACE, 0, 0, 0]));
    leaves.push(range(0x4000_0100, 0x4000_0101, KVM_NAME));
    leaves.push(leaf(0x4000_0101, [KVM_FEATURES, 0, 0, 0]));
    leaves.push(vendor_leaf(0x8000_0000, 0x8000_0008));
    leaves.push(leaf(0x8000_0001, [0, 0, 0, EXTENDED_EDX | repeated]));
    for (part, function) in (0x8000_0002..=0x8000_0004).enumerate() {
        let at = part * 4;
        leaves.push(leaf(
            function,
            [word(BRAND, at), word(BRAND, at + 1), word(BRAND, at + 2), word(BRAND, at + 3)],
        ));
    }
    leaves.extend((0x8000_0005..=0x8000_0007).map(|function| leaf(function, [0; 4])));
    leaves.push(leaf(0x8000_0008, [ADDRESS_BITS, 0, 0, 0]));
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(vendor: Vendor, function: u32) -> Leaf {
        *profile(vendor).iter().find(|leaf| leaf.function == function).expect("the leaf exists")
    }

    #[test]
    fn nothing_beyond_the_profile_is_shown() {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            let features = find(vendor, 1);
            assert_eq!(features.edx & 1 << 4, 0, "TSC is hidden");
            assert_eq!(features.edx & (1 << 12 | 1 << 7 | 1 << 14), 0, "MTRR, MCE, MCA are hidden");
            assert_eq!(features.ecx, 1 << 31, "no SSE3 and later, x2APIC, TSC deadline, XSAVE, AVX, RDRAND");
            assert_eq!(features.ebx >> 24, 0, "APIC id 0");
            assert_eq!(find(vendor, 7), leaf(7, [0; 4]));
            assert_eq!(find(vendor, 0x8000_0001).edx & 1 << 27, 0, "RDTSCP is hidden");
            assert_eq!(find(vendor, 0x8000_0001).edx & 1 << 4, 0, "TSC is hidden in the repeated bits");
        }
    }

    #[test]
    fn x86_64_baseline_is_there() {
        // Required by every x86-64 kernel: FPU, MSR, PAE, CX8, PGE, CMOV, FXSR, SSE, SSE2; LM.
        let required = bits(&[0, 5, 6, 8, 13, 15, 24, 25, 26]);
        assert_eq!(find(Vendor::Intel, 1).edx & required, required);
        assert_eq!(find(Vendor::Amd, 0x8000_0001).edx & 1 << 29, 1 << 29);
    }

    #[test]
    fn names_are_in_the_right_registers() {
        let intel = find(Vendor::Intel, 0);
        assert_eq!(intel.ebx.to_le_bytes(), *b"Genu");
        assert_eq!(intel.edx.to_le_bytes(), *b"ineI");
        assert_eq!(intel.ecx.to_le_bytes(), *b"ntel");
        let kvm = find(Vendor::Amd, 0x4000_0100);
        assert_eq!([kvm.ebx, kvm.ecx, kvm.edx].map(u32::to_le_bytes).concat(), *b"KVMKVMKVM\0\0\0");
    }
}
