// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! Virtual and physical addresses as distinct types.

/// log2 of the base page size.
pub const PAGE_SHIFT: u32 = 12;
/// Base page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Width of a canonical virtual address under 4-level paging.
pub const VA_BITS: u32 = 48;

/// A virtual address. Any 64-bit value; see [`VirtAddr::is_canonical`].
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// Wraps a raw address.
    #[inline(always)]
    pub const fn new(va: u64) -> Self {
        Self(va)
    }

    /// The raw address.
    #[inline(always)]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Are bits 63..47 all equal, as 4-level paging demands?
    #[inline(always)]
    pub const fn is_canonical(self) -> bool {
        let top = self.0 >> 47;
        top == 0 || top == 0x1_ffff
    }

    /// The canonical address with the same low 48 bits.
    #[inline(always)]
    pub const fn canonicalised(self) -> Self {
        if self.is_user_half() {
            Self(self.0 & 0x0000_ffff_ffff_ffff)
        } else {
            Self(self.0 | 0xffff_0000_0000_0000)
        }
    }

    /// Bit 47 clear: the half of the address space that a flattened root covers.
    #[inline(always)]
    pub const fn is_user_half(self) -> bool {
        self.0 & (1 << 47) == 0
    }
}

/// A physical address.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// Wraps a raw address.
    #[inline(always)]
    pub const fn new(pa: u64) -> Self {
        Self(pa)
    }

    /// The raw address.
    #[inline(always)]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on; wraps at 2^64 (no physical address is near it).
    #[inline(always)]
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Is the address a multiple of `1 << shift`?
    #[inline(always)]
    pub const fn is_aligned(self, shift: u32) -> bool {
        self.0 & low_mask(shift) == 0
    }
}

/// A value with the low `bits` bits set; all bits set for `bits >= 64`.
#[inline(always)]
pub const fn low_mask(bits: u32) -> u64 {
    match 1u64.checked_shl(bits) {
        Some(v) => v.wrapping_sub(1),
        None => u64::MAX,
    }
}
