//! One configuration with its requests, played on both servers.

use super::asks::{DIRS, FILES};
use super::tree::{Node, render};
use crate::case::{Case, Parts, Reply, Request, Step};
use crate::server::{self, Binary};
use crate::transcript::Transcript;

/// What is played.
#[derive(Clone)]
pub struct Trial {
    pub http: Vec<Node>,
    pub files: Vec<String>,
    /// What the upstream answers.
    pub replies: Vec<Reply>,
    pub requests: Vec<Request>,
}

/// How the two servers differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Difference {
    /// In the answer to this request, or in its line of the access log.
    At(usize),
    /// Ours refuses a configuration that nginx takes.
    Refused,
    /// Ours takes a configuration that nginx refuses.
    Taken,
}

/// What came of a trial.
pub enum Outcome {
    Same,
    /// Both refuse the configuration.
    BothRefuse(String),
    /// With what each did.
    Differs(Difference, String),
    /// Something is wrong with the trial or the machine.
    Broken(String),
}

impl Trial {
    /// As a case; what nginx answered stands as its statuses, if that is known.
    fn case(&self) -> Case {
        let mut files: Vec<(String, Vec<u8>)> = vec![];
        for name in &self.files {
            files.push((name.clone(), format!("{name}\n").into_bytes()));
        }
        Case {
            name: "random".into(),
            title: "random".into(),
            confs: vec![Parts { http: render(&self.http), ..Parts::default() }],
            files,
            replies: self.replies.clone(),
            dirs: DIRS.iter().map(|d| (*d).to_owned()).collect(),
            script: self.requests.iter().cloned().map(Step::Request).collect(),
            ..Case::default()
        }
    }

    /// Plays it on both.
    pub fn run(&self, nginx: &Binary, ours: &Binary) -> Outcome {
        if !crate::random::tree::render(&self.http).contains("{{listen}}") {
            return Outcome::Broken("nothing listens".into());
        }
        let case = self.case();
        let dir = match tempfile::Builder::new().prefix("parity").tempdir() {
            Ok(dir) => dir,
            Err(e) => return Outcome::Broken(e.to_string()),
        };
        let (theirs, mine) = std::thread::scope(|scope| {
            let theirs = scope.spawn(|| server::run(&case, nginx, &dir.path().join("a")));
            let mine = server::run(&case, ours, &dir.path().join("b"));
            (theirs.join().expect("the nginx side does not panic"), mine)
        });
        let refused = |why: &str| why.contains("it ended (");
        match (theirs, mine) {
            (Ok(theirs), Ok(mine)) => self.compare(&theirs, &mine),
            (Err(a), Err(b)) if refused(&a) && refused(&b) => Outcome::BothRefuse(a),
            (Ok(_), Err(why)) if refused(&why) => Outcome::Differs(Difference::Refused, why),
            (Err(why), Ok(_)) if refused(&why) => Outcome::Differs(Difference::Taken, why),
            (Err(why), _) | (_, Err(why)) => Outcome::Broken(why),
        }
    }

    /// The first request whose answers or log lines differ.
    fn compare(&self, theirs: &Transcript, mine: &Transcript) -> Outcome {
        let (a, b) = (Parted::of(theirs), Parted::of(mine));
        for n in 0..self.requests.len() {
            if a.steps.get(n) != b.steps.get(n) || a.logged(self, n) != b.logged(self, n) {
                let show = |parted: &Parted| {
                    let mut lines = parted.steps.get(n).cloned().unwrap_or_default();
                    lines.extend(parted.logged(self, n));
                    lines
                };
                return Outcome::Differs(Difference::At(n), changes(&show(&a), &show(&b)));
            }
        }
        if a.rest() == b.rest() {
            Outcome::Same
        } else {
            let all = self.requests.len().saturating_sub(1);
            Outcome::Differs(Difference::At(all), changes(&a.rest(), &b.rest()))
        }
    }

    /// The text of a case file that shows the difference.
    pub fn case_text(&self, title: &str, statuses: &[String]) -> String {
        let mut text = format!("title: {title}\n\n--- http\n{}", render(&self.http));
        for name in &self.files {
            text.push_str(&format!("--- file {name}\n{name}\n"));
        }
        for reply in &self.replies {
            text.push_str(&format!("--- upstream {}\n{}", reply.path, reply.text));
        }
        text.push_str("--- script\n");
        for (n, request) in self.requests.iter().enumerate() {
            let status = statuses.get(n).map_or("?", String::as_str);
            text.push_str(&format!("{} {} = {status}\n", request.method, request.target));
            for (name, value) in &request.headers {
                text.push_str(&format!("  {name}: {value}\n"));
            }
            let options = &request.options;
            let mut words = vec![];
            if let Some(conn) = options.conn.as_ref().filter(|_| self.requests.len() > 1) {
                words.push(format!("conn={conn} reopen"));
            }
            words.extend(options.version.as_ref().map(|v| format!("http={v}")));
            words.extend(options.body.as_ref().map(|b| format!("body={}", String::from_utf8_lossy(b))));
            if !words.is_empty() {
                text.push_str(&format!("  @ {}\n", words.join(" ")));
            }
        }
        text
    }

    /// The statuses that nginx answers with.
    pub fn statuses(&self, nginx: &Binary) -> Vec<String> {
        let Ok(dir) = tempfile::Builder::new().prefix("parity").tempdir() else { return vec![] };
        server::run(&self.case(), nginx, &dir.path().join("a")).map(|t| t.statuses).unwrap_or_default()
    }
}

/// What differs, and the lines that say where.
fn changes(a: &[String], b: &[String]) -> String {
    let diff = crate::compare::diff(a, b);
    let tells =
        |line: &&str| !line.starts_with("  ") || line.starts_with("  > ") || line.starts_with("  < HTTP");
    diff.lines().filter(tells).collect::<Vec<_>>().join("\n")
}

/// All files of the document root.
pub fn all_files() -> Vec<String> {
    FILES.iter().map(|f| (*f).to_owned()).collect()
}

/// A transcript in its parts.
struct Parted {
    /// For each step its lines.
    steps: Vec<Vec<String>>,
    /// Lines of the access log: `log N …`.
    log: Vec<String>,
}

impl Parted {
    fn of(transcript: &Transcript) -> Parted {
        let mut parted = Parted { steps: vec![], log: vec![] };
        for line in &transcript.lines {
            if line.starts_with("> ") {
                parted.steps.push(vec![]);
            }
            if line.starts_with("log ") {
                parted.log.push(line.clone());
            } else if let Some(last) = parted.steps.last_mut() {
                last.push(line.clone());
            }
        }
        parted
    }

    /// The log lines of request `n`.
    fn logged(&self, trial: &Trial, n: usize) -> Vec<String> {
        let number =
            trial.requests[n].headers.iter().find(|(name, _)| name == "X-N").map(|(_, v)| v.as_str());
        let Some(number) = number else { return vec![] };
        let prefix = format!("log {number} ");
        self.log.iter().filter(|l| l.starts_with(&prefix)).cloned().collect()
    }

    /// Lines of the log that say no number.
    fn rest(&self) -> Vec<String> {
        let mut rest: Vec<String> = self.log.iter().filter(|l| l.starts_with("log - ")).cloned().collect();
        rest.sort();
        rest
    }
}
