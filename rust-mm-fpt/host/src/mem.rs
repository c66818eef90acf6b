// SPDX-License-Identifier: GPL-2.0

//! Simulated physical memory, and the ledger of its frames.
//!
//! Memory is handed out in chunks of 2 MiB: a chunk is either one order-9 block or 512 frames of
//! 4 KiB. Addresses are never used twice, so a stale pointer finds nothing: every access to a
//! frame that is not allocated panics or, through [`PhysMem`], answers `None`.

use crate::look::Nodes;
use fpt_core::addr::{PhysAddr, PAGE_SHIFT};
use fpt_core::entry::{root_l4, Entry, TABLE_FLAGS};
use fpt_core::geometry::{Level, NodeKind, NODE_SHIFT, ROOT_USER_SLICES, SLICES};
use fpt_core::walk::{IndexPages, PhysMem};

type Frame = Box<[u64; 512]>;

/// Life of an order-9 block, as the ledger sees it.
#[derive(Clone, Debug)]
struct BlockState {
    kind: NodeKind,
    /// Of nodes that have one.
    index: Option<PhysAddr>,
    prepared: Vec<bool>,
    charged: bool,
}

#[derive(Clone, Debug)]
enum Owner {
    Block(BlockState),
    /// The level of the table in each frame, or `None` for a free frame.
    Frames(Vec<Option<Level>>),
}

struct Chunk {
    data: Vec<Option<Frame>>,
    owner: Owner,
}

/// An order-9 block, owned. Dropping it is a leak and panics.
#[derive(Debug)]
pub struct SimBlock {
    pa: PhysAddr,
}

impl SimBlock {
    /// Its address.
    pub fn pa(&self) -> PhysAddr {
        self.pa
    }

    /// The address alone, for a pool or a list; the value is gone without a leak report.
    pub fn into_pa(self) -> PhysAddr {
        let pa = self.pa;
        std::mem::forget(self);
        pa
    }

    /// Undoes [`SimBlock::into_pa`].
    pub fn from_pa(pa: PhysAddr) -> Self {
        SimBlock { pa }
    }
}

impl Drop for SimBlock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("order-9 block {:#x} leaked", self.pa.as_u64());
        }
    }
}

/// The memory.
pub struct SimMem {
    /// By number: address >> 21. Numbers are never used twice.
    chunks: Vec<Option<Chunk>>,
    /// Chunk and next frame for 4 KiB allocations.
    open: Option<(u64, usize)>,
    tables: u64,
    blocks: u64,
}

impl Default for SimMem {
    fn default() -> Self {
        SimMem {
            chunks: (0..8).map(|_| None).collect(),
            open: None,
            tables: 0,
            blocks: 0,
        }
    }
}

fn place(pa: PhysAddr) -> (u64, usize, usize) {
    let pa = pa.as_u64();
    assert_eq!(pa & 7, 0, "misaligned access to {pa:#x}");
    (
        pa >> NODE_SHIFT,
        ((pa >> PAGE_SHIFT) & 511) as usize,
        ((pa >> 3) & 511) as usize,
    )
}

impl SimMem {
    fn new_chunk(&mut self, owner: Owner) -> u64 {
        self.chunks.push(Some(Chunk {
            data: (0..512).map(|_| None).collect(),
            owner,
        }));
        self.chunks.len() as u64 - 1
    }

    fn chunk(&self, chunk: u64) -> Option<&Chunk> {
        self.chunks.get(chunk as usize)?.as_ref()
    }

    fn chunk_mut(&mut self, chunk: u64) -> Option<&mut Chunk> {
        self.chunks.get_mut(chunk as usize)?.as_mut()
    }

    /// A zeroed table of 4 KiB.
    pub fn alloc_table(&mut self, level: Level) -> PhysAddr {
        let (chunk, frame) = match self.open {
            Some((c, f)) if f < 512 && self.chunk(c).is_some() => (c, f),
            _ => (self.new_chunk(Owner::Frames(vec![None; 512])), 0),
        };
        self.open = Some((chunk, frame + 1));
        match &mut self.chunk_mut(chunk).unwrap().owner {
            Owner::Frames(frames) => frames[frame] = Some(level),
            Owner::Block(_) => unreachable!(),
        }
        self.tables += 1;
        PhysAddr::new((chunk << NODE_SHIFT) + ((frame as u64) << PAGE_SHIFT))
    }

    /// Frees a table of 4 KiB, checking that it is one, of this level.
    pub fn free_table(&mut self, pa: PhysAddr, level: Level) {
        let (c, frame, slot) = place(pa);
        assert_eq!(slot, 0);
        let chunk = self
            .chunk_mut(c)
            .unwrap_or_else(|| panic!("free of {pa:x?}: not memory"));
        let Owner::Frames(frames) = &mut chunk.owner else {
            panic!("free of {pa:x?}: a slice of a node is not a table of its own")
        };
        assert_eq!(
            frames[frame],
            Some(level),
            "free of {pa:x?}: not a table of that level"
        );
        frames[frame] = None;
        chunk.data[frame] = None;
        if frames.iter().all(Option::is_none) {
            self.chunks[c as usize] = None;
        }
        self.tables -= 1;
    }

    /// A zeroed order-9 block for a node of `kind`, whose slices will name the index page `index`.
    pub fn alloc_block(&mut self, kind: NodeKind, index: Option<PhysAddr>) -> SimBlock {
        assert_eq!(index.is_none(), kind == NodeKind::Root);
        let state = BlockState {
            kind,
            index,
            prepared: vec![false; SLICES as usize],
            charged: false,
        };
        let chunk = self.new_chunk(Owner::Block(state));
        self.blocks += 1;
        SimBlock {
            pa: PhysAddr::new(chunk << NODE_SHIFT),
        }
    }

    /// The slices of the block at `pa` name another index page from here on.
    pub fn rename(&mut self, pa: PhysAddr, index: PhysAddr) {
        self.block(pa).index = Some(index);
    }

    fn block(&mut self, pa: PhysAddr) -> &mut BlockState {
        let (c, frame, slot) = place(pa);
        assert_eq!((frame, slot), (0, 0), "{pa:x?} is not the start of a block");
        match self.chunk_mut(c).map(|c| &mut c.owner) {
            Some(Owner::Block(state)) => state,
            _ => panic!("{pa:x?} is not an allocated order-9 block"),
        }
    }

    /// Frees a block; it must be unprepared and uncharged.
    pub fn free_block(&mut self, block: SimBlock, kind: NodeKind) {
        let pa = block.into_pa();
        let state = self.block(pa);
        assert_eq!(state.kind, kind);
        assert!(!state.charged, "charged block freed");
        assert!(state.prepared.iter().all(|p| !p), "prepared block freed");
        self.chunks[place(pa).0 as usize] = None;
        self.blocks -= 1;
    }

    /// Ledger: slice becomes, or ceases to be, a page table.
    pub fn set_prepared(&mut self, block: &SimBlock, kind: NodeKind, slice: u32, to: bool) {
        let state = self.block(block.pa);
        assert_eq!(state.kind, kind);
        assert_ne!(
            state.prepared[slice as usize], to,
            "slice {slice} prepared or not, twice"
        );
        assert!(!state.charged, "slices change while the block is charged");
        state.prepared[slice as usize] = to;
    }

    /// Ledger: block is, or is no more, charged.
    pub fn set_charged(&mut self, block: &SimBlock, kind: NodeKind, to: bool) {
        let state = self.block(block.pa);
        assert_eq!(state.kind, kind);
        assert!(
            state.prepared.iter().all(|p| *p),
            "charge of an unprepared block"
        );
        assert_ne!(state.charged, to, "charged or not, twice");
        state.charged = to;
    }

    /// Ledger: asserts that the block at `pa` may be in the tree (`charged`) or in a pool.
    pub fn assert_block(&mut self, pa: PhysAddr, kind: NodeKind, charged: bool) {
        let state = self.block(pa);
        assert_eq!(state.kind, kind);
        assert!(state.prepared.iter().all(|p| *p));
        assert_eq!(state.charged, charged);
    }

    /// Is every word of the block zero, other than in the L4 page of a root?
    pub fn is_zero(&self, pa: PhysAddr, kind: NodeKind) -> bool {
        let chunk = self.chunk(place(pa).0).expect("no such block");
        let l4 = place(root_l4(pa)).1;
        chunk
            .data
            .iter()
            .enumerate()
            .filter(|(n, _)| kind != NodeKind::Root || *n != l4)
            .filter_map(|(_, f)| f.as_ref())
            .all(|f| f.iter().all(|w| *w == 0))
    }

    /// Does the user half of the L4 page of the root block at `pa` point at the block's slices?
    pub fn is_linked(&self, pa: PhysAddr) -> bool {
        (0..ROOT_USER_SLICES).all(|i| {
            let at = root_l4(pa).offset(u64::from(i) * 8);
            Entry::root_slice(pa, i, TABLE_FLAGS).is_some_and(|e| e.as_u64() == self.read(at))
        })
    }

    /// Is every word of the 4 KiB frame zero?
    pub fn frame_is_zero(&self, pa: PhysAddr) -> bool {
        let (c, frame, _) = place(pa);
        let chunk = self.chunk(c).expect("no such frame");
        chunk.data[frame]
            .as_ref()
            .is_none_or(|f| f.iter().all(|w| *w == 0))
    }

    /// True if nothing was ever written to the 4 KiB frame: lets a test skip empty tables.
    pub fn is_blank(&self, pa: PhysAddr) -> bool {
        let (c, frame, _) = place(pa);
        self.chunk(c)
            .is_some_and(|chunk| chunk.data[frame].is_none())
    }

    /// Is the 4 KiB frame a table of entries of `level`, on its own?
    pub fn is_table(&self, pa: PhysAddr, level: Level) -> bool {
        let (c, frame, _) = place(pa);
        match self.chunk(c).map(|c| &c.owner) {
            Some(Owner::Frames(frames)) => frames[frame] == Some(level),
            _ => false,
        }
    }

    /// The words of the 4 KiB frame that are not zero, with their indices.
    pub fn words(&self, pa: PhysAddr) -> Vec<(u32, u64)> {
        let (c, frame, _) = place(pa);
        let chunk = self.chunk(c).unwrap_or_else(|| panic!("no frame {pa:x?}"));
        let words = chunk.data[frame].iter().flat_map(|f| f.iter());
        words
            .enumerate()
            .filter(|(_, w)| **w != 0)
            .map(|(i, w)| (i as u32, *w))
            .collect()
    }

    /// Turns a charged block into 512 tables that live on their own. They name no index page any more.
    pub fn split_block(&mut self, pa: PhysAddr, kind: NodeKind) {
        self.assert_block(pa, kind, true);
        let chunk = self.chunk_mut(place(pa).0).unwrap();
        chunk.owner = Owner::Frames(vec![Some(kind.entry_level()); 512]);
        self.blocks -= 1;
        self.tables += 512;
    }

    /// Turns an uncharged, unprepared root block into a table of level 4 at `l4` and free memory.
    pub fn split_root(&mut self, block: SimBlock, l4: PhysAddr) {
        let pa = block.into_pa();
        let state = self.block(pa);
        assert_eq!(state.kind, NodeKind::Root);
        assert!(!state.charged, "charged root split");
        assert!(state.prepared.iter().all(|p| !p), "prepared root split");
        let (c, keep, slot) = place(l4);
        assert_eq!((c, slot), (place(pa).0, 0));
        let chunk = self.chunk_mut(c).unwrap();
        let mut frames = vec![None; 512];
        frames[keep] = Some(Level::L4);
        chunk.owner = Owner::Frames(frames);
        for (frame, data) in chunk.data.iter_mut().enumerate() {
            if frame != keep {
                *data = None;
            }
        }
        self.blocks -= 1;
        self.tables += 1;
    }

    /// Reads the entry at `pa`.
    pub fn read(&self, pa: PhysAddr) -> u64 {
        self.load(pa)
            .unwrap_or_else(|| panic!("load from {pa:x?}: not allocated"))
    }

    /// Writes the entry at `pa`.
    pub fn write(&mut self, pa: PhysAddr, value: u64) {
        let (c, frame, slot) = place(pa);
        let chunk = self
            .chunk_mut(c)
            .unwrap_or_else(|| panic!("store to {pa:x?}"));
        if let Owner::Frames(frames) = &chunk.owner {
            assert!(frames[frame].is_some(), "store to {pa:x?}: free frame");
        }
        if value != 0 || chunk.data[frame].is_some() {
            chunk.data[frame].get_or_insert_with(|| Box::new([0; 512]))[slot] = value;
        }
    }

    /// Allocated 4 KiB tables and order-9 blocks.
    pub fn in_use(&self) -> (u64, u64) {
        (self.tables, self.blocks)
    }
}

/// Word 1 of a `struct page`, as far as it is valid: in slices of a node that is prepared.
impl IndexPages for SimMem {
    fn index_page(&self, slice: PhysAddr) -> Option<PhysAddr> {
        let (c, frame, _) = place(slice);
        match &self.chunk(c)?.owner {
            Owner::Block(state) if state.prepared[frame] => state.index,
            _ => None,
        }
    }
}

impl Nodes for SimMem {
    fn node_of(&self, table: PhysAddr) -> Option<PhysAddr> {
        let has = |c: &Option<Chunk>| match c.as_ref().map(|c| &c.owner) {
            Some(Owner::Block(state)) => state.index == Some(table),
            _ => false,
        };
        let chunk = self.chunks.iter().position(has)?;
        Some(PhysAddr::new((chunk as u64) << NODE_SHIFT))
    }
}

impl PhysMem for SimMem {
    fn load(&self, pa: PhysAddr) -> Option<u64> {
        let (c, frame, slot) = place(pa);
        let chunk = self.chunk(c)?;
        if let Owner::Frames(frames) = &chunk.owner {
            frames[frame]?;
        }
        Some(chunk.data[frame].as_ref().map_or(0, |f| f[slot]))
    }
}
