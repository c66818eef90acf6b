// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The shape of flattened page tables (FPT): modes, levels, kinds of nodes, addresses.
//!
//! This is a crate of its own because tools under MIT or Apache-2.0 link it, while the rest of the
//! core is GPL-2.0. It has the one [`Mode`], the one [`NodeKind`] and the one [`Level`] of this
//! repository.
//!
//! `addr.rs` and `geometry.rs` are compiled by the kernel as well, as modules of its `fpt_core`. This
//! file is the host's root only. It adds what the standard traits need: text and serde.

#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod geometry;

pub use geometry::{Boot, Level, Mode, NodeKind};

use core::fmt;
use core::str::FromStr;

impl Level {
    /// Every level, from the pages up.
    pub const ALL: [Level; 4] = [Level::L1, Level::L2, Level::L3, Level::L4];

    /// The level with this number.
    pub fn from_number(number: u32) -> Option<Level> {
        Level::ALL
            .into_iter()
            .find(|level| level.number() == number)
    }

    /// The level whose leaves map pages of `1 << shift` bytes.
    pub fn from_shift(shift: u32) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.shift() == shift)
    }
}

impl Mode {
    /// The kinds of nodes that the mode has, from the root down. Empty for radix.
    pub fn kinds(self) -> impl Iterator<Item = NodeKind> {
        NodeKind::ALL
            .into_iter()
            .filter(move |kind| self.flattens(*kind))
    }

    /// Does the mode have nodes below the root? Those can be detached, and they fall back span by span.
    pub fn flattens_below_root(self) -> bool {
        self.kinds().any(|kind| kind != NodeKind::Root)
    }

    /// The number of entries that a walk visits, the leaf included, where nothing fell back and the
    /// leaf is of level `leaf`.
    ///
    /// A node whose entries are below `leaf` is not there: a conventional table takes its place.
    pub fn visits(self, leaf: Level) -> usize {
        let above = self.steps().iter().filter(|step| step.level > leaf);
        above.count().saturating_add(1)
    }
}

impl Boot {
    /// Conventional tables for all processes: what other choices are compared with.
    pub const RADIX: Boot = Boot::Mode(Mode::Radix);

    /// The modes that a process may have, in the order of [`Mode::ALL`].
    pub fn modes(self) -> impl Iterator<Item = Mode> {
        Mode::ALL.into_iter().filter(move |mode| self.offers(*mode))
    }

    /// The kinds of nodes that may come, from the root down. Empty for radix.
    pub fn kinds(self) -> impl Iterator<Item = NodeKind> {
        NodeKind::ALL
            .into_iter()
            .filter(move |kind| self.allows(*kind))
    }

    /// The kinds of nodes that come without a process asking for them, from the root down.
    ///
    /// Under mixed, roots and L3+L2 nodes would have to be decided on while a process is small.
    pub fn kinds_unasked(self) -> impl Iterator<Item = NodeKind> {
        self.kinds()
            .filter(move |kind| self != Boot::Mixed || *kind == NodeKind::Bottom)
    }

    /// May there be nodes below the root? Those can be detached, and they fall back span by span.
    pub fn flattens_below_root(self) -> bool {
        self.kinds().any(|kind| kind != NodeKind::Root)
    }
}

impl From<Mode> for Boot {
    fn from(mode: Mode) -> Boot {
        Boot::Mode(mode)
    }
}

/// The name, padded as the format asks.
impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name, padded as the format asks.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name as in debugfs, padded as the format asks.
impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no mode.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct UnknownMode;

impl fmt::Display for UnknownMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no mode of this name; one of:")?;
        for (n, mode) in Mode::ALL.into_iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma} {mode}")?;
        }
        Ok(())
    }
}

impl core::error::Error for UnknownMode {}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(word: &str) -> Result<Mode, UnknownMode> {
        Mode::from_str_bytes(word.as_bytes()).ok_or(UnknownMode)
    }
}

/// A word that names no boot choice.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct UnknownBoot;

impl fmt::Display for UnknownBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UnknownMode}, {}", Boot::Mixed)
    }
}

impl core::error::Error for UnknownBoot {}

impl FromStr for Boot {
    type Err = UnknownBoot;

    fn from_str(word: &str) -> Result<Boot, UnknownBoot> {
        Boot::from_str_bytes(word.as_bytes()).ok_or(UnknownBoot)
    }
}

#[cfg(feature = "serde")]
mod text {
    //! In data formats a mode, or a boot choice, is its name, and a level its number.

    use super::{Boot, Level, Mode};
    use core::fmt;
    use core::marker::PhantomData;
    use core::str::FromStr;
    use serde::de::{Deserialize, Deserializer, Error, Visitor};
    use serde::ser::{Serialize, Serializer};

    impl Serialize for Mode {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_str(self.name())
        }
    }

    impl Serialize for Boot {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_str(self.name())
        }
    }

    impl Serialize for Level {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_u32(self.number())
        }
    }

    struct Name<T>(PhantomData<T>);

    impl<T: FromStr> Visitor<'_> for Name<T>
    where
        T::Err: fmt::Display,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of a mode")
        }

        fn visit_str<E: Error>(self, word: &str) -> Result<T, E> {
            word.parse()
                .map_err(|why| E::custom(format_args!("mode '{word}': {why}")))
        }
    }

    impl<'de> Deserialize<'de> for Mode {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Mode, D::Error> {
            from.deserialize_str(Name(PhantomData))
        }
    }

    impl<'de> Deserialize<'de> for Boot {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Boot, D::Error> {
            from.deserialize_str(Name(PhantomData))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn a_name_is_parsed_to_its_mode_and_nothing_else_is() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        for word in ["", "L3L2", "l3l2 ", "l2l1", "l4l3_l2l1"] {
            assert_eq!(word.parse::<Mode>(), Err(UnknownMode), "{word}");
        }
        assert!(UnknownMode
            .to_string()
            .ends_with("radix, l4l3, l3l2, l4l3-l2l1"));
    }

    #[test]
    fn a_boot_choice_is_a_mode_or_mixed() {
        for (n, boot) in (0..).zip(Boot::ALL) {
            assert_eq!((boot.as_u8(), Boot::from_u8(n)), (n, Some(boot)));
            assert_eq!(boot.to_string().parse(), Ok(boot));
            assert_eq!(boot.mode().map(Boot::from), boot.mode().and(Some(boot)));
        }
        assert_eq!((Boot::from_u8(5), Boot::from_u8(255)), (None, None));
        assert_eq!("mixed".parse(), Ok(Boot::Mixed));
        for word in ["", "Mixed", "mixed ", "mix", "auto", "eager"] {
            assert_eq!(word.parse::<Boot>(), Err(UnknownBoot), "{word}");
        }
        assert!(UnknownBoot.to_string().ends_with("l4l3-l2l1, mixed"));
        let policies = Boot::ALL.map(Boot::policy_name);
        assert_eq!(policies, ["eager", "eager", "eager", "eager", "auto"]);
    }

    #[test]
    fn modes_of_processes_by_boot_choice() {
        let modes = |boot: Boot| boot.modes().collect::<Vec<_>>();
        assert_eq!(modes(Boot::Mixed), Mode::ALL);
        assert_eq!(modes(Mode::Radix.into()), [Mode::Radix]);
        assert_eq!(modes(Mode::L3L2.into()), [Mode::Radix, Mode::L3L2]);
        assert_eq!(
            modes(Mode::L4L3L2L1.into()),
            [Mode::Radix, Mode::L4L3, Mode::L4L3L2L1]
        );
        for mode in Mode::ALL {
            let kinds = Boot::from(mode).kinds().collect::<Vec<_>>();
            assert_eq!(kinds, mode.kinds().collect::<Vec<_>>());
        }
        assert_eq!(Boot::Mixed.kinds().collect::<Vec<_>>(), NodeKind::ALL);
        let unasked = |boot: Boot| boot.kinds_unasked().collect::<Vec<_>>();
        assert_eq!(unasked(Boot::Mixed), [NodeKind::Bottom]);
        let both = [NodeKind::Root, NodeKind::Bottom];
        assert_eq!(unasked(Mode::L4L3L2L1.into()), both);
        let below = Boot::ALL.map(Boot::flattens_below_root);
        assert_eq!(below, [false, false, true, true, true]);
    }

    #[test]
    fn levels_by_number() {
        let levels = [0, 1, 2, 3, 4, 5].map(Level::from_number);
        assert_eq!((levels[0], levels[5]), (None, None));
        assert_eq!(levels[1..5], Level::ALL.map(Some));
        for (shift, level) in [(12, Some(Level::L1)), (21, Some(Level::L2)), (22, None)] {
            assert_eq!(Level::from_shift(shift), level);
        }
    }

    #[test]
    fn names_are_padded() {
        assert_eq!(
            std::format!("{:<7}|{:>5}", Mode::L3L2, NodeKind::Mid),
            "l3l2   |  mid"
        );
    }

    #[test]
    fn kinds_of_each_mode() {
        let kinds = |mode: Mode| mode.kinds().collect::<Vec<_>>();
        assert_eq!(kinds(Mode::Radix), []);
        assert_eq!(kinds(Mode::L4L3), [NodeKind::Root]);
        assert_eq!(kinds(Mode::L3L2), [NodeKind::Mid]);
        assert_eq!(kinds(Mode::L4L3L2L1), [NodeKind::Root, NodeKind::Bottom]);
        assert_eq!(
            Mode::ALL.map(Mode::flattens_below_root),
            [false, false, true, true]
        );
    }

    #[test]
    fn visits_of_each_mode() {
        let visits = |leaf| Mode::ALL.map(|mode| mode.visits(leaf));
        assert_eq!(visits(Level::L1), [4, 3, 3, 2]);
        assert_eq!(visits(Level::L2), [3, 2, 2, 2]);
    }
}
