//! Compares: the stated statuses with what came, and one transcript with the other.

use crate::case::{Case, Step};
use crate::transcript::Transcript;

/// The statuses that the case states, in the order of its answers.
fn stated(case: &Case) -> Vec<String> {
    let mut all: Vec<String> =
        case.checks.iter().map(|c| if c.accepted { "ok" } else { "no" }.into()).collect();
    for step in &case.script {
        match step {
            Step::Request(request) if !request.options.send => {
                for n in 0..request.options.repeat {
                    // One status for all, or one for each.
                    all.push(request.expect.get(n).or(request.expect.last()).cloned().unwrap_or_default());
                }
            }
            Step::Raw { expect, options, .. } if !options.send => all.extend(expect.iter().cloned()),
            Step::Read { expect, .. } | Step::Frames { expect, .. } | Step::Reload { expect } => {
                all.extend(expect.iter().cloned())
            }
            _ => {}
        }
    }
    all
}

/// Checks the stated statuses; the error shows the transcript.
pub fn statuses(case: &Case, got: &Transcript) -> Result<(), String> {
    let stated = stated(case);
    if stated == got.statuses {
        return Ok(());
    }
    Err(format!("stated {}\ncame   {}\n{}", stated.join(" "), got.statuses.join(" "), got.lines.join("\n")))
}

/// Compares line by line, after the differences on purpose have been applied to nginx's lines.
pub fn transcripts(
    case: &Case,
    nginx: &Transcript,
    ours: &Transcript,
    same_server: bool,
) -> Result<(), String> {
    let mut expected = nginx.lines.clone();
    let mut ours = ours.lines.clone();
    if !same_server {
        for difference in &case.differs {
            if let Some((step, status)) = &difference.step {
                cut_step(&mut expected, step)?;
                let lines = cut_step(&mut ours, step)?;
                let answered =
                    |l: &'_ String| l.strip_prefix("< HTTP/")?.split(' ').nth(1).map(str::to_owned);
                let ended = |word: &str| lines.iter().any(|l| l.trim_start().starts_with(word));
                let unanswered = ["reset", "closed", "no answer"].into_iter().find(|word| ended(word));
                let is = lines.iter().find_map(answered).or(unanswered.map(str::to_owned));
                let is = is.as_ref();
                if is != Some(status) {
                    return Err(format!("`differs` expects {status} for {step}:\n{}", lines.join("\n")));
                }
                continue;
            }
            match (&difference.nginx, &difference.ours) {
                (Some(theirs), replacement) => {
                    let before = expected.len();
                    let mut found = false;
                    expected = expected
                        .into_iter()
                        .filter_map(|line| {
                            if line != *theirs {
                                return Some(line);
                            }
                            found = true;
                            replacement.clone()
                        })
                        .collect();
                    if !found {
                        return Err(format!(
                            "`differs` names a line that nginx does not give ({before} lines): {theirs}"
                        ));
                    }
                }
                (None, Some(added)) => {
                    let Some(at) = ours.iter().position(|l| l == added) else {
                        return Err(format!(
                            "`differs` names a line that is not given: {added}\n{}",
                            ours.join("\n")
                        ));
                    };
                    ours.remove(at);
                }
                (None, None) => {}
            }
        }
    }
    // Where nginx refuses a configuration and names no line, ours may name one.
    for (theirs, mine) in expected.iter().zip(&mut ours) {
        if theirs == "  refused at no line" && mine.starts_with("  refused at line") && !mine.contains(", as")
        {
            mine.clone_from(theirs);
        }
    }
    if expected == ours || with_logs_sorted(&expected) == with_logs_sorted(&ours) {
        return Ok(());
    }
    Err(format!("{}\n{}", case.title, diff(&expected, &ours)))
}

/// A transcript whose log lines stand in an order of their own: nginx logs what it refuses only after it has waited
/// for the client to leave, which a request on another connection may overtake.
fn with_logs_sorted(lines: &[String]) -> Vec<String> {
    let mut sorted = lines.to_vec();
    for block in sorted.chunk_by_mut(|a, b| a.starts_with("log ") && b.starts_with("log ")) {
        block.sort();
    }
    sorted
}

/// Takes the lines of a step, the first of that name, out of a transcript.
fn cut_step(lines: &mut Vec<String>, step: &str) -> Result<Vec<String>, String> {
    let name = format!("> {step}");
    let from =
        lines.iter().position(|l| *l == name).ok_or_else(|| format!("`differs` names no step: {step}"))?;
    let to = lines[from + 1..].iter().position(|l| l.starts_with("> ")).map_or(lines.len(), |n| from + 1 + n);
    Ok(lines.drain(from..to).collect())
}

/// A line diff: ` ` common, `-` nginx only, `+` ours only.
pub fn diff(a: &[String], b: &[String]) -> String {
    // Longest common subsequence, by table: transcripts are short.
    let mut table = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            table[i][j] =
                if a[i] == b[j] { table[i + 1][j + 1] + 1 } else { table[i + 1][j].max(table[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = vec!["--- nginx   +++ under test".to_owned()];
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            out.push(format!("  {}", a[i]));
            i += 1;
            j += 1;
        } else if j == b.len() || (i < a.len() && table[i + 1][j] >= table[i][j + 1]) {
            out.push(format!("- {}", a[i]));
            i += 1;
        } else {
            out.push(format!("+ {}", b[j]));
            j += 1;
        }
    }
    out.join("\n")
}
