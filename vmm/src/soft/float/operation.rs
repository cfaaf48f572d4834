//! Every x87 instruction as one value, which says what it needs and does to a [`Unit`] what the instruction does.

use iced_x86::Code as C;

use super::unit::{
    Arith, CompareFlags, Constant, Function, Layout, Memory, Ordering, STATE_SIZE, Size, Unit,
};

/// A format of memory operands that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F64,
    F80,
    I16,
    I32,
    I64,
    Bcd,
}

impl Format {
    fn size(self) -> usize {
        match self {
            Format::I16 => 2,
            Format::F32 | Format::I32 => 4,
            Format::F64 | Format::I64 => 8,
            Format::F80 | Format::Bcd => 10,
        }
    }

    fn of(self, operand: &[u8; STATE_SIZE]) -> Memory {
        fn first<const N: usize>(operand: &[u8; STATE_SIZE]) -> [u8; N] {
            std::array::from_fn(|at| operand[at])
        }
        match self {
            Format::F32 => Memory::F32(u32::from_le_bytes(first(operand))),
            Format::F64 => Memory::F64(u64::from_le_bytes(first(operand))),
            Format::F80 => Memory::F80(first(operand)),
            Format::I16 => Memory::I16(i16::from_le_bytes(first(operand))),
            Format::I32 => Memory::I32(i32::from_le_bytes(first(operand))),
            Format::I64 => Memory::I64(i64::from_le_bytes(first(operand))),
            Format::Bcd => Memory::Bcd(first(operand)),
        }
    }
}

/// An instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Arith {
        op: Arith,
        dst: u8,
        src: u8,
        pop: bool,
    },
    ArithMemory(Arith, Format),
    Compare {
        how: Ordering,
        i: u8,
        pops: u8,
    },
    CompareMemory {
        format: Format,
        pop: bool,
    },
    CompareFlags {
        how: Ordering,
        i: u8,
        pop: bool,
    },
    Test,
    Examine,
    Function(Function),
    LoadConstant(Constant),
    LoadRegister(u8),
    Load(Format),
    StoreRegister {
        i: u8,
        pop: bool,
    },
    Store {
        size: Size,
        pop: bool,
    },
    PopTo(u8),
    Exchange(u8),
    MoveIf {
        condition: u8,
        i: u8,
    },
    Free {
        i: u8,
        pop: bool,
    },
    IncrementTop,
    DecrementTop,
    LoadControl,
    StoreControl,
    StoreStatus,
    StatusToAx,
    LoadEnvironment(Layout),
    StoreEnvironment(Layout),
    LoadState(Layout),
    StoreState(Layout),
    Clear,
    Initialise,
    /// FWAIT and FNOP: only the check that every waiting instruction makes.
    Wait,
    /// What the 8087 and 80287 had for interrupts and protected mode.
    Nothing,
}

/// How an instruction uses memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operand {
    /// Not at all.
    None,
    /// It reads so many bytes.
    Read(usize),
    /// It writes so many bytes, unless an exception keeps it from it.
    Write(usize),
}

/// What an instruction does beyond the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Memory gets the first bytes of this, as many as [`Operation::operand`] says.
    Write([u8; STATE_SIZE]),
    /// AX gets the status word.
    Ax(u16),
    /// ZF, PF and CF are set; OF, SF and AF are cleared.
    Flags(CompareFlags),
}

impl Operation {
    /// By its opcode, and the number of the stack register that is not ST(0), or 0. `None`: it is no x87
    /// instruction of a current processor.
    pub(crate) fn of(code: C, i: u8) -> Option<Operation> {
        of_register(code, i).or_else(|| of_memory(code)).or_else(|| of_alone(code))
    }

    /// Whether a pending exception comes first.
    pub(crate) fn waits(self) -> bool {
        !matches!(
            self,
            Operation::StoreControl
                | Operation::StoreStatus
                | Operation::StatusToAx
                | Operation::StoreEnvironment(_)
                | Operation::StoreState(_)
                | Operation::Clear
                | Operation::Initialise
                | Operation::Nothing
        )
    }

    /// Its memory operand.
    pub(crate) fn operand(self) -> Operand {
        match self {
            Operation::ArithMemory(_, format)
            | Operation::CompareMemory { format, .. }
            | Operation::Load(format) => Operand::Read(format.size()),
            Operation::LoadControl => Operand::Read(2),
            Operation::LoadEnvironment(layout) => Operand::Read(layout.environment_size()),
            Operation::LoadState(layout) => Operand::Read(layout.state_size()),
            Operation::Store { size, .. } => Operand::Write(size.bytes()),
            Operation::StoreControl | Operation::StoreStatus => Operand::Write(2),
            Operation::StoreEnvironment(layout) => Operand::Write(layout.environment_size()),
            Operation::StoreState(layout) => Operand::Write(layout.state_size()),
            _ => Operand::None,
        }
    }

    /// The condition of FCMOVcc, numbered as in Jcc.
    pub(crate) fn condition(self) -> Option<u8> {
        match self {
            Operation::MoveIf { condition, .. } => Some(condition),
            _ => None,
        }
    }

    /// Executes it. `operand` is the memory operand if it reads one, `holds` whether its condition does.
    pub(crate) fn execute(self, unit: &mut Unit, operand: &[u8; STATE_SIZE], holds: bool) -> Effect {
        match self {
            Operation::Arith { op, dst, src, pop } => unit.arith(op, dst, src, pop),
            Operation::ArithMemory(op, format) => unit.arith_memory(op, format.of(operand)),
            Operation::Compare { how, i, pops } => unit.compare(how, i, pops),
            Operation::CompareMemory { format, pop } => unit.compare_memory(format.of(operand), pop),
            Operation::CompareFlags { how, i, pop } => return Effect::Flags(unit.compare_flags(how, i, pop)),
            Operation::Test => unit.test(),
            Operation::Examine => unit.examine(),
            Operation::Function(function) => unit.function(function),
            Operation::LoadConstant(constant) => unit.load_constant(constant),
            Operation::LoadRegister(i) => unit.load_register(i),
            Operation::Load(format) => unit.load(format.of(operand)),
            Operation::StoreRegister { i, pop } => unit.store_register(i, pop),
            Operation::Store { size, pop } => {
                return unit.store(size, pop).map_or(Effect::None, |stored| write(stored.bytes()));
            }
            Operation::PopTo(i) => unit.pop_to(i),
            Operation::Exchange(i) => unit.exchange(i),
            Operation::MoveIf { i, .. } => unit.move_if(holds, i),
            Operation::Free { i, pop } => unit.free(i, pop),
            Operation::IncrementTop => unit.increment_top(),
            Operation::DecrementTop => unit.decrement_top(),
            Operation::LoadControl => unit.set_control(u16::from_le_bytes([operand[0], operand[1]])),
            Operation::StoreControl => return write(&unit.control().to_le_bytes()),
            Operation::StoreStatus => return write(&unit.status().to_le_bytes()),
            Operation::StatusToAx => return Effect::Ax(unit.status()),
            Operation::LoadEnvironment(layout) => unit.load_environment(layout, operand),
            Operation::StoreEnvironment(layout) => return Effect::Write(unit.store_environment(layout)),
            Operation::LoadState(layout) => unit.load_state(layout, operand),
            Operation::StoreState(layout) => return Effect::Write(unit.store_state(layout)),
            Operation::Clear => unit.clear_exceptions(),
            Operation::Initialise => unit.init(),
            Operation::Wait | Operation::Nothing => {}
        }
        Effect::None
    }
}

fn write(bytes: &[u8]) -> Effect {
    let mut image = [0; STATE_SIZE];
    image[..bytes.len()].copy_from_slice(bytes);
    Effect::Write(image)
}

/// Operations on ST(0) and ST(i). The names of some subtractions and divisions say the opposite of what other
/// manuals' do: here the destination always comes first.
fn of_register(code: C, i: u8) -> Option<Operation> {
    let from = |op| Some(Operation::Arith { op, dst: 0, src: i, pop: false });
    let to = |op, pop| Some(Operation::Arith { op, dst: i, src: 0, pop });
    let compare = |how, pops| Some(Operation::Compare { how, i, pops });
    let flags = |how, pop| Some(Operation::CompareFlags { how, i, pop });
    let move_if = |condition| Some(Operation::MoveIf { condition, i });
    match code {
        C::Fadd_st0_sti => from(Arith::Add),
        C::Fmul_st0_sti => from(Arith::Mul),
        C::Fsub_st0_sti => from(Arith::Sub),
        C::Fsubr_st0_sti => from(Arith::SubReverse),
        C::Fdiv_st0_sti => from(Arith::Div),
        C::Fdivr_st0_sti => from(Arith::DivReverse),
        C::Fadd_sti_st0 => to(Arith::Add, false),
        C::Fmul_sti_st0 => to(Arith::Mul, false),
        C::Fsub_sti_st0 => to(Arith::Sub, false),
        C::Fsubr_sti_st0 => to(Arith::SubReverse, false),
        C::Fdiv_sti_st0 => to(Arith::Div, false),
        C::Fdivr_sti_st0 => to(Arith::DivReverse, false),
        C::Faddp_sti_st0 => to(Arith::Add, true),
        C::Fmulp_sti_st0 => to(Arith::Mul, true),
        C::Fsubp_sti_st0 => to(Arith::Sub, true),
        C::Fsubrp_sti_st0 => to(Arith::SubReverse, true),
        C::Fdivp_sti_st0 => to(Arith::Div, true),
        C::Fdivrp_sti_st0 => to(Arith::DivReverse, true),
        C::Fcom_st0_sti | C::Fcom_st0_sti_DCD0 => compare(Ordering::Ordered, 0),
        C::Fcomp_st0_sti | C::Fcomp_st0_sti_DCD8 | C::Fcomp_st0_sti_DED0 => compare(Ordering::Ordered, 1),
        C::Fucom_st0_sti => compare(Ordering::Unordered, 0),
        C::Fucomp_st0_sti => compare(Ordering::Unordered, 1),
        C::Fcomi_st0_sti => flags(Ordering::Ordered, false),
        C::Fcomip_st0_sti => flags(Ordering::Ordered, true),
        C::Fucomi_st0_sti => flags(Ordering::Unordered, false),
        C::Fucomip_st0_sti => flags(Ordering::Unordered, true),
        C::Fcmovb_st0_sti => move_if(2),
        C::Fcmovnb_st0_sti => move_if(3),
        C::Fcmove_st0_sti => move_if(4),
        C::Fcmovne_st0_sti => move_if(5),
        C::Fcmovbe_st0_sti => move_if(6),
        C::Fcmovnbe_st0_sti => move_if(7),
        C::Fcmovu_st0_sti => move_if(10),
        C::Fcmovnu_st0_sti => move_if(11),
        C::Fld_sti => Some(Operation::LoadRegister(i)),
        C::Fst_sti => Some(Operation::StoreRegister { i, pop: false }),
        C::Fstp_sti | C::Fstp_sti_DFD0 | C::Fstp_sti_DFD8 => Some(Operation::StoreRegister { i, pop: true }),
        C::Fstpnce_sti => Some(Operation::PopTo(i)),
        C::Fxch_st0_sti | C::Fxch_st0_sti_DDC8 | C::Fxch_st0_sti_DFC8 => Some(Operation::Exchange(i)),
        C::Ffree_sti => Some(Operation::Free { i, pop: false }),
        C::Ffreep_sti => Some(Operation::Free { i, pop: true }),
        _ => None,
    }
}

fn of_memory(code: C) -> Option<Operation> {
    let arith = |op, format| Some(Operation::ArithMemory(op, format));
    let compare = |format, pop| Some(Operation::CompareMemory { format, pop });
    let load = |format| Some(Operation::Load(format));
    let store = |size, pop| Some(Operation::Store { size, pop });
    let (rounded, cut) = (false, true);
    match code {
        C::Fadd_m32fp => arith(Arith::Add, Format::F32),
        C::Fmul_m32fp => arith(Arith::Mul, Format::F32),
        C::Fsub_m32fp => arith(Arith::Sub, Format::F32),
        C::Fsubr_m32fp => arith(Arith::SubReverse, Format::F32),
        C::Fdiv_m32fp => arith(Arith::Div, Format::F32),
        C::Fdivr_m32fp => arith(Arith::DivReverse, Format::F32),
        C::Fadd_m64fp => arith(Arith::Add, Format::F64),
        C::Fmul_m64fp => arith(Arith::Mul, Format::F64),
        C::Fsub_m64fp => arith(Arith::Sub, Format::F64),
        C::Fsubr_m64fp => arith(Arith::SubReverse, Format::F64),
        C::Fdiv_m64fp => arith(Arith::Div, Format::F64),
        C::Fdivr_m64fp => arith(Arith::DivReverse, Format::F64),
        C::Fiadd_m16int => arith(Arith::Add, Format::I16),
        C::Fimul_m16int => arith(Arith::Mul, Format::I16),
        C::Fisub_m16int => arith(Arith::Sub, Format::I16),
        C::Fisubr_m16int => arith(Arith::SubReverse, Format::I16),
        C::Fidiv_m16int => arith(Arith::Div, Format::I16),
        C::Fidivr_m16int => arith(Arith::DivReverse, Format::I16),
        C::Fiadd_m32int => arith(Arith::Add, Format::I32),
        C::Fimul_m32int => arith(Arith::Mul, Format::I32),
        C::Fisub_m32int => arith(Arith::Sub, Format::I32),
        C::Fisubr_m32int => arith(Arith::SubReverse, Format::I32),
        C::Fidiv_m32int => arith(Arith::Div, Format::I32),
        C::Fidivr_m32int => arith(Arith::DivReverse, Format::I32),
        C::Fcom_m32fp => compare(Format::F32, false),
        C::Fcomp_m32fp => compare(Format::F32, true),
        C::Fcom_m64fp => compare(Format::F64, false),
        C::Fcomp_m64fp => compare(Format::F64, true),
        C::Ficom_m16int => compare(Format::I16, false),
        C::Ficomp_m16int => compare(Format::I16, true),
        C::Ficom_m32int => compare(Format::I32, false),
        C::Ficomp_m32int => compare(Format::I32, true),
        C::Fld_m32fp => load(Format::F32),
        C::Fld_m64fp => load(Format::F64),
        C::Fld_m80fp => load(Format::F80),
        C::Fild_m16int => load(Format::I16),
        C::Fild_m32int => load(Format::I32),
        C::Fild_m64int => load(Format::I64),
        C::Fbld_m80bcd => load(Format::Bcd),
        C::Fst_m32fp => store(Size::F32, false),
        C::Fstp_m32fp => store(Size::F32, true),
        C::Fst_m64fp => store(Size::F64, false),
        C::Fstp_m64fp => store(Size::F64, true),
        C::Fstp_m80fp => store(Size::F80, true),
        C::Fist_m16int => store(Size::I16 { truncate: rounded }, false),
        C::Fistp_m16int => store(Size::I16 { truncate: rounded }, true),
        C::Fist_m32int => store(Size::I32 { truncate: rounded }, false),
        C::Fistp_m32int => store(Size::I32 { truncate: rounded }, true),
        C::Fistp_m64int => store(Size::I64 { truncate: rounded }, true),
        C::Fisttp_m16int => store(Size::I16 { truncate: cut }, true),
        C::Fisttp_m32int => store(Size::I32 { truncate: cut }, true),
        C::Fisttp_m64int => store(Size::I64 { truncate: cut }, true),
        C::Fbstp_m80bcd => store(Size::Bcd, true),
        C::Fldcw_m2byte => Some(Operation::LoadControl),
        C::Fnstcw_m2byte => Some(Operation::StoreControl),
        C::Fnstsw_m2byte => Some(Operation::StoreStatus),
        C::Fldenv_m14byte => Some(Operation::LoadEnvironment(Layout::Short)),
        C::Fldenv_m28byte => Some(Operation::LoadEnvironment(Layout::Long)),
        C::Fnstenv_m14byte => Some(Operation::StoreEnvironment(Layout::Short)),
        C::Fnstenv_m28byte => Some(Operation::StoreEnvironment(Layout::Long)),
        C::Frstor_m94byte => Some(Operation::LoadState(Layout::Short)),
        C::Frstor_m108byte => Some(Operation::LoadState(Layout::Long)),
        C::Fnsave_m94byte => Some(Operation::StoreState(Layout::Short)),
        C::Fnsave_m108byte => Some(Operation::StoreState(Layout::Long)),
        _ => None,
    }
}

/// Instructions without an operand.
fn of_alone(code: C) -> Option<Operation> {
    let function = |function| Some(Operation::Function(function));
    let constant = |constant| Some(Operation::LoadConstant(constant));
    match code {
        C::Fchs => function(Function::ChangeSign),
        C::Fabs => function(Function::Absolute),
        C::Fsqrt => function(Function::SquareRoot),
        C::Frndint => function(Function::Round),
        C::Fxtract => function(Function::Extract),
        C::Fscale => function(Function::Scale),
        C::Fprem => function(Function::Remainder),
        C::Fprem1 => function(Function::RemainderNearest),
        C::F2xm1 => function(Function::Exp2Minus1),
        C::Fyl2x => function(Function::YLog2X),
        C::Fyl2xp1 => function(Function::YLog2XPlus1),
        C::Fpatan => function(Function::ArcTangent),
        C::Fptan => function(Function::Tangent),
        C::Fsin => function(Function::Sine),
        C::Fcos => function(Function::Cosine),
        C::Fsincos => function(Function::SineCosine),
        C::Fld1 => constant(Constant::One),
        C::Fldl2t => constant(Constant::Log2Of10),
        C::Fldl2e => constant(Constant::Log2OfE),
        C::Fldpi => constant(Constant::Pi),
        C::Fldlg2 => constant(Constant::Log10Of2),
        C::Fldln2 => constant(Constant::LnOf2),
        C::Fldz => constant(Constant::Zero),
        C::Fcompp => Some(Operation::Compare { how: Ordering::Ordered, i: 1, pops: 2 }),
        C::Fucompp => Some(Operation::Compare { how: Ordering::Unordered, i: 1, pops: 2 }),
        C::Ftst => Some(Operation::Test),
        C::Fxam => Some(Operation::Examine),
        C::Fincstp => Some(Operation::IncrementTop),
        C::Fdecstp => Some(Operation::DecrementTop),
        C::Fnstsw_AX => Some(Operation::StatusToAx),
        C::Fnclex => Some(Operation::Clear),
        C::Fninit => Some(Operation::Initialise),
        C::Wait | C::Fnop => Some(Operation::Wait),
        C::Fneni | C::Fndisi | C::Fnsetpm => Some(Operation::Nothing),
        _ => None,
    }
}
