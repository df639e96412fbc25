//! A client's request as the cache sees it, and a plan as the cache sends it.

use super::predicate;
use crate::cache::entry::Validators;
use crate::cache::fill::Home;
use crate::cache::filler::Upstream;
use crate::cache::serve::Viewer;
use crate::http::head::Head;
use crate::http::request::Request;
use crate::http::response::Fields;
use crate::observe::error_log::Level;
use crate::upstream::{Answer, Failure, Plan};
use bytes::Bytes;
use std::sync::Arc;

/// A plan.
pub struct Planned(pub Plan);

impl Upstream for Planned {
    async fn fetch(mut self, validators: Option<Validators>) -> Result<Answer, Failure> {
        if let Some(Validators { etag, last_modified }) = validators {
            if let Some(etag) = etag {
                self.0.fields.set("If-None-Match", etag);
            }
            if let Some(time) = last_modified {
                self.0.fields.set("If-Modified-Since", time);
            }
        }
        self.0.fetch().await
    }
}

/// A request.
pub struct Asking<'a>(pub &'a mut Request);

/// What a plan for a request that is kept leaves out.
const LEFT_OUT: [(&str, &str); 6] = [
    ("range", "Range"),
    ("if-range", "If-Range"),
    ("if-match", "If-Match"),
    ("if-none-match", "If-None-Match"),
    ("if-modified-since", "If-Modified-Since"),
    ("if-unmodified-since", "If-Unmodified-Since"),
];

impl Viewer for Asking<'_> {
    type Upstream = Planned;

    fn head(&self) -> &Head {
        &self.0.head
    }

    fn no_cache(&mut self, answer: Option<(u16, &Fields)>) -> bool {
        if let Some((_, fields)) = answer {
            self.0.upstream_fields = Some(Arc::new(fields.clone()));
        }
        predicate::any(&self.0.loc().proxy_cache.no_cache, self.0)
    }

    fn lost_patience(&mut self) {
        crate::observe::request_log(self.0, Level::Info, format_args!("cache lock timeout"));
    }

    fn home(&self) -> Option<Arc<dyn Home>> {
        Some(self.0.local.worker.clone())
    }

    fn plain(&mut self, upstream: &mut Planned) {
        let fields = &mut upstream.0.fields;
        for (name, written) in LEFT_OUT {
            // What `proxy_set_header` put there stays.
            if fields.get(name).is_none() {
                for value in self.0.head.all(name) {
                    fields.add_static(written, Bytes::copy_from_slice(value));
                }
            }
        }
    }
}
