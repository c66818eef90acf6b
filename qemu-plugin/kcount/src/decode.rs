// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the plugin must know of an x86 instruction, read from its bytes.

/// First address of the upper half: what runs there runs at CPL 0 (the vsyscall
/// page apart, which nothing measured here executes).
const KERNEL_START: u64 = 0xffff_8000_0000_0000;

/// Is code at this address the kernel's?
pub fn is_kernel(address: u64) -> bool {
    address >= KERNEL_START
}

/// Weights are in half instructions so that CMPS, which reads twice per
/// iteration, needs no division on the fast path.
pub const UNIT: u64 = 2;

/// A region border. The id is any byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Begin(u8),
    End(u8),
}

/// How an instruction is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Once each time it is executed.
    Plain,
    /// A string instruction under REP: [`UNIT`] per element, seen as its stores.
    RepStores,
    /// As above, seen as its loads, one per element.
    RepLoads,
    /// A repeated string instruction, seen as its loads, two per element.
    RepLoadPairs,
}

/// `nopl disp32(%rax)`, `0f 1f 80 <id> <b1|e1> 50 46`: does nothing on any CPU,
/// and no compiler or assembler pads with such a displacement.
pub fn mark(bytes: &[u8]) -> Option<Mark> {
    match *bytes {
        [0x0f, 0x1f, 0x80, id, 0xb1, 0x50, 0x46] => Some(Mark::Begin(id)),
        [0x0f, 0x1f, 0x80, id, 0xe1, 0x50, 0x46] => Some(Mark::End(id)),
        _ => None,
    }
}

/// Classifies an instruction of 64-bit code.
pub fn kind(bytes: &[u8]) -> Kind {
    let mut rep = false;
    for byte in bytes {
        match *byte {
            0xf2 | 0xf3 => rep = true,
            // operand and address size, segments, LOCK, REX
            0x66 | 0x67 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0x40..=0x4f => {}
            opcode if rep => {
                return match opcode {
                    0xa4 | 0xa5 | 0xaa | 0xab | 0x6c | 0x6d => Kind::RepStores,
                    0xac | 0xad | 0xae | 0xaf | 0x6e | 0x6f => Kind::RepLoads,
                    0xa6 | 0xa7 => Kind::RepLoadPairs,
                    _ => Kind::Plain,
                };
            }
            _ => return Kind::Plain,
        }
    }
    Kind::Plain
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // the padding that assemblers emit
        assert_eq!(mark(&[0x0f, 0x1f, 0x80, 0, 0, 0, 0]), None);
        assert_eq!(mark(&[0x0f, 0x1f, 0x40, 0]), None);
        assert_eq!(mark(&[]), None);
    }

    #[test]
    fn the_upper_half_is_the_kernel() {
        assert!(is_kernel(0xffff_ffff_8100_0000));
        assert!(is_kernel(0xffff_8000_0000_0000));
        assert!(!is_kernel(0x7fff_ffff_f000));
        assert!(!is_kernel(0));
    }

    #[test]
    fn string_instructions() {
        assert_eq!(kind(&[0xf3, 0x48, 0xab]), Kind::RepStores); // rep stosq: clear_page
        assert_eq!(kind(&[0xf3, 0xaa]), Kind::RepStores);
        assert_eq!(kind(&[0xf3, 0x48, 0xa5]), Kind::RepStores); // rep movsq: copy_page
        assert_eq!(kind(&[0x66, 0xf3, 0xa5]), Kind::RepStores);
        assert_eq!(kind(&[0xf2, 0xae]), Kind::RepLoads); // repne scasb
        assert_eq!(kind(&[0xf3, 0xa6]), Kind::RepLoadPairs);
    }

    #[test]
    fn everything_else_is_plain() {
        assert_eq!(kind(&[0x48, 0xab]), Kind::Plain); // stosq without REP
        assert_eq!(kind(&[0xf3, 0x90]), Kind::Plain); // pause
        assert_eq!(kind(&[0xf3, 0x0f, 0x1e, 0xfa]), Kind::Plain); // endbr64
        assert_eq!(kind(&[0x90]), Kind::Plain);
        assert_eq!(kind(&[]), Kind::Plain);
        assert_eq!(kind(&[0xf3]), Kind::Plain);
    }
}
