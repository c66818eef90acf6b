// SPDX-License-Identifier: MIT OR Apache-2.0
//! What several runs say about all runs that could have been: intervals of the mean.

/// Student's t for 95 % between -t and t, by degrees of freedom from 1 on.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// From so many runs on a figure has the interval that a claim wants.
pub const ENOUGH: u32 = 5;

/// From which to which value the mean is with 95 % confidence, if values scatter normally. Nothing of one value.
pub fn interval(values: &[f64]) -> Option<(f64, f64)> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let deviation = (square / (n - 1) as f64).sqrt();
    // Beyond the table t is smaller still, so that the interval is rather too wide.
    let t = T.get(n - 2).or(T.last()).copied().unwrap_or(f64::INFINITY);
    let half = t * deviation / (n as f64).sqrt();
    Some((mean - half, mean + half))
}

/// Does an interval of ratios hold 1? Then the runs show no change.
pub fn shows_nothing(interval: Option<(f64, f64)>) -> bool {
    interval.is_some_and(|(low, high)| low <= 1.0 && high >= 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_intervals() {
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[1.0]), None);
        assert_eq!(interval(&[2.0, 2.0, 2.0]), Some((2.0, 2.0)));
        // Mean 2, deviation 1: 4.303 / sqrt 3 on each side.
        let (low, high) = interval(&[1.0, 2.0, 3.0]).unwrap();
        assert!((low - (2.0 - 2.4843)).abs() < 1e-3 && (high - (2.0 + 2.4843)).abs() < 1e-3);
        let many: Vec<f64> = (0..100).map(|n| f64::from(n % 2)).collect();
        let (low, high) = interval(&many).unwrap();
        assert!((low - 0.397).abs() < 0.001 && (high - 0.603).abs() < 0.001);
        assert!(T.windows(2).all(|t| t[0] > t[1]));
    }

    #[test]
    fn zero_change_is_no_change() {
        assert!(shows_nothing(Some((0.99, 1.01))));
        assert!(!shows_nothing(Some((0.97, 0.99))));
        // One run says what it says.
        assert!(!shows_nothing(None));
    }
}
