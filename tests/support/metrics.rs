//! Reads what a server says about itself: `stub_status` and Prometheus' text format.
use std::collections::BTreeMap;

/// The numbers of a `stub_status` page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StubStatus {
    pub active: u64,
    pub accepts: u64,
    pub handled: u64,
    pub requests: u64,
    pub reading: u64,
    pub writing: u64,
    pub waiting: u64,
}

impl StubStatus {
    /// Reads the page; panics unless it is exactly in nginx's format.
    pub fn parse(page: &str) -> Self {
        let shape = regex::Regex::new(
            "^Active connections: (\\d+) \n\
             server accepts handled requests\n \
             (\\d+) (\\d+) (\\d+) \n\
             Reading: (\\d+) Writing: (\\d+) Waiting: (\\d+) \n$",
        )
        .unwrap();
        let found = shape.captures(page).unwrap_or_else(|| panic!("not a stub_status page: {page:?}"));
        let number = |group: usize| found[group].parse().unwrap();
        Self {
            active: number(1),
            accepts: number(2),
            handled: number(3),
            requests: number(4),
            reading: number(5),
            writing: number(6),
            waiting: number(7),
        }
    }
}

/// One line of a Prometheus page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A Prometheus page in text format 0.0.4.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub samples: Vec<Sample>,
    /// The TYPE of each family.
    pub types: BTreeMap<String, String>,
}

impl Metrics {
    /// Reads the page; panics at a line that is not in the format.
    pub fn parse(page: &str) -> Self {
        let mut metrics = Self::default();
        for line in page.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                metrics.types.insert(name.into(), kind.into());
            } else if !line.starts_with('#') {
                metrics.samples.push(sample(line));
            }
        }
        metrics
    }

    /// The sum of the samples of `name` that have all of `labels`; none if there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        let values: Vec<_> = self.samples.iter().filter(wanted).map(|s| s.value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

fn sample(line: &str) -> Sample {
    let shape = regex::Regex::new(r#"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: -?\d+)?$"#).unwrap();
    let label = regex::Regex::new(r#"([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?"#).unwrap();
    let found = shape.captures(line).unwrap_or_else(|| panic!("not a sample: {line:?}"));
    let inside = found.get(2).map_or("", |group| group.as_str());
    let labels: BTreeMap<_, _> =
        label.captures_iter(inside).map(|pair| (pair[1].to_string(), unescape(&pair[2]))).collect();
    let length: usize = label.find_iter(inside).map(|pair| pair.len()).sum();
    assert_eq!(length, inside.len(), "labels are malformed: {line:?}");
    Sample {
        name: found[1].to_string(),
        labels,
        value: match &found[3] {
            "+Inf" => f64::INFINITY,
            "-Inf" => f64::NEG_INFINITY,
            number => number.parse().unwrap_or_else(|_| panic!("not a value: {line:?}")),
        },
    }
}

fn unescape(value: &str) -> String {
    value.replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\")
}
