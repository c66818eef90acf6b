// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes whose page tables `cargo xtask agree` compares walks of, and the program that reads
//! the kernel's answers: every sort of mapping, in shapes as mixed as they come.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use fpt_init::sample::{self, Sort, TOKEN};

use crate::sys::{self, Access, Advice, Backing, Region};

const PAGE: usize = 4 << 10;
const HUGE: usize = 2 << 20;
const GIB: usize = 1 << 30;
const SPAN: usize = 512 * GIB;
/// Aligned to every span, far from where the kernel puts anything by itself.
const BASE: usize = 0x1000_0000_0000;

pub fn target() -> i32 {
    match parent() {
        Ok(never) => never,
        Err(why) => {
            eprintln!("agree-target: {why}");
            1
        }
    }
}

/// Names the step that failed.
trait Step<T> {
    fn step(self, what: &str) -> Result<T, String>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: &str) -> Result<T, String> {
        self.map_err(|e| format!("{what}: {e}"))
    }
}

/// Three processes: the first, a child of it with tables like its own, and one that was forked when
/// the first had asked for huge pages, after which it gets no flattened L2+L1 nodes any more.
fn parent() -> Result<i32, String> {
    let ready = ["/tmp/agree.child", "/tmp/agree.heir"];
    for file in ready {
        let _ = fs::remove_file(file);
    }
    let scene = Scene::build()?;
    let child = forked(&scene, ready[0])?;
    let huge = Scene::huge().step("huge pages")?;
    let heir = forked(&scene, ready[1])?;
    huge.write(13 * PAGE).step("huge pages")?;
    let pid = sys::pid();
    println!("targets parent {pid} child {child} heir {heir}");
    io::stdout().flush().step("stdout")?;
    sys::spin(TOKEN | pid as u64)
}

/// A child that has made its changes and waits to be looked at.
fn forked(scene: &Scene, ready: &str) -> Result<i32, String> {
    let Some(child) = sys::fork().step("fork")? else {
        if let Err(why) = scene.change() {
            eprintln!("agree-target, child: {why}");
            std::process::exit(1);
        }
        fs::write(ready, "").step(ready)?;
        sys::spin(TOKEN | sys::pid() as u64);
    };
    let start = Instant::now();
    while !Path::new(ready).exists() {
        if start.elapsed() > Duration::from_secs(60) {
            return Err("the child is not ready after 60 s".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

/// Order-9 allocations of this process fail, or not. A pool would hide the failing allocator.
fn fail_me(on: bool) -> Result<(), String> {
    let word = if on { "1" } else { "0" };
    fs::write("/proc/self/make-it-fail", word).step("/proc/self/make-it-fail")?;
    let drain = "/sys/kernel/debug/fpt/drain";
    if on && Path::new(drain).exists() {
        fs::write(drain, "1").step(drain)?;
    }
    Ok(())
}

/// What a child changes after the fork.
struct Scene {
    border: Region,
    sparse: Region,
    shared: Region,
    mixed: Vec<Region>,
}

impl Scene {
    fn build() -> Result<Scene, String> {
        // Small pages on both sides of a 1 GiB border, with holes between them.
        let border = Region::map(BASE + GIB - HUGE, 2 * HUGE, Backing::Private).step("map")?;
        border
            .advise(0, 2 * HUGE, Advice::NoHugePage)
            .step("madvise")?;
        for page in (0..2 * HUGE / PAGE).filter(|p| p % 7 != 3) {
            border.write(page * PAGE).step("border")?;
        }
        // Sparse, on both sides of a 512 GiB border.
        let sparse = Region::map(BASE + SPAN - HUGE, 2 * HUGE, Backing::Private).step("map")?;
        sparse
            .advise(0, 2 * HUGE, Advice::NoHugePage)
            .step("madvise")?;
        for page in (0..2 * HUGE / PAGE).step_by(5) {
            sparse.write(page * PAGE).step("sparse")?;
        }
        Scene::protections().step("protections")?;
        let shared = Scene::shared()?;
        Scene::swapped().step("swap")?;
        Scene::moved().step("mremap")?;
        // The lowest address there may be, and far up.
        for addr in [0x1_0000, 0x7ff0_0000_0000] {
            let end = Region::map(addr, 16 * PAGE, Backing::Private).step("map")?;
            end.write(5 * PAGE).step("ends")?;
        }
        Ok(Scene {
            border,
            sparse,
            shared,
            mixed: Scene::mixed()?,
        })
    }

    fn protections() -> io::Result<()> {
        let map = Region::map(BASE + 2 * GIB, 4 << 20, Backing::Private)?;
        map.advise(0, 4 << 20, Advice::NoHugePage)?;
        for page in 0..64 {
            map.write(page * PAGE)?;
        }
        map.protect(8 * PAGE, 8 * PAGE, Access::None)?;
        map.protect(16 * PAGE, 8 * PAGE, Access::Read)?;
        map.protect(24 * PAGE, 8 * PAGE, Access::ReadExec)?;
        map.advise(32 * PAGE, 8 * PAGE, Advice::DontNeed)?;
        // There and back.
        map.protect(40 * PAGE, 8 * PAGE, Access::None)?;
        map.protect(40 * PAGE, 8 * PAGE, Access::ReadWrite)?;
        map.punch(48 * PAGE, 4 * PAGE)?;
        // Read before they are written: the zero page.
        for page in 64..96 {
            map.read(page * PAGE)?;
        }
        let never = Region::map(BASE + 30 * GIB, 1 << 20, Backing::Private)?;
        never.protect(0, 1 << 20, Access::None)
    }

    fn shared() -> Result<Region, String> {
        let shared =
            Region::map(BASE + 3 * GIB, 1 << 20, Backing::SharedAnonymous).step("map shared")?;
        for page in (0..256).step_by(2) {
            shared.write(page * PAGE).step("shared")?;
        }
        let program = File::open("/proc/self/exe").step("/proc/self/exe")?;
        let text = Region::map(BASE + 4 * GIB, 512 << 10, Backing::FilePrivate(&program))
            .step("map the program")?;
        for page in (0..64).step_by(2) {
            text.read(page * PAGE).step("file")?;
        }
        let name = "/tmp/agree.data";
        let data = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(name)
            .step(name)?;
        data.set_len(1 << 20).step(name)?;
        let file = Region::map(BASE + 4 * GIB + HUGE, 1 << 20, Backing::FileShared(&data))
            .step("map a file")?;
        for page in (0..256).step_by(3) {
            file.write(page * PAGE).step("file")?;
        }
        Ok(shared)
    }

    fn huge() -> io::Result<Region> {
        // A span in which nothing is flat yet.
        let huge = Region::map(BASE + 2 * SPAN, 4 * HUGE, Backing::Private)?;
        huge.advise(0, 4 * HUGE, Advice::HugePage)?;
        for page in [0, 1, 3] {
            huge.write(page * HUGE + 5 * PAGE)?;
        }
        // The second is split, the fourth is one page without access.
        huge.protect(HUGE + HUGE / 2, HUGE / 2, Access::Read)?;
        huge.protect(3 * HUGE, HUGE, Access::None)?;
        // Asked for where the span is flat already.
        let small = Region::map(BASE + 5 * GIB, 64 * PAGE, Backing::Private)?;
        for page in 0..64 {
            small.write(page * PAGE)?;
        }
        let late = Region::map(BASE + 5 * GIB + 4 * HUGE, 2 * HUGE, Backing::Private)?;
        late.advise(0, 2 * HUGE, Advice::HugePage)?;
        late.write(0)?;
        late.write(HUGE)?;
        let pool = Region::map(BASE + 6 * GIB, 3 * HUGE, Backing::HugePool(21))?;
        pool.write(PAGE)?;
        pool.write(HUGE)?;
        pool.protect(HUGE, HUGE, Access::None)?;
        Ok(huge)
    }

    fn swapped() -> io::Result<()> {
        let map = Region::map(BASE + 7 * GIB - 64 * PAGE, 256 * PAGE, Backing::Private)?;
        map.advise(0, 256 * PAGE, Advice::NoHugePage)?;
        for page in 0..256 {
            map.write(page * PAGE)?;
        }
        for _ in 0..3 {
            map.advise(0, 256 * PAGE, Advice::PageOut)?;
        }
        for page in (0..256).step_by(16) {
            map.write(page * PAGE)?;
        }
        Ok(())
    }

    fn moved() -> io::Result<()> {
        // To another alignment, across a border.
        let len = HUGE + 64 * PAGE;
        let from = Region::map(BASE + 8 * GIB + 3 * PAGE, len, Backing::Private)?;
        from.advise(0, len, Advice::NoHugePage)?;
        for page in (0..len / PAGE).step_by(2) {
            from.write(page * PAGE)?;
        }
        from.move_over(Region::map(
            BASE + 9 * GIB - HUGE / 2,
            len,
            Backing::Private,
        )?)?;
        // A whole aligned GiB.
        let from = Region::map(BASE + 10 * GIB, GIB, Backing::Private)?;
        from.advise(0, GIB, Advice::NoHugePage)?;
        for offset in [0, HUGE - PAGE, HUGE, GIB / 2, GIB - PAGE] {
            from.write(offset)?;
        }
        from.move_over(Region::map(BASE + 12 * GIB, GIB, Backing::Private)?)?;
        Ok(())
    }

    /// Every second one finds no memory for a flattened node.
    fn mixed() -> Result<Vec<Region>, String> {
        let gibs = (16..22).map(|n| BASE + n * GIB);
        let spans = (4..8).map(|n| BASE + n * SPAN + GIB - 16 * PAGE);
        let mut out = Vec::new();
        for (n, addr) in gibs.chain(spans).enumerate() {
            let map = Region::map(addr, 32 * PAGE, Backing::Private).step("map")?;
            fail_me(n % 2 == 1)?;
            for page in [0, 1, 15, 16, 31] {
                map.write(page * PAGE).step("mixed")?;
            }
            out.push(map);
        }
        fail_me(false)?;
        Ok(out)
    }

    /// The child's own: pages copied, dropped, protected, and new ones.
    fn change(&self) -> Result<(), String> {
        for page in (0..2 * HUGE / PAGE).filter(|p| p % 3 == 0) {
            self.border.write(page * PAGE).step("child: border")?;
        }
        let part = HUGE / 4;
        self.sparse.punch(part, part).step("child: sparse")?;
        self.sparse
            .protect(3 * part, part, Access::Read)
            .step("child: sparse")?;
        self.shared.write(PAGE).step("child: shared")?;
        for map in &self.mixed {
            map.write(7 * PAGE).step("child: mixed")?;
        }
        let new =
            Region::map(BASE + 40 * GIB - 2 * PAGE, 4 * PAGE, Backing::Private).step("map")?;
        for page in 0..4 {
            new.write(page * PAGE).step("child: new")?;
        }
        Ok(())
    }
}

/// Prints the mappings of a process, and for the chosen addresses what its pagemap says.
pub fn read(args: &[String]) -> i32 {
    let pid = match args {
        [pid] if pid.parse::<u32>().is_ok() => pid,
        _ => {
            eprintln!("usage: fpt-init agree-read PID");
            return 2;
        }
    };
    match print(pid) {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("agree-read: {why}");
            1
        }
    }
}

fn print(pid: &str) -> Result<(), String> {
    let smaps = format!("/proc/{pid}/smaps");
    let pagemap = format!("/proc/{pid}/pagemap");
    let areas = sample::areas(&fs::read_to_string(&smaps).step(&smaps)?);
    let file = File::open(&pagemap).step(&pagemap)?;
    let mut text = String::new();
    for area in &areas {
        let sort = match area.sort {
            Sort::Plain => "area",
            Sort::Hugetlb => "hugetlb",
            Sort::Pfnmap => "pfnmap",
        };
        text.push_str(&format!("{sort} {:#x} {:#x}\n", area.start, area.end));
    }
    for addr in sample::addresses(&areas, 1) {
        let mut raw = [0; 8];
        let offset = addr / PAGE as u64 * 8;
        file.read_exact_at(&mut raw, offset).step(&pagemap)?;
        text.push_str(&format!("page {addr:#x} {:#x}\n", u64::from_ne_bytes(raw)));
    }
    text.push_str("end\n");
    io::stdout().write_all(text.as_bytes()).step("stdout")
}
