// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who causes the walks: from addresses of instructions and of memory to functions and mappings.

use std::collections::BTreeMap;
use std::path::Path;

use fpt_init::proto::Seen;
use fpt_walksim_machine::attribution::{Block, Cost, File};
use serde::Serialize;

use crate::maps::{self, Area};
use crate::program::Program;
use crate::symbols::{self, Place, Symbols};

/// Memory that nobody had at the end: blocks that are nearer than this belong together.
const GAP: u64 = 2 << 20;

/// Costs by what caused them, of one run or of several.
#[derive(Clone, Debug, Default)]
pub struct Causes {
    pub all: Cost,
    /// By program and place of the instruction.
    pub code: BTreeMap<(String, Place), Cost>,
    /// Cost by program and the mapping that was accessed.
    pub memory: BTreeMap<(String, String), Cost>,
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    pub what: String,
    pub walks: u64,
    pub reads: u64,
    pub cycles: f64,
    /// Part of all walk cycles.
    pub share: f64,
}

impl Causes {
    /// Adds what one run of the simulator wrote, with what the guest saw of its processes.
    pub fn add(&mut self, file: &File, seen: &[Seen], symbols: &mut Symbols) {
        let images: Vec<Image> = seen.iter().map(Image::new).collect();
        for (number, program) in file.programs.iter().enumerate() {
            let number = number as u32;
            let image = image_of(program, number, file, &images);
            let areas = image.map_or(&[][..], |i| &i.areas);
            for phase in &file.phases {
                let mine = phase.instructions.iter().filter(|i| i.0 == number);
                for instruction in mine {
                    let place = place(instruction.1, areas, symbols);
                    let key = (program.clone(), place);
                    self.code.entry(key).or_default().add(instruction.2);
                    self.all.add(instruction.2);
                }
                let mine: Vec<&Block> = phase.blocks.iter().filter(|b| b.0 == number).collect();
                for (name, cost) in regions(&mine, phase.block_bytes, areas) {
                    let key = (program.clone(), name);
                    self.memory.entry(key).or_default().add(cost);
                }
            }
        }
    }

    fn lines(&self, by: BTreeMap<String, Cost>) -> Vec<Line> {
        let all = self.all.cycles;
        let mut out: Vec<Line> = by
            .into_iter()
            .map(|(what, cost)| Line {
                what,
                walks: cost.walks,
                reads: cost.reads,
                cycles: cost.cycles,
                share: if all > 0.0 { cost.cycles / all } else { 0.0 },
            })
            .collect();
        out.sort_by(|a, b| b.cycles.total_cmp(&a.cycles).then(a.what.cmp(&b.what)));
        out
    }

    /// Functions, the innermost of inlined ones, with their object.
    pub fn functions(&self) -> Vec<Line> {
        let mut by: BTreeMap<String, Cost> = BTreeMap::new();
        for ((_, place), cost) in &self.code {
            let name = format!("{} ({})", place.function(), place.object);
            by.entry(name).or_default().add(*cost);
        }
        self.lines(by)
    }

    /// Lines of source, where they are known.
    pub fn source(&self) -> Vec<Line> {
        let mut by: BTreeMap<String, Cost> = BTreeMap::new();
        for ((_, place), cost) in &self.code {
            if let Some(line) = &place.line {
                let name = format!("{line} {}", place.function());
                by.entry(name).or_default().add(*cost);
            }
        }
        self.lines(by)
    }

    pub fn mappings(&self) -> Vec<Line> {
        let programs: std::collections::BTreeSet<&str> =
            self.memory.keys().map(|(p, _)| p.as_str()).collect();
        let mut by: BTreeMap<String, Cost> = BTreeMap::new();
        for ((program, area), cost) in &self.memory {
            let kernel = area.starts_with("kernel");
            let name = if kernel || programs.len() < 2 {
                area.clone()
            } else {
                format!("{area} of {program}")
            };
            by.entry(name).or_default().add(*cost);
        }
        self.lines(by)
    }

    /// Stacks for flame graphs, from the outside to the inside, with cycles.
    pub fn stacks(&self) -> BTreeMap<Vec<String>, f64> {
        let mut out: BTreeMap<Vec<String>, f64> = BTreeMap::new();
        for ((program, place), cost) in &self.code {
            let mut stack = vec![program.clone(), place.object.clone()];
            stack.extend(place.functions.iter().cloned());
            stack.extend(place.line.clone());
            *out.entry(stack).or_default() += cost.cycles;
        }
        out
    }

    /// The same by mappings.
    pub fn memory_stacks(&self) -> BTreeMap<Vec<String>, f64> {
        let one = |((program, area), cost): (&(String, String), &Cost)| {
            (vec![program.clone(), area.clone()], cost.cycles)
        };
        self.memory.iter().map(one).collect()
    }
}

/// What a process had when it ended.
struct Image {
    comm: String,
    areas: Vec<Area>,
}

impl Image {
    fn new(seen: &Seen) -> Image {
        Image {
            comm: seen.comm.clone(),
            areas: maps::parse(&seen.maps),
        }
    }

    /// How much of a program's cost lies in this image.
    fn covers(&self, number: u32, file: &File) -> f64 {
        let mut sum = 0.0;
        for phase in &file.phases {
            for block in phase.blocks.iter().filter(|b| b.0 == number) {
                if maps::area_of(&self.areas, block.1, phase.block_bytes).is_some() {
                    sum += block.2.cycles;
                }
            }
        }
        sum
    }
}

/// The image of the process that ran under this name; of several the one that explains most.
fn image_of<'a>(name: &str, number: u32, file: &File, images: &'a [Image]) -> Option<&'a Image> {
    let best = |named: bool| {
        let some = images.iter().filter(|i| !named || i.comm == name);
        some.max_by(|a, b| a.covers(number, file).total_cmp(&b.covers(number, file)))
    };
    best(true).or_else(|| best(false))
}

fn is_kernel(address: u64) -> bool {
    address >> 63 != 0
}

fn place(pc: u64, areas: &[Area], symbols: &mut Symbols) -> Place {
    if is_kernel(pc) {
        return symbols.kernel(pc);
    }
    match areas.iter().find(|a| a.holds(pc)) {
        Some(area) if area.is_file() => symbols.file(&area.name, pc - area.start + area.offset),
        Some(area) => symbols::unknown(&area.title()),
        None => symbols::unknown("[no mapping at the end]"),
    }
}

/// Costs by mapping. What lies in none is put together by nearness.
fn regions(blocks: &[&Block], bytes: u64, areas: &[Area]) -> Vec<(String, Cost)> {
    let mut out: Vec<(String, Cost)> = Vec::new();
    let mut loose: Option<(u64, u64, Cost)> = None;
    let close = |loose: &mut Option<(u64, u64, Cost)>, out: &mut Vec<(String, Cost)>| {
        if let Some((start, end, cost)) = loose.take() {
            let name = format!(
                "{start:#x}, {}, unmapped before the end",
                maps::size(end - start)
            );
            out.push((name, cost));
        }
    };
    for Block(_, at, cost) in blocks {
        if is_kernel(*at) {
            out.push((maps::kernel_area(*at).to_string(), *cost));
            continue;
        }
        if let Some(area) = maps::area_of(areas, *at, bytes) {
            out.push((area.title(), *cost));
            continue;
        }
        match &mut loose {
            Some((_, end, sum)) if *at <= end.saturating_add(GAP) => {
                *end = at + bytes;
                sum.add(*cost);
            }
            _ => {
                close(&mut loose, &mut out);
                loose = Some((*at, at + bytes, *cost));
            }
        }
    }
    close(&mut loose, &mut out);
    out
}

/// The causes of what a simulator's file holds.
pub fn read(path: &Path) -> std::io::Result<File> {
    let text = std::fs::read_to_string(path)?;
    serde_json::from_str(&text).map_err(std::io::Error::other)
}

/// The causes of one mode, all its runs together.
pub fn of_runs<'a>(
    runs: impl Iterator<Item = (&'a File, &'a [Seen])>,
    program: &Program,
    kernel: &Path,
) -> Causes {
    let mut symbols = Symbols::new(program, kernel);
    let mut causes = Causes::default();
    for (file, seen) in runs {
        causes.add(file, seen, &mut symbols);
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_walksim_machine::attribution::{Instruction, Phase};

    fn cost(cycles: f64) -> Cost {
        Cost {
            walks: 1,
            reads: 2,
            cycles,
        }
    }

    fn file() -> File {
        File {
            schema: String::new(),
            programs: vec!["prog".into(), "fpt-init".into()],
            phases: vec![Phase {
                name: "whole".into(),
                instructions: vec![
                    Instruction(0, 0x40_1000, cost(60.0)),
                    Instruction(0, 0xffff_ffff_8100_0000, cost(30.0)),
                    Instruction(1, 0x40_1000, cost(10.0)),
                ],
                block_bytes: 4096,
                blocks: vec![
                    Block(0, 0x1000_0000, cost(40.0)),
                    Block(0, 0x2000_0000, cost(10.0)),
                    Block(0, 0x2000_1000, cost(10.0)),
                    Block(0, 0x3000_0000, cost(10.0)),
                    Block(0, 0xffff_8880_0000_1000, cost(20.0)),
                    Block(1, 0x1000_0000, cost(10.0)),
                ],
            }],
        }
    }

    #[test]
    fn everything_is_somewhere() {
        let seen = [
            Seen {
                comm: "prog".into(),
                maps: "10000000-14000000 rw-p 00000000 00:00 0\n".into(),
                ..Seen::default()
            },
            Seen {
                comm: "prog".into(),
                maps: "00001000-00002000 rw-p 00000000 00:00 0\n".into(),
                ..Seen::default()
            },
        ];
        let program = Program::default();
        let file = file();
        let runs = [(&file, &seen[..]), (&file, &seen[..])];
        let causes = of_runs(runs.into_iter(), &program, Path::new("/no/kernel"));
        assert_eq!(causes.all.cycles, 200.0);
        for lines in [causes.functions(), causes.mappings()] {
            let sum: f64 = lines.iter().map(|l| l.cycles).sum();
            let share: f64 = lines.iter().map(|l| l.share).sum();
            assert_eq!(sum, 200.0);
            assert!((share - 1.0).abs() < 1e-9);
        }
        let mappings = causes.mappings();
        let of = |words: &str| {
            let line = mappings.iter().find(|l| l.what.contains(words));
            line.unwrap_or_else(|| panic!("{mappings:?}")).cycles
        };
        assert_eq!(of("anonymous 0x10000000, 64 MiB of prog"), 80.0);
        assert_eq!(of("0x20000000, 8 KiB, unmapped before the end"), 40.0);
        assert_eq!(of("0x30000000, 4 KiB, unmapped"), 20.0);
        assert_eq!(of("direct map"), 40.0);
        let stacks = causes.stacks();
        assert_eq!(stacks.values().sum::<f64>(), 200.0);
        assert!(stacks.keys().all(|s| s.len() >= 3));
        assert_eq!(causes.memory_stacks().values().sum::<f64>(), 200.0);
        assert!(causes.source().is_empty());
    }
}
