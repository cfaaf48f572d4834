# The kernel half of a guest: start-up, interrupt entry, idling. Everything else runs in user mode.
#
# Kept to a few dozen instructions without SSE, INT or SYSCALL: some hypervisors emulate kernel mode one
# instruction at a time and run user mode natively. All tables are laid out here, at assembly time.
# Fixed addresses (asserted by guest.ld): boot_data = 0x200000, boot_text = 0x210000.

.set DATA, 0x200000
.set TEXT, 0x210000
.set LAPIC_EOI, 0xFEE000B0
.set PORT_CONSOLE, 0xE9
.set PORT_POWER, 0x604

# ---------------------------------------------------------------- tables
.section .boot.data, "aw", @progbits
.balign 4096
boot_data:
# Page tables (SDM vol. 3, 4.5). 0x67: present, writable, user, accessed, dirty. 0xE7: the same, 2 MiB page.
# Accessed and dirty are set beforehand, so that the processor never writes to these pages.
pml4:   .quad DATA + (pdpt - boot_data) + 0x67
        .fill 511, 8, 0
pdpt:   .quad DATA + (pd_low - boot_data) + 0x67
        .quad 0
        .quad 0
        .quad DATA + (pd_high - boot_data) + 0x67
        .fill 508, 8, 0
pd_low: .set page, 0                    # 64 MiB of memory
        .rept 32
        .quad page + 0xE7
        .set page, page + 0x200000
        .endr
        .fill 480, 8, 0
pd_high:                                # 0xC0000000: only the devices, uncached (0x10)
        .fill 501, 8, 0
        .quad 0xFEA00000 + 0xF7         # PCI windows
        .quad 0
        .quad 0xFEE00000 + 0xF7         # local APIC
        .fill 8, 8, 0

gdt:    .quad 0
        .quad 0x00AF9B000000FFFF        # 0x08 kernel code
        .quad 0x00CF93000000FFFF        # 0x10 kernel data
        .quad 0x00AFFB000000FFFF        # 0x18 user code
        .quad 0x00CFF3000000FFFF        # 0x20 user data
        .word tss_end - tss - 1         # 0x28 TSS: limit, base split as the SDM wants it
        .word (tss - boot_data)
        .byte 0x20, 0x89, 0x00, 0x00
        .quad 0
gdt_end:
tss:    .long 0
        .quad DATA + (kernel_stack_top - boot_data)
        .fill 90, 1, 0
        .word 0x68                      # I/O bitmap: user mode may use the ports below 0xD00
        .fill 0xD00 / 8, 1, 0
        .byte 0xFF                      # the end mark that the SDM (vol. 1, 19.5.2) asks for
tss_end:
        .balign 16

# Interrupt gates (present, DPL 0, type 14). `target` is an offset in boot_text, which is below 64 KiB.
.macro gate target
        .word \target - boot_text
        .word 0x08
        .word 0x8E00
        .word 0x21
        .quad 0
.endm
idt:    .set number, 0
        .rept 6
        gate (faults + 16 * number)
        .set number, number + 1
        .endr
        gate invalid_opcode
        .set number, 7
        .rept 25
        gate (faults + 16 * number)
        .set number, number + 1
        .endr
        .fill 32 * 2, 8, 0
        gate irq_timer                  # 0x40
        gate irq_net                    # 0x41
        gate irq_disk                   # 0x42
        .fill 2 * 5, 8, 0
        gate traced_timer               # 0x48
        gate traced_net                 # 0x49
        .fill 2 * 5, 8, 0
        gate irq_spurious               # 0x4F
idt_end:
gdt_pointer:
        .word gdt_end - gdt - 1
        .quad DATA + (gdt - boot_data)
idt_pointer:
        .word idt_end - idt - 1
        .quad DATA + (idt - boot_data)

.balign 4096
        .fill 4096, 1, 0
kernel_stack_top:

# Everything that the host or an interrupt writes, on one page: the fewer pages change, the cheaper an epoch.
.globl PV_CLOCK, PENDING, TRACE
PV_CLOCK:
        .fill 64, 1, 0
PENDING:                                # one byte per source: timer, net, disk; 0 = nothing since last looked
        .quad 0
TRACE:                                  # of the traced interrupts: how many, and the hash over their arrivals
        .quad 0, 0
        .balign 4096
boot_data_end:

# ---------------------------------------------------------------- code
.section .boot.text, "ax", @progbits
.balign 4096
boot_text:
.globl _start
_start:                                 # long mode, interrupts off, RSI = zero page
        lea     rsp, [rip + kernel_stack_top]
        lgdt    [rip + gdt_pointer]
        lidt    [rip + idt_pointer]
        mov     eax, 0x80010033         # PG, WP, NE, ET, MP, PE: no emulation, no lazy switching of SSE
        mov     cr0, rax
        mov     eax, 0x620              # PAE, OSFXSR, OSXMMEXCPT
        mov     cr4, rax
        lea     rax, [rip + pml4]
        mov     cr3, rax
        mov     ax, 0x28
        ltr     ax
        mov     ecx, 0x4b564d01         # kvmclock: system time page, bit 0 enables
        lea     rax, [rip + PV_CLOCK + 1]
        xor     edx, edx
        wrmsr
        mov     eax, 0x23
        mov     ds, ax
        mov     es, ax
        lea     rdx, [rip + USER_STACK_TOP]
        push    rax                     # SS
        push    rdx                     # RSP
        push    0x202                   # RFLAGS: IF
        push    0x1B                    # CS
        lea     rax, [rip + user_start]
        push    rax
        mov     rdi, rsi
        iretq

# Interrupts: note it, acknowledge it, return. All are edges.
.macro irq name, index
\name:
        mov     byte ptr [rip + PENDING + \index], 1
        jmp     acknowledge
.endm
irq irq_timer, 0
irq irq_net, 1
irq irq_disk, 2
acknowledge:
        push    rax
end_of_interrupt:
        mov     eax, LAPIC_EOI
        mov     dword ptr [rax], 0
        pop     rax
irq_spurious:
        iretq

# Traced interrupts also leave a hash of where they arrived: vector, instruction pointer and all general registers
# (a turn of a loop, or of a REP). Not the flags: after some instructions they are undefined.
.macro traced name, index, vector
\name:
        mov     byte ptr [rip + PENDING + \index], 1
        push    rax
        mov     eax, \vector
        jmp     trace
.endm
traced traced_timer, 0, 0x48
traced traced_net, 1, 0x49
.macro mix value:vararg
        rol     rax, 7
        add     rax, \value
.endm
trace:  mix     [rip + TRACE + 8]
        mix     [rsp]                   # RAX, RIP, RSP
        mix     [rsp + 8]
        mix     [rsp + 32]
        .irp register, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
        mix     \register
        .endr
        push    rdx
        movabs  rdx, 0x9E3779B97F4A7C15 # odd: every bit counts, in all bits above it
        imul    rax, rdx
        pop     rdx
        mov     [rip + TRACE + 8], rax
        inc     qword ptr [rip + TRACE]
        jmp     end_of_interrupt

# Idling and stopping. User mode cannot halt, so it executes an undefined instruction at a known place. Interrupts are
# off from there on: one that arrived before is seen in PENDING, one that arrives later ends the HLT, because
# STI takes effect after the next instruction. No wake-up falls between.
invalid_opcode:
        push    rax
        lea     rax, [rip + idle_instruction]
        cmp     rax, [rsp + 8]
        je      idle
        lea     rax, [rip + stop_instruction]
        cmp     rax, [rsp + 8]
        pop     rax
        jne     faults + 16 * 6
1:      hlt
        jmp     1b
idle:   pop     rax
        cmp     qword ptr [rip + PENDING], 0
        jne     1f
        sti
        hlt
        cli
1:      add     qword ptr [rsp], 2      # over the UD2
        iretq

# Faults end the guest with a line on the console.
.macro fault_entry number
        .balign 16
        .if (\number == 8) || ((\number >= 10) && (\number <= 14)) || (\number == 17) || (\number == 21)
        .else
        push    0
        .endif
        push    \number
        jmp     fault
.endm
.balign 16
faults: .set number, 0
        .rept 32
        fault_entry number
        .set number, number + 1
        .endr
fault:  cld
        mov     edx, PORT_CONSOLE
        lea     rsi, [rip + fault_text]
1:      lodsb
        test    al, al
        jz      2f
        out     dx, al
        jmp     1b
2:      pop     rbx                     # vector, error code, RIP, CR2
        call    hex
        pop     rbx
        call    hex
        pop     rbx
        call    hex
        mov     rbx, cr2
        call    hex
        mov     al, 10
        out     dx, al
        mov     edx, PORT_POWER
        mov     eax, 0x2000
        out     dx, ax
        cli
        hlt
hex:
        mov     al, ' '
        out     dx, al
        mov     ecx, 16
1:      rol     rbx, 4
        mov     eax, ebx
        and     eax, 15
        add     eax, '0'
        cmp     eax, '9'
        jbe     2f
        add     eax, 39
2:      out     dx, al
        dec     ecx
        jnz     1b
        ret
fault_text:
        .asciz  "guest: fault (vector, error, rip, cr2)"

# ---------------------------------------------------------------- user mode
.section .text.user_start, "ax", @progbits
user_start:
        xor     ebp, ebp
        call    guest_main
        ud2
.globl cpu_idle, cpu_stop
cpu_stop:
stop_instruction:
        ud2
cpu_idle:
idle_instruction:
        ud2
        ret

.section .bss.user_stack, "aw", @nobits
.balign 4096
        .skip 65536
USER_STACK_TOP:
