//! Metric families, gathered from the modules when somebody asks.

/// The families of one scrape.
#[derive(Default)]
pub struct Families {}

impl Families {
    /// Adds a sample of a counter.
    pub fn counter(&mut self, _name: &str, _help: &str, _labels: &[(&str, &str)], _value: u64) {}

    /// Adds a sample of a gauge.
    pub fn gauge(&mut self, _name: &str, _help: &str, _labels: &[(&str, &str)], _value: f64) {}

    /// Adds a histogram: upper bounds in seconds with the observations at or below each (cumulative),
    /// the sum in seconds, the count.
    pub fn histogram(
        &mut self,
        _name: &str,
        _help: &str,
        _labels: &[(&str, &str)],
        _buckets: &[(f64, u64)],
        _sum: f64,
        _count: u64,
    ) {
    }
}
