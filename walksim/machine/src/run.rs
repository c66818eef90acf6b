// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs of synthetic streams, and what `fpt sweep` and the program `fpt-sweep` say to each other.

use fpt_geometry::Mode;
use serde::{Deserialize, Serialize};

use crate::report::Phase;

/// What a stream imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Updates anywhere in one table.
    Gups,
    /// Records of 8 KiB, one per vertex, at the ends of R-MAT edges with Graph500's probabilities; vertices are scattered.
    Rmat,
    /// Items of 1 KiB by keys of a Zipf distribution (exponent 0.99), each after a look at a table of buckets.
    Zipf,
    /// One line after the other.
    Sequential,
}

impl Pattern {
    /// Every pattern, in the order of the command line.
    pub const ALL: [Pattern; 4] = [
        Pattern::Gups,
        Pattern::Rmat,
        Pattern::Zipf,
        Pattern::Sequential,
    ];

    /// The name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Gups => "gups",
            Pattern::Rmat => "rmat",
            Pattern::Zipf => "zipf",
            Pattern::Sequential => "sequential",
        }
    }
}

/// What a stream does on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The mode of the tables.
    pub mode: Mode,
    /// The order of the accesses.
    pub pattern: Pattern,
    /// Bytes, a multiple of 64 MiB.
    pub footprint: u64,
    /// Accesses that are measured. As many come before, to warm up.
    pub accesses: u64,
    /// The seed of the random numbers; equal seeds give equal streams.
    pub seed: u64,
}

/// A run and its machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The machine, as [`Config::to_toml`](crate::config::Config::to_toml) writes it.
    pub config: String,
    /// What runs on it.
    pub run: Run,
}

/// Standard input of `fpt-sweep`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Jobs {
    /// Jobs at a time.
    pub threads: usize,
    /// All of them; they are begun in this order.
    pub jobs: Vec<Job>,
}

/// A line of its standard output, written when a job ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The place of the job among all.
    pub job: usize,
    /// Its figures, or what the model says against them.
    pub phase: Result<Phase, String>,
}
