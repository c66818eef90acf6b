// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a matrix costs, and whether this host can pay it: time, memory, disk. Nothing here touches a guest.

use fpt_kit::{ui, Fail, Result};

/// What QEMU and the simulator need besides the guest's memory: translated code, their own tables.
pub const OVERHEAD_MIB: u64 = 512;
/// Left to the host.
const RESERVE_MIB: u64 = 512;
/// A result, its logs and its share of everything else in the folder.
const RESULT_MIB: u64 = 4;

/// What one cell needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The name of the cell.
    pub name: String,
    /// Memory of the host while it runs, in MiB.
    pub memory_mib: u64,
    /// Expected time of the run, in seconds.
    pub seconds: u64,
}

impl Need {
    /// Memory of the whole process.
    pub fn host_mib(&self) -> u64 {
        self.memory_mib.saturating_add(OVERHEAD_MIB)
    }
}

/// What is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Memory that is available, in MiB.
    pub memory_mib: u64,
    /// Free space for results.
    pub disk_mib: u64,
    /// For images, if that is another file system.
    pub cache_mib: Option<u64>,
}

impl Host {
    /// Memory that all guests together may have.
    pub fn budget_mib(&self) -> u64 {
        self.memory_mib.saturating_sub(RESERVE_MIB)
    }
}

/// What all cells together take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Expected time, in seconds.
    pub seconds: u64,
    /// Most that is in use at any time.
    pub memory_mib: u64,
    /// Room for images and results, in MiB.
    pub disk_mib: u64,
}

impl Cost {
    /// `24 cells, about 12m00s, 3.1 GiB of memory, 40 MiB of disk`.
    pub fn line(&self, cells: usize) -> String {
        format!(
            "{cells} cell{}, about {}, {} of memory, {} of disk",
            if cells == 1 { "" } else { "s" },
            ui::elapsed(std::time::Duration::from_secs(self.seconds)),
            size(self.memory_mib),
            size(self.disk_mib)
        )
    }
}

/// `512 MiB`, `1.5 GiB`: a size for people.
pub fn size(mib: u64) -> String {
    if mib < 1024 {
        format!("{mib} MiB")
    } else {
        format!("{:.1} GiB", mib as f64 / 1024.0)
    }
}

/// Plays the matrix through: in order, at most `jobs` at a time, none that would exceed `budget_mib`.
pub fn cost(needs: &[Need], jobs: usize, budget_mib: u64) -> Cost {
    let mut cost = Cost {
        disk_mib: RESULT_MIB * needs.len() as u64,
        ..Cost::default()
    };
    let mut todo: Vec<&Need> = needs.iter().collect();
    let mut running: Vec<(u64, &Need)> = Vec::new();
    let mut now = 0;
    while !todo.is_empty() || !running.is_empty() {
        let used: u64 = running.iter().map(|(_, n)| n.host_mib()).sum();
        let next = (running.len() < jobs.max(1))
            .then(|| {
                next(&todo, used, budget_mib, running.is_empty(), |n| {
                    n.host_mib()
                })
            })
            .flatten();
        if let Some(at) = next {
            let need = todo.remove(at);
            running.push((now + need.seconds, need));
            let sum = running.iter().map(|(_, n)| n.host_mib()).sum();
            cost.memory_mib = cost.memory_mib.max(sum);
            continue;
        }
        let first = running
            .iter()
            .enumerate()
            .min_by_key(|(_, r)| r.0)
            .map(|(at, _)| at);
        if let Some(at) = first {
            now = running.remove(at).0;
        }
    }
    cost.seconds = now;
    cost
}

/// Which of `todo` to start: the first that fits into what is free; anything when nothing runs.
pub fn next<T>(
    todo: &[T],
    used_mib: u64,
    budget_mib: u64,
    idle: bool,
    host_mib: impl Fn(&T) -> u64,
) -> Option<usize> {
    if idle {
        return (!todo.is_empty()).then_some(0);
    }
    todo.iter()
        .position(|t| used_mib.saturating_add(host_mib(t)) <= budget_mib)
}

/// Disk for images that are to be made: all are kept, and the largest is there twice while it is made.
pub fn images_mib(images: &[u64]) -> u64 {
    let sum = images
        .iter()
        .fold(0u64, |sum, mib| sum.saturating_add(*mib));
    sum.saturating_add(images.iter().copied().max().unwrap_or(0))
}

/// What the matrix costs on this host, or why it cannot be run here. `images`: sizes of those that are to
/// be made first.
pub fn fit(needs: &[Need], images: &[u64], jobs: usize, host: Host) -> Result<Cost> {
    // The first of the biggest.
    if let Some(big) = needs.iter().rev().max_by_key(|n| n.host_mib()) {
        if big.host_mib() > host.budget_mib() {
            return Err(Fail::infra(
                format!("{} does not fit into this host's memory", big.name),
                format!(
                    "it needs {} ({} for the guest), {} are free",
                    size(big.host_mib()),
                    size(big.memory_mib),
                    size(host.memory_mib)
                ),
                "choose a smaller --scale, or other --workloads",
            ));
        }
    }
    let mut cost = cost(needs, jobs, host.budget_mib());
    let images = images_mib(images);
    let none = |what: &str, needs: u64, free: u64| {
        Err(Fail::infra(
            format!("{what} onto the disk"),
            format!("it needs {}, {} are free", size(needs), size(free)),
            "free some space (`cargo xtask clean` empties this project's cache), or choose a smaller --scale or fewer --workloads",
        ))
    };
    match host.cache_mib {
        None => cost.disk_mib = cost.disk_mib.saturating_add(images),
        Some(free) if images > free => {
            return none(
                "the matrix' guest images do not fit, in the cache,",
                images,
                free,
            )
        }
        Some(_) => {}
    }
    if cost.disk_mib > host.disk_mib {
        return none("the matrix does not fit", cost.disk_mib, host.disk_mib);
    }
    Ok(cost)
}

/// Time left, from what has been measured: the estimates of the rest, corrected by how far those of
/// the finished cells were off. `running` holds estimate and time so far.
pub fn left(done: &[(u64, f64)], running: &[(u64, f64)], todo: &[u64], jobs: usize) -> u64 {
    let expected: u64 = done.iter().map(|d| d.0).sum();
    let taken: f64 = done.iter().map(|d| d.1).sum();
    let factor = if expected > 0 {
        taken / expected as f64
    } else {
        1.0
    };
    let rest: f64 = running
        .iter()
        .map(|(expect, so_far)| (*expect as f64 * factor - so_far).max(1.0))
        .chain(todo.iter().map(|t| *t as f64 * factor))
        .sum();
    let at_once = jobs.min(running.len() + todo.len()).max(1);
    (rest / at_once as f64).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(name: &str, memory_mib: u64, seconds: u64) -> Need {
        Need {
            name: name.into(),
            memory_mib,
            seconds,
        }
    }

    #[test]
    fn two_at_a_time() {
        let needs = [
            need("a", 1000, 10),
            need("b", 1000, 30),
            need("c", 1000, 15),
        ];
        let cost = cost(&needs, 2, 10_000);
        assert_eq!(cost.seconds, 30, "c runs beside b when a has ended");
        assert_eq!(cost.memory_mib, 2 * 1512);
        assert_eq!(cost.disk_mib, 3 * RESULT_MIB);
        assert_eq!(super::cost(&needs, 1, 10_000).seconds, 55);
        assert_eq!(
            super::cost(&needs, 2, 2000).seconds,
            55,
            "not two at once in 2000 MiB"
        );
        assert_eq!(super::cost(&[], 2, 10_000), Cost::default());
    }

    #[test]
    fn a_small_one_overtakes_when_the_next_does_not_fit() {
        let needs = [
            need("a", 1000, 10),
            need("big", 3000, 10),
            need("c", 100, 10),
        ];
        let cost = cost(&needs, 2, 4000);
        assert_eq!(cost.seconds, 20);
        assert_eq!(cost.memory_mib, 3512);
    }

    #[test]
    fn what_cannot_fit_is_refused() {
        let needs = [need("gups-radix", 8192, 10)];
        let host = |memory_mib, disk_mib| Host {
            memory_mib,
            disk_mib,
            cache_mib: None,
        };
        let line = |h| fpt_kit::fail::report(&fit(&needs, &[30, 50], 2, h).unwrap_err());
        // A result, both images, the larger of them once more.
        let cost = fit(&needs, &[30, 50], 2, host(20_000, 1000)).unwrap();
        assert_eq!(cost.disk_mib, RESULT_MIB + 130);
        let (text, code) = line(host(9000, 1000));
        assert!(
            text.contains("gups-radix does not fit into this host's memory"),
            "{text}"
        );
        assert!(text.contains("8.5 GiB (8.0 GiB for the guest)"), "{text}");
        assert_eq!(code, fpt_kit::code::INFRA);
        let (text, code) = line(host(20_000, 50));
        assert!(text.contains("it needs 134 MiB, 50 MiB are free"), "{text}");
        assert_eq!(code, fpt_kit::code::INFRA);
        let apart = |cache| Host {
            cache_mib: Some(cache),
            ..host(20_000, 50)
        };
        assert_eq!(
            fit(&needs, &[30, 50], 2, apart(130)).unwrap().disk_mib,
            RESULT_MIB
        );
        let (text, code) = line(apart(129));
        assert!(text.contains("in the cache"), "{text}");
        assert!(
            text.contains("it needs 130 MiB, 129 MiB are free"),
            "{text}"
        );
        assert_eq!(code, fpt_kit::code::INFRA);
    }

    #[test]
    fn time_left_learns() {
        assert_eq!(left(&[], &[], &[10, 10], 2), 10);
        assert_eq!(left(&[(10, 20.0)], &[(10, 5.0)], &[10], 1), 15 + 20);
        assert_eq!(left(&[(10, 20.0)], &[(10, 500.0)], &[], 2), 1);
        assert_eq!(left(&[(10, 10.0)], &[], &[], 2), 0);
    }
}
