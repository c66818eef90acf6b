// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the plugin must know of an x86 instruction, read from its bytes.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, Mnemonic, OpAccess, Register,
};

/// A phase border. The id is any byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Begin(u8),
    End(u8),
}

/// How a REP string instruction counts its elements: by stores, by loads, or by two loads each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rep {
    Stores,
    Loads,
    LoadPairs,
}

/// Instructions that end a path through the kernel or begin another task's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    Iret,
    Sysret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It reads or writes data memory, the stack included.
    pub accesses: bool,
    pub rep: Option<Rep>,
    /// Control always goes on to the next instruction: no fault, no exit from the translated block.
    pub plain: bool,
    pub returns: Option<Return>,
}

/// `nopl disp32(%rax)`, `0f 1f 80 <id> <b1|e1> 50 46`: does nothing on any CPU, and no compiler or
/// assembler pads with such a displacement.
pub fn mark(bytes: &[u8]) -> Option<Mark> {
    match *bytes {
        [0x0f, 0x1f, 0x80, id, 0xb1, 0x50, 0x46] => Some(Mark::Begin(id)),
        [0x0f, 0x1f, 0x80, id, 0xe1, 0x50, 0x46] => Some(Mark::End(id)),
        _ => None,
    }
}

/// `mov disp(%rsi),%rsp`: the kernel takes the next task's stack.
pub fn takes_stack(bytes: &[u8]) -> bool {
    matches!(*bytes, [0x48, 0x8b, 0xa6, ..] | [0x48, 0x8b, 0x66, ..])
}

/// `mov %rsp,disp(%rdi)`: the kernel leaves the previous task's stack.
pub fn leaves_stack(bytes: &[u8]) -> bool {
    matches!(*bytes, [0x48, 0x89, 0xa7, ..] | [0x48, 0x89, 0x67, ..])
}

pub struct Factory(InstructionInfoFactory);

impl Factory {
    pub fn new() -> Factory {
        Factory(InstructionInfoFactory::new())
    }

    /// Facts about an instruction of 64-bit code. What cannot be decoded is taken for one that may do
    /// anything but access memory.
    pub fn facts(&mut self, bytes: &[u8]) -> Facts {
        let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Facts {
                accesses: false,
                rep: None,
                plain: false,
                returns: None,
            };
        }
        let info = self.0.info(&instruction);
        let accesses = info.used_memory().iter().any(|m| {
            // Prefetches and cache control name an address and access nothing.
            m.access() != OpAccess::None && m.access() != OpAccess::NoMemAccess
        }) && !is_hint(instruction.mnemonic());
        let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let rep = match instruction.mnemonic() {
            _ if !repeated || !instruction.is_string_instruction() => None,
            Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => {
                Some(Rep::Stores)
            }
            Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
                Some(Rep::Stores)
            }
            Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => Some(Rep::Stores),
            Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
                Some(Rep::Loads)
            }
            Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => {
                Some(Rep::Loads)
            }
            Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => Some(Rep::Loads),
            Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
                Some(Rep::LoadPairs)
            }
            _ => None,
        };
        let returns = match instruction.mnemonic() {
            Mnemonic::Iretq | Mnemonic::Iretd | Mnemonic::Iret => Some(Return::Iret),
            Mnemonic::Sysretq | Mnemonic::Sysret => Some(Return::Sysret),
            _ => None,
        };
        let vector = (0..instruction.op_count())
            .any(|i| matches!(instruction.op_register(i), r if r.is_vector_register() || r.is_st() || r.is_mm()));
        let plain = instruction.flow_control() == FlowControl::Next
            && info.used_memory().is_empty()
            && !instruction.is_privileged()
            // may raise an exception of their own
            && !vector
            && !matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Cpuid | Mnemonic::Pause)
            // loads of a segment register
            && !matches!(instruction.op0_register(), Register::SS | Register::DS | Register::ES | Register::FS | Register::GS);
        Facts {
            accesses,
            rep,
            plain,
            returns,
        }
    }
}

fn is_hint(m: Mnemonic) -> bool {
    matches!(
        m,
        Mnemonic::Prefetchnta
            | Mnemonic::Prefetcht0
            | Mnemonic::Prefetcht1
            | Mnemonic::Prefetcht2
            | Mnemonic::Prefetchw
            | Mnemonic::Prefetch
            | Mnemonic::Prefetchwt1
            | Mnemonic::Invlpg
            | Mnemonic::Clflush
            | Mnemonic::Clflushopt
            | Mnemonic::Clwb
            | Mnemonic::Nop
            | Mnemonic::Lea
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(bytes: &[u8]) -> Facts {
        Factory::new().facts(bytes)
    }

    #[test]
    fn marks() {
        assert_eq!(
            mark(&[0x0f, 0x1f, 0x80, 7, 0xb1, 0x50, 0x46]),
            Some(Mark::Begin(7))
        );
        assert_eq!(
            mark(&[0x0f, 0x1f, 0x80, 255, 0xe1, 0x50, 0x46]),
            Some(Mark::End(255))
        );
        assert_eq!(mark(&[0x0f, 0x1f, 0x80, 0, 0, 0, 0]), None);
        assert_eq!(mark(&[]), None);
    }

    #[test]
    fn what_accesses_data() {
        for bytes in [
            &[0x48, 0x8b, 0x07][..],         // mov (%rdi),%rax
            &[0x55],                         // push %rbp
            &[0xe8, 0, 0, 0, 0],             // call
            &[0xc3],                         // ret
            &[0xf3, 0x48, 0xab],             // rep stosq
            &[0xf0, 0x48, 0x0f, 0xb1, 0x0f], // lock cmpxchg
        ] {
            assert!(facts(bytes).accesses && !facts(bytes).plain, "{bytes:x?}");
        }
        for bytes in [
            &[0x48, 0x8d, 0x07][..],                  // lea
            &[0x0f, 0x1f, 0x80, 7, 0xb1, 0x50, 0x46], // nopl
            &[0x48, 0x01, 0xd8],                      // add %rbx,%rax
            &[0x0f, 0x18, 0x0f],                      // prefetcht0
            &[0x0f, 0x01, 0x3f],                      // invlpg
            &[0x75, 0x00],                            // jne
        ] {
            assert!(!facts(bytes).accesses, "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_plain() {
        assert!(facts(&[0x48, 0x01, 0xd8]).plain); // add
        assert!(facts(&[0x48, 0x8d, 0x07]).plain); // lea
        assert!(facts(&[0xf3, 0x0f, 0x1e, 0xfa]).plain); // endbr64
        for bytes in [
            &[0x48, 0xf7, 0xf3][..], // div %rbx
            &[0x0f, 0x0b],           // ud2
            &[0xf4],                 // hlt
            &[0x0f, 0x05],           // syscall
            &[0x75, 0x00],           // jne
            &[0x0f, 0x58, 0xc1],     // addps
            &[0x8e, 0xd8],           // mov %eax,%ds
            &[0x0f, 0x22, 0xd8],     // mov %rax,%cr3
        ] {
            assert!(!facts(bytes).plain, "{bytes:x?}");
        }
    }

    #[test]
    fn strings_and_returns() {
        assert_eq!(facts(&[0xf3, 0x48, 0xab]).rep, Some(Rep::Stores));
        assert_eq!(facts(&[0xf3, 0x48, 0xa5]).rep, Some(Rep::Stores));
        assert_eq!(facts(&[0xf2, 0xae]).rep, Some(Rep::Loads));
        assert_eq!(facts(&[0xf3, 0xa6]).rep, Some(Rep::LoadPairs));
        assert_eq!(facts(&[0x48, 0xab]).rep, None);
        assert_eq!(facts(&[0xf3, 0x90]).rep, None);
        assert_eq!(facts(&[0x48, 0xcf]).returns, Some(Return::Iret));
        assert_eq!(facts(&[0x48, 0x0f, 0x07]).returns, Some(Return::Sysret));
        assert_eq!(facts(&[0xc3]).returns, None);
    }

    #[test]
    fn stacks() {
        assert!(takes_stack(&[0x48, 0x8b, 0xa6, 0x98, 0x0a, 0, 0]));
        assert!(leaves_stack(&[0x48, 0x89, 0xa7, 0x98, 0x0a, 0, 0]));
        assert!(!takes_stack(&[0x48, 0x89, 0xa7, 0x98, 0x0a, 0, 0]));
    }

    #[test]
    fn rubbish_is_no_panic() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                facts(&[a, b, 0xff, 0x62, 0xc5, a, b, 0, 0, 0]);
            }
        }
        facts(&[]);
    }
}
