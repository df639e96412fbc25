//! Metric families, gathered from the modules when somebody asks, and Prometheus's text of them.

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::BTreeMap;

/// The families of one scrape, by name.
#[derive(Default)]
pub struct Families {
    families: BTreeMap<String, Family>,
}

struct Family {
    help: String,
    kind: MetricType,
    /// By labels, so that no sample stands twice.
    samples: BTreeMap<Vec<(String, String)>, Metric>,
}

impl Families {
    /// Adds a sample of a counter. The name ends with `_total`.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        self.add(name, help, MetricType::COUNTER, labels, |metric| metric.set_counter(counter));
    }

    /// Adds a sample of a counter that counts in fractions (seconds).
    pub fn counter_f64(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.add(name, help, MetricType::COUNTER, labels, |metric| metric.set_counter(counter));
    }

    /// Adds a sample of a gauge.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.add(name, help, MetricType::GAUGE, labels, |metric| metric.set_gauge(gauge));
    }

    /// Adds a histogram: upper bounds in seconds with the observations at or below each (cumulative),
    /// the sum in seconds, the count.
    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        buckets: &[(f64, u64)],
        sum: f64,
        count: u64,
    ) {
        let bucket = |(bound, cumulative): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*cumulative);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.iter().map(bucket).collect());
        histogram.set_sample_sum(sum);
        histogram.set_sample_count(count);
        self.add(name, help, MetricType::HISTOGRAM, labels, |metric| metric.set_histogram(histogram));
    }

    /// A sample with labels that were there before replaces the earlier one; one whose kind is not
    /// its family's is a defect of the module that adds it, and is left out.
    fn add(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        labels: &[(&str, &str)],
        fill: impl FnOnce(&mut Metric),
    ) {
        let family = self.families.entry(name.to_string()).or_insert_with(|| Family {
            help: help.to_string(),
            kind,
            samples: BTreeMap::new(),
        });
        debug_assert_eq!(family.kind, kind, "{name} is of two kinds");
        if family.kind != kind {
            return;
        }
        let mut key: Vec<(String, String)> =
            labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        key.sort();
        let mut metric = Metric::from_label(key.iter().map(label).collect());
        fill(&mut metric);
        family.samples.insert(key, metric);
    }

    /// The text format, version 0.0.4: families by name, samples by labels.
    pub fn text(self) -> String {
        let families: Vec<MetricFamily> = self.families.into_iter().map(family).collect();
        let mut text = String::with_capacity(16 * 1024);
        // What fails is a family without a sample or a name, and writing to a string does not.
        let _ = TextEncoder::new().encode_utf8(&families, &mut text);
        text
    }
}

fn label((name, value): &(String, String)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.clone());
    pair.set_value(value.clone());
    pair
}

fn family((name, family): (String, Family)) -> MetricFamily {
    let mut out = MetricFamily::default();
    out.set_name(name);
    out.set_help(family.help);
    out.set_field_type(family.kind);
    out.set_metric(family.samples.into_values().collect());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_sorted_and_escaped() {
        let mut families = Families::default();
        families.gauge("b_ratio", "a share", &[], 0.5);
        families.counter("a_total", "how \\ many", &[("zone", "two"), ("of", "x\"y\\z\n")], 3);
        families.counter("a_total", "how \\ many", &[("of", "é"), ("zone", "one")], 1);
        assert_eq!(
            families.text(),
            "# HELP a_total how \\\\ many\n\
             # TYPE a_total counter\n\
             a_total{of=\"x\\\"y\\\\z\\n\",zone=\"two\"} 3\n\
             a_total{of=\"é\",zone=\"one\"} 1\n\
             # HELP b_ratio a share\n\
             # TYPE b_ratio gauge\n\
             b_ratio 0.5\n"
        );
    }

    #[test]
    fn a_histogram_ends_at_infinity() {
        let mut families = Families::default();
        families.histogram("t_seconds", "time", &[("a", "b")], &[(0.005, 1), (1.0, 2)], 3.25, 4);
        let text = families.text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "t_seconds_bucket{a=\"b\",le=\"0.005\"} 1",
                "t_seconds_bucket{a=\"b\",le=\"1\"} 2",
                "t_seconds_bucket{a=\"b\",le=\"+Inf\"} 4",
                "t_seconds_sum{a=\"b\"} 3.25",
                "t_seconds_count{a=\"b\"} 4",
            ]
        );
    }

    #[test]
    fn a_sample_stands_once() {
        let mut families = Families::default();
        families.gauge("g", "h", &[("a", "1"), ("b", "2")], 1.0);
        families.gauge("g", "h", &[("b", "2"), ("a", "1")], 2.0);
        assert!(families.text().ends_with("gauge\ng{a=\"1\",b=\"2\"} 2\n"));
    }
}
