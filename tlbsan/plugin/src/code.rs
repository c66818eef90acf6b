// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the plugin must know of an x86 instruction, read from its bytes.

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register,
};

/// What the guest says about frames: RAX is the first, RDX how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The page allocator has them.
    Freed,
    /// A pool of tables has them.
    Retired,
    /// Their contents are taken for stable.
    Frozen,
    /// Not frames: a case begins, and RAX says which and what is to be found.
    Case,
}

/// What an instruction may do that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Other,
    /// It stores, perhaps to a page table.
    Store,
    /// It loads and stores as one, so what it takes away is known.
    Exchange,
    /// User addresses are about to be used.
    Stac,
    /// It invalidates: INVLPG, INVPCID, MOV to CR3 and CR4.
    Flush,
    Mark(Mark),
}

/// `nopl disp32(%rax)`, `0f 1f 80 <id> f1 50 46`: does nothing on any CPU, and no compiler or assembler
/// pads with such a displacement.
pub fn mark(bytes: &[u8]) -> Option<Mark> {
    match *bytes {
        [0x0f, 0x1f, 0x80, id, 0xf1, 0x50, 0x46] => match id {
            0x46 => Some(Mark::Freed),
            0x52 => Some(Mark::Retired),
            0x53 => Some(Mark::Frozen),
            0x58 => Some(Mark::Case),
            _ => None,
        },
        _ => None,
    }
}

fn flushes(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Invlpg | Mnemonic::Invpcid => true,
        Mnemonic::Mov => matches!(instruction.op0_register(), Register::CR3 | Register::CR4),
        _ => false,
    }
}

pub struct Reader(InstructionInfoFactory);

impl Reader {
    pub fn new() -> Reader {
        Reader(InstructionInfoFactory::new())
    }

    /// An instruction of 64-bit code. What cannot be decoded faults, and stores nothing.
    pub fn kind(&mut self, bytes: &[u8]) -> Kind {
        if let Some(mark) = mark(bytes) {
            return Kind::Mark(mark);
        }
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Kind::Other;
        }
        if instruction.mnemonic() == Mnemonic::Stac {
            return Kind::Stac;
        }
        if flushes(&instruction) {
            return Kind::Flush;
        }
        if !self.stores(&instruction) {
            return Kind::Other;
        }
        let as_one = instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg;
        if as_one {
            Kind::Exchange
        } else {
            Kind::Store
        }
    }

    /// Does it store anywhere but to the stack? A page table is never there.
    fn stores(&mut self, instruction: &Instruction) -> bool {
        let info = self.0.info(instruction);
        info.used_memory().iter().any(|m| {
            let writes = matches!(
                m.access(),
                OpAccess::Write
                    | OpAccess::ReadWrite
                    | OpAccess::CondWrite
                    | OpAccess::ReadCondWrite
            );
            writes && !matches!(m.base(), Register::RSP | Register::ESP | Register::SP)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> Kind {
        Reader::new().kind(bytes)
    }

    #[test]
    fn stores() {
        for (bytes, expected) in [
            // mov %rax,(%rdi); movq $0,(%rdi); mov %rax,8(%rbp)
            (&[0x48, 0x89, 0x07][..], Kind::Store),
            (&[0x48, 0xc7, 0x07, 0, 0, 0, 0], Kind::Store),
            (&[0x48, 0x89, 0x45, 8], Kind::Store),
            // rep stosq; rep movsq; and %rax,(%rdi)
            (&[0xf3, 0x48, 0xab], Kind::Store),
            (&[0xf3, 0x48, 0xa5], Kind::Store),
            (&[0x48, 0x21, 0x07], Kind::Store),
            // xchg %rax,(%rdi); lock cmpxchg %rcx,(%rdi); lock btr $5,(%rdi)
            (&[0x48, 0x87, 0x07], Kind::Exchange),
            (&[0xf0, 0x48, 0x0f, 0xb1, 0x0f], Kind::Exchange),
            (&[0xf0, 0x48, 0x0f, 0xba, 0x37, 5], Kind::Exchange),
            // mov (%rdi),%rax; cmp %rax,(%rdi); add %rax,%rcx; xchg %rax,%rcx
            (&[0x48, 0x8b, 0x07], Kind::Other),
            (&[0x48, 0x39, 0x07], Kind::Other),
            (&[0x48, 0x01, 0xc1], Kind::Other),
            (&[0x48, 0x87, 0xc1], Kind::Other),
            // push %rax; call; mov %rax,8(%rsp)
            (&[0x50], Kind::Other),
            (&[0xe8, 0, 0, 0, 0], Kind::Other),
            (&[0x48, 0x89, 0x44, 0x24, 8], Kind::Other),
            // push (%rdi) stores to the stack only
            (&[0xff, 0x37], Kind::Other),
            // invlpg (%rax); mov %rax,%cr3; mov %rax,%cr4; mov %cr3,%rax; mov %rax,%cr0
            (&[0x0f, 0x01, 0x38], Kind::Flush),
            (&[0x0f, 0x22, 0xd8], Kind::Flush),
            (&[0x0f, 0x22, 0xe0], Kind::Flush),
            (&[0x0f, 0x20, 0xd8], Kind::Other),
            (&[0x0f, 0x22, 0xc0], Kind::Other),
            (&[0x0f, 0x01, 0xcb], Kind::Stac),
            (&[0x0f, 0x01, 0xca], Kind::Other),
            (&[0x06], Kind::Other),
            (&[], Kind::Other),
        ] {
            assert_eq!(kind(bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn marks() {
        let of = |id| kind(&[0x0f, 0x1f, 0x80, id, 0xf1, 0x50, 0x46]);
        assert_eq!(of(0x46), Kind::Mark(Mark::Freed));
        assert_eq!(of(0x52), Kind::Mark(Mark::Retired));
        assert_eq!(of(0x53), Kind::Mark(Mark::Frozen));
        assert_eq!(of(0x58), Kind::Mark(Mark::Case));
        assert_eq!(of(0x59), Kind::Other);
        // The simulator's marks, and padding.
        for bytes in [
            [0x0f, 0x1f, 0x80, 0x46, 0xb1, 0x50, 0x46],
            [0x0f, 0x1f, 0x80, 0, 0, 0, 0],
        ] {
            assert_eq!(kind(&bytes), Kind::Other);
        }
    }
}
