// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work that is done some pieces at a time.

use std::sync::Mutex;

use crate::{locked, Result};

/// Does `work` for every item, at most `lanes` of them at a time (at least one); the results are in
/// the order of the items.
pub fn each<T: Send, R: Send>(
    lanes: usize,
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let next = Mutex::new(items.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..lanes.max(1) {
            scope.spawn(|| loop {
                let Some((n, item)) = locked(&next).next() else {
                    return;
                };
                // Before the lock: one lane must not wait for another.
                let result = work(item);
                locked(&done).push((n, result));
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, result)| result).collect()
}

/// As [`each`], but the first error ends it: no further item is begun, and the error is the result.
pub fn try_each<T: Send, R: Send>(
    lanes: usize,
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let first = Mutex::new(None);
    let goes_on = items.into_iter().take_while(|_| locked(&first).is_none());
    let done = each(lanes, goes_on, |item| match work(item) {
        Ok(result) => Some(result),
        Err(error) => {
            locked(&first).get_or_insert(error);
            None
        }
    });
    match first.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error),
        None => Ok(done.into_iter().flatten().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Barrier;

    #[test]
    fn results_have_the_order_of_the_items() {
        let slow_first = |n: u64| {
            std::thread::sleep(std::time::Duration::from_millis(10 - n));
            n * n
        };
        assert_eq!(each(4, 0..8, slow_first), [0, 1, 4, 9, 16, 25, 36, 49]);
        assert_eq!(each(0, [3], slow_first), [9]);
        assert_eq!(each(2, [], slow_first), [0_u64; 0]);
    }

    #[test]
    fn the_first_error_ends_it() {
        let begun = AtomicUsize::new(0);
        let until_three = |n: usize| {
            begun.fetch_add(1, Ordering::SeqCst);
            anyhow::ensure!(n < 3, "{n} is too much");
            Ok(n)
        };
        assert_eq!(try_each(1, 0..3, until_three).unwrap(), [0, 1, 2]);
        let error = try_each(1, 0..9, until_three).unwrap_err();
        assert_eq!(error.to_string(), "3 is too much");
        assert_eq!(begun.into_inner(), 3 + 4);
    }

    #[test]
    fn as_many_at_a_time_as_there_are_lanes() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // Three must be there before one may leave.
        let all = Barrier::new(3);
        each(3, 0..9, |_| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            all.wait();
            now.fetch_sub(1, Ordering::SeqCst);
        });
        assert_eq!(most.into_inner(), 3);
    }
}
