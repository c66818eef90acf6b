// SPDX-License-Identifier: GPL-2.0

//! The policy over small domains: each answer as a list of conditions that is written independently.

use fpt_core::geometry::*;
use fpt_core::policy::*;

/// A budget that allows everything.
const PLENTY: Budget = Budget {
    resident: u64::MAX,
    wasted: 0,
    permille: 1000,
    wasted_by_all: 0,
    cap: u64::MAX,
};

/// Pairs of a number and a limit.
const LEVELS: [(u64, u64); 6] = [
    (4, 5),
    (5, 5),
    (6, 5),
    (0, 0),
    (u64::MAX, u64::MAX),
    (0, u64::MAX),
];

/// What a parent has: its choice, nodes and slices.
const PARENTS: [(Option<Choice>, u32, u32); 6] = [
    (None, 0, 0),
    (None, 8, 15),
    (Some(Choice::Flat), 7, 15),
    (Some(Choice::Flat), 8, 15),
    (Some(Choice::Flat), 8, 16),
    (Some(Choice::Radix), 8, 15),
];

/// Facts of every mode, kind, policy, parent and cap.
fn all_facts(mut f: impl FnMut(SpanFacts)) {
    for mode in Mode::ALL {
        for kind in NodeKind::ALL {
            for policy in Policy::ALL {
                for parent in PARENTS {
                    for excluded in [false, true] {
                        for mine in LEVELS {
                            for all in LEVELS {
                                f(SpanFacts {
                                    mode,
                                    kind,
                                    policy,
                                    min_span: 0,
                                    mm_total_vm: 0,
                                    vma_excluded: excluded,
                                    mm_flat_nodes: mine.0,
                                    mm_cap: mine.1,
                                    global_flat_nodes: all.0,
                                    global_cap: all.1,
                                    parent_choice: parent.0,
                                    parent_nodes: parent.1,
                                    parent_slices: parent.2,
                                    below_slices: 0,
                                    locked: false,
                                    budget: PLENTY,
                                });
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What each answer of [`decide`] needs, told as a list of conditions against.
fn expected(f: &SpanFacts, affordable: bool) -> Decision {
    let auto = f.policy == Policy::Auto;
    let dense = match f.parent_choice {
        None => f.locked || f.below_slices >= 256,
        Some(_) => f.parent_slices >= 16,
    };
    let small = f.parent_choice.is_none() && f.policy == Policy::Size && f.mm_total_vm < f.min_span;
    let against = [
        (!f.mode.flattens(f.kind), Reason::NotInMode),
        (f.vma_excluded, Reason::VmaExcluded),
        (f.global_flat_nodes >= f.global_cap, Reason::GlobalCap),
        (f.mm_flat_nodes >= f.mm_cap, Reason::MmCap),
        (f.parent_choice == Some(Choice::Radix), Reason::ParentRadix),
        (small, Reason::BelowMinSpan),
        (
            auto && (!dense || f.kind != NodeKind::Bottom),
            Reason::TooSparse,
        ),
        (auto && !affordable, Reason::OverBudget),
    ];
    let sparse = f.parent_choice.is_some() && f.parent_nodes >= 8 && f.parent_slices < 16;
    match against.iter().find(|(no, _)| *no) {
        Some((_, why)) => Decision::Conventional(*why),
        None if !auto && sparse => Decision::Recycle,
        None => Decision::Flatten,
    }
}

/// For every combination of facts, the decision is the expected one, and each comes up.
#[test]
fn policy_is_total_and_as_specified() {
    let mut decisions = [0u32; Reason::COUNT + 2];
    let mut ask = |f: SpanFacts, affordable: bool| {
        let got = decide(&f);
        assert_eq!(got, expected(&f, affordable), "{f:?}");
        decisions[match got {
            Decision::Flatten => Reason::COUNT,
            Decision::Recycle => Reason::COUNT + 1,
            Decision::Conventional(why) => why.index(),
        }] += 1;
    };
    all_facts(|facts| {
        for (mm_total_vm, min_span) in LEVELS {
            let f = SpanFacts {
                mm_total_vm,
                min_span,
                ..facts
            };
            ask(f, true);
            if f.policy != Policy::Auto {
                // What only auto looks at changes nothing.
                let budget = Budget { cap: 0, ..PLENTY };
                let (below_slices, locked) = (512, true);
                let other = SpanFacts {
                    below_slices,
                    locked,
                    budget,
                    ..f
                };
                assert_eq!(decide(&other), decide(&f));
            }
        }
    });
    // Under auto: the neighbour, locked memory and the budget, to the page.
    let budgets = [(511, false), (512, true)].map(|(room, yes)| {
        let resident = room * 200 + 200 * 7;
        let (wasted, permille) = (7, 5);
        let mine = Budget {
            resident,
            wasted,
            permille,
            ..PLENTY
        };
        let cap = 1000 + room;
        let all = Budget {
            wasted_by_all: 1000,
            cap,
            ..PLENTY
        };
        [(mine, yes), (all, yes)]
    });
    all_facts(|facts| {
        for below_slices in [0, 255, 256, 512, u32::MAX] {
            for (budget, affordable) in budgets.iter().flatten() {
                for locked in [false, true] {
                    let (policy, budget) = (Policy::Auto, *budget);
                    let f = SpanFacts {
                        policy,
                        below_slices,
                        locked,
                        budget,
                        ..facts
                    };
                    ask(f, *affordable);
                }
            }
        }
    });
    assert!(decisions.iter().all(|n| *n > 0), "{decisions:?}");
}

/// Numbers and names that others have, too.
#[test]
fn names_and_numbers() {
    for (i, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(reason.index(), i);
    }
    assert_eq!(Policy::ALL.map(Policy::name), ["eager", "size", "auto"]);
    for (n, policy) in (0..).zip(Policy::ALL) {
        let name = policy.name().as_bytes();
        assert_eq!(Policy::from_str_bytes(name), Some(policy));
        assert_eq!(
            (policy as u8, Policy::from_u8(n)),
            (n, Some(policy)),
            "{policy:?}"
        );
    }
    assert!((3..=255).all(|n| Policy::from_u8(n).is_none()));
    for bad in [&b""[..], b"never", b"Auto", b"auto ", b"mixed"] {
        assert_eq!(Policy::from_str_bytes(bad), None);
    }
}

#[test]
fn caps_in_nodes() {
    assert_eq!(cap_nodes(0, 50), 0);
    assert_eq!(cap_nodes(2 << 30, 0), 0);
    assert_eq!(cap_nodes(2 << 30, 100), 1023);
    assert_eq!(cap_nodes(2 << 30, 1000), cap_nodes(2 << 30, 100));
    for percent in 0..=100 {
        let exact = ((2u64 << 30) * percent / 100) >> 21;
        assert!(exact - cap_nodes(2 << 30, percent) <= 1);
        assert!(cap_nodes(u64::MAX, percent) <= u64::MAX >> 21);
    }
}

/// Is `a * b <= c * d`, exactly?
fn product_le(a: u64, b: u64, c: u64, d: u64) -> bool {
    u128::from(a) * u128::from(b) <= u128::from(c) * u128::from(d)
}

/// Over every small budget.
#[test]
fn small_budgets_are_exact() {
    let mut answers = [0u32; 4];
    for resident in (0..=3).chain([199, 200, 201, 400]) {
        for permille in [0, 1, 5, 333, 1000, 1001, 5000] {
            for wasted in 0..=5u64 {
                for more in 0..=5u64 {
                    for wasted_by_all in 0..=4u64 {
                        for cap in 0..=6u64 {
                            let b = Budget {
                                resident,
                                wasted,
                                permille,
                                wasted_by_all,
                                cap,
                            };
                            let mine = (wasted + more) * 1000 <= resident * permille;
                            let all = wasted_by_all + more <= cap;
                            assert_eq!(b.allows(more), mine && all, "{b:?} {more}");
                            let twice = wasted * 1000 > 2 * resident * permille;
                            assert_eq!(b.overdrawn(), twice, "{b:?}");
                            answers[usize::from(mine) * 2 + usize::from(all)] += 1;
                            // What is overdrawn allows nothing more.
                            assert!(!(twice && b.allows(more)));
                        }
                    }
                }
            }
        }
    }
    assert!(answers.iter().all(|n| *n > 0), "{answers:?}");
}

/// Numbers that do not fit: what cannot be computed is not allowed.
#[test]
fn large_budgets_do_not_wrap() {
    const MAX: u64 = u64::MAX;
    let numbers = [
        0,
        1,
        5,
        512,
        1000,
        1 << 32,
        MAX / 1000,
        MAX / 1000 + 1,
        MAX / 500,
        MAX / 500 + 1,
        1 << 63,
        MAX - 1,
        MAX,
    ];
    for resident in numbers {
        for permille in numbers {
            for wasted in numbers {
                let b = Budget {
                    resident,
                    wasted,
                    permille,
                    wasted_by_all: 0,
                    cap: MAX,
                };
                for more in numbers {
                    let sum = wasted.checked_add(more).filter(|n| *n <= MAX / 1000);
                    let want = sum.is_some_and(|n| product_le(n, 1000, resident, permille));
                    assert_eq!(b.allows(more), want, "{b:?} {more}");
                }
                let fits = wasted <= MAX / 500;
                let want = !fits || !product_le(wasted, 500, resident, permille);
                assert_eq!(b.overdrawn(), want, "{b:?}");
            }
        }
    }
    for wasted_by_all in numbers {
        for cap in numbers {
            for more in [0, 1, 512] {
                let b = Budget {
                    wasted_by_all,
                    cap,
                    ..PLENTY
                };
                // The largest cap is none.
                let exact = wasted_by_all.checked_add(more).is_some_and(|n| n <= cap);
                assert_eq!(b.allows(more), exact || cap == MAX, "{b:?} {more}");
            }
        }
    }
}

/// Each answer of [`decide_promotion`] has its condition, which excludes the others.
#[test]
fn promotion_is_as_specified() {
    let mut counts = [0u32; 6];
    // How many slices more may lie unused.
    for room in [0u64, 1, 256, 496, 497, 512] {
        let (resident, permille) = (1000 * (room + 3), 1);
        let wasted = 3;
        let budget = Budget {
            resident,
            wasted,
            permille,
            ..PLENTY
        };
        for tables in (0..=SLICES).chain([SLICES + 1, u32::MAX]) {
            for leaves in [0, 1, 512] {
                for n in 0..8 {
                    let [attached, hugetlb, wants_huge] = [1, 2, 4].map(|bit| n & bit != 0);
                    for rest in [Rest::None, Rest::Short, Rest::Long] {
                        let f = PromotionFacts {
                            tables,
                            leaves,
                            attached,
                            hugetlb,
                            wants_huge,
                            rest,
                            budget,
                        };
                        let small = leaves == 0 && !hugetlb;
                        let enough = attached || tables >= 16;
                        let rested = rest == Rest::Long || (rest == Rest::None && !wants_huge);
                        // All slices, until the last table has moved.
                        let paid = attached || room >= 512;
                        let want = [
                            small && enough && rested && paid,
                            small && enough && rest == Rest::Short,
                            !hugetlb
                                && (leaves > 0 || (enough && rest == Rest::None && wants_huge)),
                            small && !enough,
                            small && enough && rested && !paid,
                            hugetlb,
                        ];
                        assert_eq!(want.iter().filter(|yes| **yes).count(), 1);
                        let got = decide_promotion(&f);
                        assert!(want[got as usize], "{f:?}: {got:?}");
                        counts[got as usize] += 1;
                    }
                }
            }
        }
    }
    assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
    let rests = [Rest::None, Rest::Short, Rest::Long];
    for (n, rest) in (0..).zip(rests) {
        assert_eq!((rest as u8, Rest::from_u8(n)), (n, Some(rest)));
    }
    assert!((3..=255).all(|n| Rest::from_u8(n).is_none()));
}

/// What a process may ask for, of each kernel.
#[test]
fn requests_by_boot_choice() {
    use Mode::*;
    let system = Request::System;
    let all = [
        system,
        Request::Mode(Radix),
        Request::Mode(L4L3),
        Request::Mode(L3L2),
        Request::Mode(L4L3L2L1),
        Request::Auto,
    ];
    assert_eq!(all.len(), usize::from(Request::COUNT));
    for n in 0..=255u8 {
        assert_eq!(Request::from_u8(n), all.get(usize::from(n)).copied());
    }
    // Possible ones, by number, and the mode of who asks for nothing, or for auto.
    let boots = [
        (Boot::Mode(Radix), &[0u8, 1][..], Radix),
        (Boot::Mode(L4L3), &[0, 1, 2], L4L3),
        (Boot::Mode(L3L2), &[0, 1, 3], L3L2),
        (Boot::Mode(L4L3L2L1), &[0, 1, 2, 4, 5], L4L3L2L1),
        (Boot::Mixed, &[0, 1, 2, 3, 4, 5], L4L3L2L1),
    ];
    assert_eq!(boots.map(|b| b.0), Boot::ALL);
    for (boot, possible, mode) in boots {
        for (n, request) in (0..).zip(all) {
            assert_eq!(request.possible(boot), possible.contains(&n), "{boot}");
            let want = match request {
                Request::Mode(own) => own,
                Request::System | Request::Auto => mode,
            };
            assert_eq!(request.mode(boot), want);
            if request.possible(boot) {
                assert!(boot.offers(request.mode(boot)), "{boot} {request:?}");
            }
            for policy in Policy::ALL {
                let want = match request {
                    Request::System => policy,
                    Request::Mode(_) => Policy::Eager,
                    Request::Auto => Policy::Auto,
                };
                assert_eq!(request.policy(policy), want);
            }
        }
        assert_eq!(Policy::of_boot(boot).name(), boot.policy_name());
    }
}
