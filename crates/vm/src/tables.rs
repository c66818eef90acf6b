// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which page tables a kernel is asked for: the words of its command line, and how tools say it.

use fpt_geometry::Boot;

/// The word of the kernel's command line that overrides the policy.
const POLICY: &str = "fpt.policy=";

/// The words of the kernel's command line that select the boot choice and its policy.
pub fn kernel_args(boot: Boot) -> String {
    format!("fpt={boot} {POLICY}{}", boot.policy_name())
}

/// The policy of a guest. Further words of the kernel's command line may name another than comes
/// with the boot choice; the last one counts.
pub fn policy(boot: Boot, append: &[String]) -> &str {
    let words = append.iter().flat_map(|words| words.split_whitespace());
    let asked = words
        .filter_map(|word| word.strip_prefix(POLICY))
        .next_back();
    asked.unwrap_or(boot.policy_name())
}

/// What a guest has, as tools print it.
pub fn described(boot: Boot, append: &[String]) -> String {
    format!("mode {boot}, policy {}", policy(boot, append))
}

/// The same of several guests.
pub fn all_described<B: Copy + Into<Boot>>(boots: &[B], append: &[String]) -> String {
    let each = boots.iter().map(|boot| described((*boot).into(), append));
    each.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fpt_geometry::Mode;

    #[test]
    fn the_policy_is_told_as_the_kernel_will_have_it() {
        assert_eq!(kernel_args(Boot::Mixed), "fpt=mixed fpt.policy=auto");
        let l3l2 = Boot::Mode(Mode::L3L2);
        assert_eq!(kernel_args(l3l2), "fpt=l3l2 fpt.policy=eager");
        let told = |append: &[&str]| {
            let append: Vec<String> = append.iter().map(|a| a.to_string()).collect();
            described(l3l2, &append)
        };
        assert_eq!(told(&["quiet"]), "mode l3l2, policy eager");
        assert_eq!(
            told(&["fpt.policy=auto x", "y fpt.policy=size"]),
            "mode l3l2, policy size"
        );
        assert_eq!(
            all_described(&[l3l2, Boot::Mixed], &[]),
            "mode l3l2, policy eager; mode mixed, policy auto"
        );
    }
}
