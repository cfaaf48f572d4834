//! One instruction on the host's own processor.
//!
//! The bytes are put into an executable page, followed by RET. A trampoline loads all that the instruction may
//! read, calls it, and stores all that it may have written. A fault moves RIP on to the RET.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use iced_x86::{Encoder, Instruction};

/// Where the memory operand is, in [`State::memory`], if it is aligned.
pub(super) const OPERAND: usize = 16;
/// CF, PF, AF, ZF, SF and OF: all set before the instruction.
pub(super) const FLAGS: u64 = 0x8D5;
/// The x87 tag word when every register is empty, as it is before the instruction.
pub(super) const EMPTY: u16 = 0xFFFF;

/// What an instruction reads and writes. Operand `n` of the instruction, if it is a register, is number `n`.
#[derive(Clone, Debug, PartialEq)]
#[repr(C, align(16))]
pub(super) struct State {
    pub(super) xmm: [u128; 3],
    pub(super) mm: [u64; 3],
    /// RAX and RCX.
    pub(super) gpr: [u64; 2],
    pub(super) flags: u64,
    pub(super) mxcsr: u32,
    /// The host's own MXCSR meanwhile.
    host_mxcsr: u32,
    _pad: u64,
    pub(super) memory: [u8; 48],
    /// FSTENV: the tag word at 8.
    environment: [u8; 32],
}

impl State {
    pub(super) fn new(mxcsr: u32) -> Self {
        State {
            xmm: [0; 3],
            mm: [0; 3],
            gpr: [0; 2],
            flags: FLAGS,
            mxcsr,
            host_mxcsr: 0,
            _pad: 0,
            memory: [0; 48],
            environment: [0; 32],
        }
    }

    /// Whether the instruction took the x87 registers for MMX.
    pub(super) fn entered_mmx(&self) -> bool {
        u16::from_le_bytes([self.environment[8], self.environment[9]]) != EMPTY
    }

    /// Forgets what is the trampoline's own.
    pub(super) fn visible(mut self) -> Self {
        self.environment = [0; 32];
        self.host_mxcsr = 0;
        self
    }
}

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Completed,
    /// #XM.
    FloatingPoint,
    /// #GP.
    Protection,
}

/// The instruction's address, its length, and the signal that it raised.
static CODE: AtomicUsize = AtomicUsize::new(0);
static LENGTH: AtomicUsize = AtomicUsize::new(0);
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static HANDLERS: Once = Once::new();

const PAGE: usize = 4096;

/// The executable page; there is one user at a time.
pub(super) struct Native {
    page: *mut u8,
    _guard: MutexGuard<'static, ()>,
}

impl Native {
    pub(super) fn new() -> Self {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        HANDLERS.call_once(|| {
            handle(libc::SIGFPE);
            handle(libc::SIGSEGV);
        });
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
        assert!(page != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Native { page: page.cast(), _guard: guard }
    }

    /// Makes this the instruction that [`Native::run`] executes.
    pub(super) fn load(&mut self, instruction: &Instruction) {
        let mut encoder = Encoder::new(64);
        let length = encoder.encode(instruction, 0).expect("the instruction has an encoding");
        let mut bytes = encoder.take_buffer();
        bytes.push(0xC3);
        assert!(bytes.len() <= PAGE);
        // SAFETY: the page is ours, large enough, and nothing executes it now.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.page, bytes.len()) };
        CODE.store(self.page.addr(), Ordering::SeqCst);
        LENGTH.store(length, Ordering::SeqCst);
    }

    /// Executes it on this state, its memory operand `skew` bytes beyond [`OPERAND`].
    pub(super) fn run(&self, state: &mut State, skew: usize) -> End {
        let memory = state.memory[OPERAND + skew..].as_mut_ptr();
        SIGNAL.store(0, Ordering::SeqCst);
        // SAFETY: the code is one instruction of this module's table and a RET. Its memory operand is at most
        // 16 bytes at `memory`, which are inside of the state; everything else that it may write is saved or
        // declared here. MXCSR and the x87 unit are as Rust wants them before the block ends.
        unsafe { trampoline(state, memory, self.page) };
        match SIGNAL.load(Ordering::SeqCst) {
            0 => End::Completed,
            libc::SIGFPE => End::FloatingPoint,
            _ => End::Protection,
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        CODE.store(0, Ordering::SeqCst);
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.page.cast(), PAGE) };
    }
}

/// # Safety
/// `code` must be one instruction whose memory operand is at RDI, and a RET.
unsafe fn trampoline(state: *mut State, memory: *mut u8, code: *mut u8) {
    // SAFETY: the caller vouches for the code; the offsets are those of the structure.
    unsafe {
        std::arch::asm!(
            "movdqa xmm0, [rsi + {xmm}]",
            "movdqa xmm1, [rsi + {xmm} + 16]",
            "movdqa xmm2, [rsi + {xmm} + 32]",
            "movq mm0, [rsi + {mm}]",
            "movq mm1, [rsi + {mm} + 8]",
            "movq mm2, [rsi + {mm} + 16]",
            "emms",
            "mov rax, [rsi + {gpr}]",
            "mov rcx, [rsi + {gpr} + 8]",
            "stmxcsr [rsi + {host}]",
            "push qword ptr [rsi + {flags}]",
            "popfq",
            "ldmxcsr [rsi + {mxcsr}]",
            "call r8",
            "stmxcsr [rsi + {mxcsr}]",
            "ldmxcsr [rsi + {host}]",
            "pushfq",
            "pop qword ptr [rsi + {flags}]",
            "fnstenv [rsi + {environment}]",
            "movdqa [rsi + {xmm}], xmm0",
            "movdqa [rsi + {xmm} + 16], xmm1",
            "movdqa [rsi + {xmm} + 32], xmm2",
            "movq [rsi + {mm}], mm0",
            "movq [rsi + {mm} + 8], mm1",
            "movq [rsi + {mm} + 16], mm2",
            "fninit",
            "mov [rsi + {gpr}], rax",
            "mov [rsi + {gpr} + 8], rcx",
            xmm = const std::mem::offset_of!(State, xmm),
            mm = const std::mem::offset_of!(State, mm),
            gpr = const std::mem::offset_of!(State, gpr),
            flags = const std::mem::offset_of!(State, flags),
            mxcsr = const std::mem::offset_of!(State, mxcsr),
            host = const std::mem::offset_of!(State, host_mxcsr),
            environment = const std::mem::offset_of!(State, environment),
            inout("rsi") state => _,
            inout("rdi") memory => _,
            inout("r8") code => _,
            clobber_abi("sysv64"),
        );
        (*state).flags &= FLAGS;
    }
}

fn handle(signal: libc::c_int) {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action is complete, and its handler only uses atomics and its own arguments.
    let done = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0, "sigaction: {}", std::io::Error::last_os_error());
}

extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: under SA_SIGINFO the kernel passes a context, which is ours to change.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    let code = CODE.load(Ordering::SeqCst);
    if code != 0 && *rip as usize == code {
        *rip += LENGTH.load(Ordering::SeqCst) as i64;
        SIGNAL.store(signal, Ordering::SeqCst);
        return;
    }
    // Someone else's fault: it happens again, and ends the process.
    // SAFETY: the default action has no handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
