// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables that are computed instead of stored, and streams of addresses for them: footprints that no guest on this
//! machine could have. `cargo xtask sweep` and the tests use both.

use fpt_geometry::geometry::{IndexStep, Level, Mode};
pub use fpt_walksim_machine::run::{Pattern, Run};

use crate::addr::{PhysAddr, VirtAddr};
use crate::config::{Config, ConfigError};
use crate::core::Core;
use crate::pwc::virt;
use crate::report::Phase;
use crate::result;
use crate::walk::{is_kernel, Entry, Leaf, Size, Walk, Walker, MAX_ENTRIES, VA_MASK};

/// Maps everything: user addresses to frames in the order of pages, with the tables of a mode; above the
/// middle of the address space pages are global, of 2 MiB where `large` says so.
pub struct Tables {
    /// The mode of the nodes.
    pub mode: Mode,
    /// Whether the 2 MiB around this kernel address are one page.
    pub large: fn(u64) -> bool,
    /// The number of the frame that a 4 KiB page with this number is in: itself, unless a test wants them scattered.
    pub frame: fn(u64) -> u64,
    /// Walks made so far.
    pub walks: u64,
}

impl Tables {
    /// Tables of a mode that map every page of 4 KiB.
    pub fn new(mode: Mode) -> Tables {
        Tables {
            mode,
            large: |_| false,
            frame: |page| page,
            walks: 0,
        }
    }

    /// Where a small page begins.
    fn page(&self, number: u64) -> PhysAddr {
        PhysAddr::new((self.frame)(number) << 12 & FRAMES)
    }
}

/// Below this are the pages.
const FRAMES: u64 = (1 << 40) - 1;

/// Frames of tables: a place per level and address, above all pages and below 2^42.
fn table(step: &IndexStep, va: u64) -> u64 {
    let number = va.checked_shr(step.shift + step.bits).unwrap_or(0) & 0xf_ffff;
    let bytes = 8u64 << step.bits;
    (1 << 41) + (u64::from(step.level.number()) << 38) + number * bytes
}

impl Walker for Tables {
    fn walk(&mut self, va: VirtAddr) -> Option<Walk> {
        self.walks += 1;
        let low = va.as_u64() & VA_MASK;
        // where L2 and L1 are merged there is no entry for such a page
        let has = |level| self.mode.steps().iter().any(|s| s.level == level);
        let size = if (self.large)(va.as_u64()) && has(Level::L2) {
            Size::Large
        } else {
            Size::Small
        };
        let mut entries = [Entry::default(); MAX_ENTRIES];
        let mut n = 0;
        for (step, place) in self.mode.steps().iter().zip(&mut entries) {
            if step.level < size.leaf() {
                break;
            }
            *place = Entry {
                pa: PhysAddr::new(table(step, low)).offset(u64::from(step.index(virt(va))) * 8),
                level: step.level.number() as u8,
                index_bits: step.bits as u8,
            };
            n += 1;
        }
        let shift = size.shift();
        Some(Walk {
            va,
            root: PhysAddr::new(0x1000),
            entries,
            n,
            page: match size {
                Size::Small => self.page(low >> shift),
                _ => PhysAddr::new((low >> shift << shift) & FRAMES),
            },
            size,
            global: is_kernel(va),
        })
    }

    fn leaf(&mut self, va: VirtAddr) -> Option<Leaf> {
        let first = (va.as_u64() & VA_MASK) >> 15 << 3;
        Some(Leaf {
            pages: std::array::from_fn(|i| Some(self.page(first + i as u64))),
        })
    }
}

/// Bytes of a vertex' record: a program of 1 M vertices has 8 GiB, as the published graphs do.
const RECORD: u64 = 8192;
const ITEM: u64 = 1024;
/// A bucket's line for each 8 items or so.
const ITEMS_OF_A_BUCKET: u64 = 8;
/// Where data begin: a GiB boundary, so that a footprint needs no more upper entries than it must.
pub const BASE: u64 = 0x10_0000_0000;

/// Addresses without end.
pub struct Stream {
    pattern: Pattern,
    footprint: u64,
    random: u64,
    at: u64,
    /// The second address of an operation.
    second: Option<VirtAddr>,
    zipf: Zipf,
}

impl Stream {
    /// `footprint` in bytes, a multiple of 64 MiB.
    pub fn new(pattern: Pattern, footprint: u64, seed: u64) -> Stream {
        let items = footprint / ITEM * ITEMS_OF_A_BUCKET * ITEM / (ITEMS_OF_A_BUCKET * ITEM + 64);
        Stream {
            pattern,
            footprint,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            at: 0,
            second: None,
            zipf: Zipf::new(items.max(2), 0.99),
        }
    }

    /// Marsaglia's xorshift64*.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform below `n`.
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(n)) >> 64) as u64
    }

    /// The target of an edge between 2^k vertices, k enough for all of them; those beyond are drawn again.
    fn vertex(&mut self, vertices: u64) -> u64 {
        let bits = vertices.next_power_of_two().trailing_zeros();
        loop {
            let mut v = 0;
            for _ in 0..bits {
                // 0.57 + 0.19 of all edges end in the lower half.
                let up = self.draw() >> 32 >= (0.76 * 4_294_967_296.0) as u64;
                v = v << 1 | u64::from(up);
            }
            if v < vertices {
                return scatter(v, vertices);
            }
        }
    }
}

/// A bijection of numbers below 2^k, walked until it is below `n`: what is popular lies anywhere.
fn scatter(v: u64, n: u64) -> u64 {
    let bits = n.next_power_of_two().trailing_zeros();
    let mask = n.next_power_of_two() - 1;
    let mut v = v;
    loop {
        v = v.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
        v ^= v >> bits.div_ceil(2);
        v = v.wrapping_mul(0xff51_afd7_ed55_8ccd) & mask;
        if v < n {
            return v;
        }
    }
}

impl Iterator for Stream {
    type Item = VirtAddr;

    fn next(&mut self) -> Option<VirtAddr> {
        Some(self.address())
    }
}

impl Stream {
    /// The next address.
    fn address(&mut self) -> VirtAddr {
        if let Some(second) = self.second.take() {
            return second;
        }
        let offset = match self.pattern {
            Pattern::Gups => self.below(self.footprint / 8) * 8,
            Pattern::Rmat => {
                let vertices = self.footprint / RECORD;
                let vertex = self.vertex(vertices);
                // Heap objects do not begin at pages: all at the same place would share a few sets of each cache.
                let line = vertex.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
                vertex * RECORD + line * 64
            }
            Pattern::Zipf => {
                let items = self.zipf.n;
                let uniform = (self.draw() >> 11) as f64 / (1u64 << 53) as f64;
                let item = scatter(self.zipf.draw(uniform) - 1, items);
                let bucket = scatter(item, items) / ITEMS_OF_A_BUCKET * 64;
                self.second = Some(VirtAddr::new(BASE + item * ITEM));
                items * ITEM + bucket
            }
            Pattern::Sequential => {
                let at = self.at;
                self.at = (at + 64) % self.footprint;
                at
            }
        };
        VirtAddr::new(BASE + offset)
    }
}

/// Ranks from 1 to n, by inversion of the integral of the density: the continuous approximation of the
/// distribution, which for n of thousands and more differs in the first ranks only.
struct Zipf {
    n: u64,
    exponent: f64,
    /// Of the integral from 1 to n + 1.
    whole: f64,
}

impl Zipf {
    fn new(n: u64, exponent: f64) -> Zipf {
        let e = 1.0 - exponent;
        Zipf {
            n,
            exponent,
            whole: ((n as f64 + 1.0).powf(e) - 1.0) / e,
        }
    }

    fn draw(&self, uniform: f64) -> u64 {
        let e = 1.0 - self.exponent;
        let rank = (uniform * self.whole * e + 1.0).powf(1.0 / e);
        (rank as u64).clamp(1, self.n)
    }
}

/// Bytes that a line of entries maps. In each such piece something is touched first, as programs write their data before they
/// use them: tables are then as far in the caches as they can be, and ECPT, which learns from walks, knows all pages.
const SLOT: u64 = 8 * 4096;

/// Runs a stream through the model; data accesses only. The figures keep the laws, or it is an error.
pub fn run(config: &Config, run: &Run) -> Result<Phase, ConfigError> {
    let mut tables = Tables::new(run.mode);
    let mut core = Core::new(config, None)?;
    let touch = (0..run.footprint / SLOT).map(|i| BASE + i * SLOT);
    touch.for_each(|va| core.data(VirtAddr::new(va), &mut tables));
    let mut stream = Stream::new(run.pattern, run.footprint, run.seed);
    for _ in 0..run.accesses {
        core.data(stream.address(), &mut tables);
    }
    core.reset_counters();
    for _ in 0..run.accesses {
        core.data(stream.address(), &mut tables);
    }
    let mut phase = Phase {
        name: run.pattern.name().to_owned(),
        ended: true,
        organisations: core.report(run.accesses, 0),
        ..Phase::default()
    };
    phase.accesses.user_data = run.accesses;
    phase.instructions.user = run.accesses;
    result::conservation(&phase).map_err(ConfigError)?;
    result::finish(&mut phase, std::slice::from_ref(config));
    Ok(phase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const SIZE: u64 = 64 << 20;

    #[test]
    fn streams_stay_in_their_footprint_and_repeat() {
        for pattern in Pattern::ALL {
            let one: Vec<VirtAddr> = Stream::new(pattern, SIZE, 7).take(20_000).collect();
            let two: Vec<VirtAddr> = Stream::new(pattern, SIZE, 7).take(20_000).collect();
            assert_eq!(one, two);
            assert!(one
                .iter()
                .all(|va| (BASE..BASE + SIZE).contains(&va.as_u64())));
        }
        let other: Vec<VirtAddr> = Stream::new(Pattern::Gups, SIZE, 8).take(9).collect();
        assert_ne!(
            other,
            Stream::new(Pattern::Gups, SIZE, 7)
                .take(9)
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn scattering_loses_nothing() {
        for n in [2u64, 100, 4096, 10_000] {
            let mut all: Vec<u64> = (0..n).map(|v| scatter(v, n)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn popular_items_are_as_popular_as_they_should() {
        // 8192 vertices: the most popular has 0.76^13 of the ends, 2.8 %
        let mut seen: HashMap<u64, u32> = HashMap::new();
        for va in Stream::new(Pattern::Rmat, SIZE, 1).take(200_000) {
            *seen.entry(va.as_u64()).or_default() += 1;
        }
        let most = f64::from(*seen.values().max().unwrap()) / 200_000.0;
        assert!((most / 0.76f64.powi(13) - 1.0).abs() < 0.05, "{most}");
        // twice the rank, half the density
        let zipf = Zipf::new(1 << 20, 0.99);
        let (mut low, mut high) = (0, 0);
        let mut s = Stream::new(Pattern::Gups, SIZE, 3);
        for _ in 0..400_000 {
            match zipf.draw((s.draw() >> 11) as f64 / (1u64 << 53) as f64) {
                100..=199 => low += 1,
                1000..=1999 => high += 1,
                _ => {}
            }
        }
        // ten times as many ranks of a tenth of the density, and 0.01 of exponent
        assert!((f64::from(high) / f64::from(low) - 10f64.powf(0.01)).abs() < 0.05);
    }
}
