//! Medians and percentiles.

use std::time::Duration;

/// The middle value; between the two middle ones if there are two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The time within which so many percent had it; of none, none.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

/// Milliseconds, to the microsecond.
pub fn millis(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1e3)
}

/// Three digits after the point are enough.
pub fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
