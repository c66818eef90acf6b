// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a long step costs, so that its title can say it before it begins.

use std::iter::Sum;
use std::path::Path;

use crate::Ctx;

/// CPU time of a step that starts from nothing, as it was measured once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    seconds: u32,
}

impl Work {
    /// `seconds` of one CPU.
    pub const fn seconds(seconds: u32) -> Work {
        Work { seconds }
    }

    /// How long it takes with the jobs of `ctx` on CPUs with nothing else to do: `about 5 minutes`.
    pub fn about(self, ctx: &Ctx) -> String {
        let seconds = self.seconds as usize / ctx.jobs.max(1);
        match seconds.div_ceil(60) {
            0 | 1 => "about a minute".to_string(),
            n => format!("about {n} minutes"),
        }
    }
}

impl Work {
    /// The title of a step with its time: `build x, about 5 minutes`. If `made` is there, the step has less to do,
    /// and nobody knows how much.
    pub fn title(self, ctx: &Ctx, title: &str, made: &Path) -> String {
        if made.exists() {
            title.to_string()
        } else {
            format!("{title}, {}", self.about(ctx))
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Work>>(all: I) -> Work {
        Work::seconds(all.map(|w| w.seconds).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_jobs_take_less_time() {
        let mut ctx = Ctx::new(Path::new("/"), "/cache".into());
        let title = |made: &str| Work::seconds(9).title(&ctx, "build x", Path::new(made));
        assert_eq!(title("/"), "build x");
        assert_eq!(title("/nowhere/at/all"), "build x, about a minute");
        let mut about = |seconds, jobs| {
            ctx.jobs = jobs;
            Work::seconds(seconds).about(&ctx)
        };
        assert_eq!(about(1200, 2), "about 10 minutes");
        assert_eq!(about(1201, 1), "about 21 minutes");
        assert_eq!(about(1200, 16), "about 2 minutes");
        assert_eq!(about(0, 2), "about a minute");
        let both: Work = [Work::seconds(70), Work::seconds(60)].into_iter().sum();
        assert_eq!(both, Work::seconds(130));
    }
}
