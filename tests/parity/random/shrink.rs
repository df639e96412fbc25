//! Makes a trial that shows a difference small: fewer requests, directives, words, headers and files.

use super::tree;
use super::trial::{Difference, Outcome, Trial};
use crate::server::Binary;

/// How many trials may be made for one difference.
const TRIALS: usize = 600;

/// A smaller trial that still differs in the same manner, and how.
pub fn shrink(trial: Trial, kind: Difference, nginx: &Binary, ours: &Binary) -> (Trial, String) {
    let mut shrinker = Shrinker { best: trial, said: String::new(), kind, left: TRIALS, nginx, ours };
    shrinker.requests();
    while shrinker.nodes() | shrinker.words() | shrinker.headers() {}
    shrinker.files();
    shrinker.replies();
    (shrinker.best, shrinker.said)
}

struct Shrinker<'a> {
    best: Trial,
    /// What the servers did.
    said: String,
    kind: Difference,
    left: usize,
    nginx: &'a Binary,
    ours: &'a Binary,
}

impl Shrinker<'_> {
    /// Takes the candidate if it still differs.
    fn try_out(&mut self, candidate: Trial) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let Outcome::Differs(kind, said) = candidate.run(self.nginx, self.ours) else { return false };
        let alike = match (kind, self.kind) {
            (Difference::At(_), Difference::At(_)) => true,
            (a, b) => a == b,
        };
        if alike {
            self.kind = kind;
            self.said = said;
            self.best = candidate;
        }
        alike
    }

    /// The one request, or the fewest before it that are needed.
    fn requests(&mut self) {
        let Difference::At(at) = self.kind else {
            self.best.requests.clear();
            let candidate = self.best.clone();
            self.try_out(candidate);
            return;
        };
        let mut candidate = self.best.clone();
        candidate.requests = vec![self.best.requests[at].clone()];
        if self.try_out(candidate) {
            return;
        }
        let mut candidate = self.best.clone();
        candidate.requests.truncate(at + 1);
        self.try_out(candidate);
        let mut size = self.best.requests.len() / 2;
        while size > 0 {
            let mut from = 0;
            while from + size < self.best.requests.len() {
                let mut candidate = self.best.clone();
                candidate.requests.drain(from..from + size);
                if !self.try_out(candidate) {
                    from += size;
                }
            }
            size /= 2;
        }
    }

    /// Leaves out nodes, the outer ones first; whether that helped.
    fn nodes(&mut self) -> bool {
        let mut helped = false;
        let mut n = 0;
        loop {
            let places = tree::places(&self.best.http);
            let Some(place) = places.get(n) else { return helped };
            let mut candidate = self.best.clone();
            tree::replace(&mut candidate.http, place, vec![]);
            if self.try_out(candidate) {
                helped = true;
                continue;
            }
            // What is inside may do without the block around it.
            let mut candidate = self.best.clone();
            let inside = tree::get(&mut candidate.http, place).and_then(|node| node.block.clone());
            if let Some(inside) = inside.filter(|i| !i.is_empty()) {
                tree::replace(&mut candidate.http, place, inside);
                if self.try_out(candidate) {
                    helped = true;
                    continue;
                }
            }
            n += 1;
        }
    }

    /// Leaves out words of directives, and pieces of words.
    fn words(&mut self) -> bool {
        let mut helped = false;
        for place in tree::places(&self.best.http) {
            let mut n = 1;
            while let Some(node) = tree::get(&mut self.best.http, &place) {
                let Some(word) = node.words.get(n).cloned() else { break };
                let count = node.words.len();
                let mut shorter = vec![None];
                // A quoted text without one of its pieces.
                if let Some(text) = word.strip_prefix('"').and_then(|w| w.strip_suffix('"')) {
                    let cuts: Vec<usize> =
                        text.match_indices(['$', '/', '|', '?']).map(|(at, _)| at).collect();
                    for (from, to) in cuts.iter().zip(cuts.iter().skip(1).chain([&text.len()])) {
                        shorter.push(Some(format!("\"{}{}\"", &text[..*from], &text[*to..])));
                    }
                    shorter.push(cuts.first().map(|at| format!("\"{}\"", &text[..*at])));
                }
                let mut taken = false;
                for new in shorter {
                    // The name and one argument stay.
                    if new.is_none() && count <= 2 {
                        continue;
                    }
                    let mut candidate = self.best.clone();
                    let Some(node) = tree::get(&mut candidate.http, &place) else { break };
                    match new {
                        None => drop(node.words.remove(n)),
                        Some(new) => node.words[n] = new,
                    }
                    if self.try_out(candidate) {
                        taken = true;
                        break;
                    }
                }
                helped |= taken;
                if !taken {
                    n += 1;
                }
            }
        }
        helped
    }

    /// Leaves out headers, bodies, queries and the kept connection.
    fn headers(&mut self) -> bool {
        let mut helped = false;
        for at in 0..self.best.requests.len() {
            let mut n = 0;
            while n < self.best.requests[at].headers.len() {
                let mut candidate = self.best.clone();
                candidate.requests[at].headers.remove(n);
                if self.try_out(candidate) {
                    helped = true;
                } else {
                    n += 1;
                }
            }
            let changes: [fn(&mut crate::case::Request); 5] = [
                |request| request.options.version = None,
                |request| request.options.body = None,
                |request| request.method = "GET".into(),
                |request| {
                    request.target = request.target.split('?').next().unwrap_or_default().into();
                },
                |request| request.options.conn = None,
            ];
            for change in changes {
                let mut candidate = self.best.clone();
                let request = &mut candidate.requests[at];
                let before = format!("{request:?}");
                change(request);
                if before != format!("{request:?}") {
                    helped |= self.try_out(candidate);
                }
            }
        }
        helped
    }

    /// Leaves out answers of the upstream, the last ones first.
    fn replies(&mut self) {
        for n in (0..self.best.replies.len()).rev() {
            let mut candidate = self.best.clone();
            candidate.replies.remove(n);
            self.try_out(candidate);
        }
    }

    fn files(&mut self) {
        let mut n = 0;
        let mut candidate = self.best.clone();
        candidate.files.clear();
        if self.try_out(candidate) {
            return;
        }
        while n < self.best.files.len() {
            let mut candidate = self.best.clone();
            candidate.files.remove(n);
            if !self.try_out(candidate) {
                n += 1;
            }
        }
    }
}
