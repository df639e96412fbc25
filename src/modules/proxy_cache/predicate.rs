//! `proxy_cache_bypass` and `proxy_no_cache`: values that hold when neither empty nor `0`.

use crate::conf::{Builder, ConfResult};
use crate::http::request::Request;
use crate::http::template::Template;
use crate::http::vars::{VarId, VarKind};

/// A value that holds or not.
#[derive(Clone, Debug)]
pub struct Predicate {
    value: Template,
    /// The variables in it, as far as they may depend on the answer.
    variables: Vec<VarId>,
    /// Whether one speaks of the answer itself.
    of_answer: bool,
}

impl Predicate {
    /// Compiles a value.
    pub fn compile(text: &str, b: &mut Builder) -> ConfResult<Predicate> {
        let value = b.template(text)?;
        let mut predicate = Predicate { value, variables: Vec::new(), of_answer: false };
        for rest in text.split('$').skip(1) {
            let rest = rest.strip_prefix('{').unwrap_or(rest);
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            // A capture is a number, and the request's own.
            if name.starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            let name = name.to_ascii_lowercase();
            predicate.of_answer |= name.starts_with("upstream_") || name.starts_with("sent_http_");
            predicate.variables.push(b.variable(&name));
        }
        Ok(predicate)
    }

    /// Whether it may hold for one answer and not for another. A variable that a block computes
    /// (`map`) may be computed from anything.
    pub fn depends_on_answer(&self, rq: &Request) -> bool {
        let computed = |id: &VarId| matches!(rq.http().vars[*id as usize].kind, VarKind::Computed(_));
        self.of_answer || self.variables.iter().any(computed)
    }

    /// Whether it holds.
    pub fn holds(&self, rq: &Request) -> bool {
        let value = self.value.eval(rq);
        !value.is_empty() && &value[..] != b"0"
    }
}

/// Whether any of them holds.
pub fn any(predicates: &[Predicate], rq: &Request) -> bool {
    predicates.iter().any(|p| p.holds(rq))
}
